//! Two thousand handovers back to back between two living instances that both count, while whoever owns writes.

use heirloom_tests::cli::Answer;
use heirloom_tests::host::Host;
use heirloom_tests::instance::Instance;
use serde_json::{Value, json};

const HANDOVERS: u64 = 2_000;

/// What an instance recorded for itself.
struct Sums {
    counted: u64,
    written: u64,
}

fn stop(instance: &mut Instance) -> Sums {
    let stopped = instance.tell("stop")["value"].clone();
    assert_eq!(stopped["faults"], json!([]), "{}: {stopped}", instance.version());
    let sum = |kind: &str| -> u64 {
        stopped[kind].as_object().map(|o| o.values().filter_map(Value::as_u64).sum()).unwrap_or_default()
    };
    Sums { counted: sum("counted"), written: sum("written") }
}

#[test]
fn counts_and_writes_are_exact_after_two_thousand_handovers() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    for instance in [&mut old, &mut new] {
        instance.tell("count hits_total 2");
        instance.tell("churn ledger");
    }
    let mut generation = host.status("shop")["generation"].as_u64().expect("a generation");
    let mut control = heirloom_tests::grpc::Control::connect(&host);
    let mut frozen = Vec::new();
    for i in 0..HANDOVERS {
        let target = if i % 2 == 0 { "2.0.0" } else { "1.0.0" };
        let record = control.handover("shop", target).unwrap_or_else(|e| panic!("handover {i}: {e}"));
        generation += 1;
        assert_eq!(record.generation, generation, "handover {i}: {record:?}");
        frozen.push(record.figures.unwrap_or_default().gate_closed_us);
    }
    let (a, b) = (stop(&mut old), stop(&mut new));
    assert_eq!(old.number("total hits_total"), a.counted + b.counted);
    assert_eq!(new.number("total hits_total"), a.counted + b.counted);
    assert!(a.written > 0 && b.written > 0, "both wrote: {} and {}", a.written, b.written);
    let ledger = old.tell("read ledger")["value"].clone();
    assert_eq!(ledger["sequence"], a.written + b.written, "{ledger}");
    let by: Vec<u64> = ledger["by"].as_object().expect("a table").values().filter_map(Value::as_u64).collect();
    assert_eq!(by.iter().sum::<u64>(), a.written + b.written, "{ledger}");
    assert_eq!(host.metric("hits_total"), (a.counted + b.counted) as f64);
    let verified: Answer = host.call(&["verify", "shop"]);
    assert_eq!(verified.exit_code, 0, "{} {}", verified.json, verified.stderr);
    frozen.sort_unstable();
    println!("gate closed: median {} µs, longest {} µs", frozen[frozen.len() / 2], frozen[frozen.len() - 1]);
}
