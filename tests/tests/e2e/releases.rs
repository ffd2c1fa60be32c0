//! Two releases beside each other: what the other one knows beyond us is passed over, never guessed.

use std::path::Path;

use heirloom_client::{Hooks, Serving, attach};
use heirloom_tests::cli::{Answer, call, helper};
use heirloom_tests::host::Host;
use heirloom_tests::newer::Newer;

fn heirloom(socket: &Path, args: &[&str]) -> Answer {
    call(helper("heirloom").arg("--socket").arg(socket), args)
}

async fn join(socket: &Path, version: &str) -> Serving {
    let attached = attach("shop").version(version).socket(socket).await.expect("attached");
    attached.ready(Hooks::new()).await.expect("ready")
}

/// Every message between them has fields that neither knows, at every depth, and attached streams have messages of a kind that
/// neither knows: a newer client and command line for this sidecar, a newer sidecar for this client and command line.
#[test]
fn clients_and_command_line_work_with_peers_that_know_more() {
    let host = Host::start();
    let newer = Newer::before(&host.socket(), &host.dir().join("newer.sock"));
    let socket = newer.socket();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut old = runtime.block_on(join(socket, "1.0.0"));
    let term = runtime.block_on(old.next_term()).expect("it owns");
    let mut new = runtime.block_on(join(socket, "2.0.0"));
    let status = heirloom(socket, &["status", "shop"]);
    let found = &status.json[0];
    assert_eq!((status.exit_code, &found["owner"]["version"], &found["state"]), (0, &"1.0.0".into(), &"owned".into()));
    heirloom(socket, &["handover", "shop", "2.0.0", "--wait-ready", "10s"]).expect("committed", 0);
    runtime.block_on(term.ended());
    let term = runtime.block_on(new.next_term()).expect("it owns");
    heirloom(socket, &["wait", "shop", "--for", "owner=2.0.0"]).expect("met", 0);
    assert_eq!(heirloom(socket, &["history", "shop"]).json[0]["outcome"], "committed");
    heirloom(socket, &["verify", "shop"]).expect("intact", 0);
    let refused = heirloom(socket, &["handover", "shop", "9.0.0"]);
    assert_eq!(refused.exit_code, 3, "{refused:?}");
    heirloom(socket, &["rollback", "shop"]).expect("committed", 0);
    runtime.block_on(term.ended());
    assert!(runtime.block_on(old.next_term()).is_some(), "it owns again");
}
