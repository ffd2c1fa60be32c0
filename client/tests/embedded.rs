//! What a user's own tests look like: two versions, the real switch, no sidecar.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use heirloom_client::embedded::{Embedded, NotDone};
use heirloom_client::error::{Incompatible, Misuse};
use heirloom_client::{
    Cause, Cell, Error, Exposition, Hooks, IfAbsent, Link, Role, Serving, Term, Veto, WriteError, attach, wait,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

type Cart = Vec<String>;
type Result<T = (), E = Box<dyn StdError>> = std::result::Result<T, E>;

/// Longest that a test waits for a state.
const SOON: Duration = Duration::from_secs(20);

async fn version(arbiter: &Embedded, v: &str, hooks: Hooks) -> Result<(Serving, Cell<Cart>), Error> {
    let at = arbiter.attach(v).await?;
    let cart = at.region().cell::<Cart>("cart").open()?;
    Ok((at.ready(hooks).await?, cart))
}

async fn term(s: &mut Serving) -> Term {
    soon(s.next_term()).await.expect("not asked to leave")
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

/// Waits for a role, by the stream that services follow.
async fn role(s: &Serving, wanted: impl Fn(Role) -> bool) -> Role {
    let mut roles = s.region().roles();
    soon(async {
        loop {
            let now = roles.current().role;
            if wanted(now) {
                return now;
            }
            roles.changed().await.expect("attached");
        }
    })
    .await
}

#[tokio::test]
async fn state_crosses_and_comes_back() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, cart1) = version(&arbiter, "v1", Hooks::new()).await?;
    let (mut v2, cart2) = version(&arbiter, "v2", Hooks::new()).await?;
    let t1 = term(&mut v1).await;
    assert_eq!((t1.cause(), t1.previous()), (Cause::First, None));
    cart1.update(&t1, |c| c.push("tea".into()))?;

    let done = arbiter.handover("v2").await?;
    let t2 = term(&mut v2).await;
    assert_eq!((t2.generation(), t2.cause()), (done.generation, Cause::Handover));
    assert_eq!(t2.previous().map(|p| p.version), Some("v1".into()));
    assert_eq!(cart2.load()?, ["tea"]);
    soon(t1.ended()).await;
    assert!(!t1.is_current() && t2.is_current());
    match cart1.set(&t1, &vec![]) {
        Err(WriteError::Fenced(f)) => assert!(!f.owns_again && !f.nothing_written, "{f:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(v1.region().term().map(|_| ()).unwrap_err().owner.map(|o| o.version), Some("v2".into()));
    assert!(arbiter.handover("v2").await?.already);

    cart2.update(&t2, |c| c.push("cup".into()))?;
    arbiter.rollback().await?;
    match cart1.set(&t1, &vec![]) {
        Err(WriteError::Fenced(f)) => assert!(f.owns_again), // v1 owns, but what t1's holder read is stale
        other => panic!("{other:?}"),
    }
    assert_eq!(cart1.load()?, ["tea", "cup"]);
    let again = term(&mut v1).await;
    assert_eq!(again.cause(), Cause::Rollback);
    assert!(matches!(cart1.set(&t2, &vec![]), Err(WriteError::Misuse(Misuse::ForeignTerm { .. }))));
    Ok(())
}

#[tokio::test]
async fn a_unit_of_work_that_wrote_nothing_says_so() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, cart) = version(&arbiter, "v1", Hooks::new()).await?;
    let (_v2, _) = version(&arbiter, "v2", Hooks::new()).await?;
    let first = term(&mut v1).await;
    let wrote = v1.region().term()?;
    cart.set(&wrote, &vec!["tea".into()])?;
    arbiter.handover("v2").await?;
    for (unit, nothing_written) in [(first, true), (wrote, false)] {
        match cart.set(&unit, &vec![]) {
            Err(WriteError::Fenced(f)) => assert_eq!(f.nothing_written, nothing_written),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_veto_changes_nothing() -> Result {
    let arbiter = Embedded::new("shop")?;
    let resumed = Arc::new(Notify::new());
    let heard = resumed.clone();
    let hooks = Hooks::new().flush(|_| async { Err(Veto("compaction is running".into())) }).resume(move |r| {
        let heard = heard.clone();
        async move {
            assert!(r.term.is_current());
            heard.notify_one();
        }
    });
    let (mut v1, cart) = version(&arbiter, "v1", hooks).await?;
    let (v2, _) = version(&arbiter, "v2", Hooks::new()).await?;
    let t1 = term(&mut v1).await;
    match arbiter.handover("v2").await.unwrap_err() {
        NotDone::Aborted { phase: "flush", reason: "VETOED", message } => assert!(message.contains("compaction")),
        other => panic!("{other:?}"),
    }
    soon(resumed.notified()).await;
    cart.set(&t1, &vec!["same term, still good".into()])?;
    assert_eq!(v2.region().role(), Role::Standby { ready: true });
    Ok(())
}

#[tokio::test]
async fn prepare_refuses_and_a_panic_is_a_veto() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, _) = version(&arbiter, "v1", Hooks::new()).await?;
    let _t1 = term(&mut v1).await;
    let tries = Arc::new(AtomicU32::new(0));
    let hooks = Hooks::new().prepare(move |p| {
        let n = tries.fetch_add(1, Ordering::Relaxed);
        async move {
            assert_eq!(p.owner.map(|o| o.version).as_deref(), Some("v1"));
            match n {
                0 => Err(Veto("cold".into())),
                1 => panic!("a bug in a hook"),
                _ => Ok(()),
            }
        }
    });
    let (_v2, _) = version(&arbiter, "v2", hooks).await?;
    for words in ["cold", "panicked"] {
        match arbiter.handover("v2").await.unwrap_err() {
            NotDone::Refused { reason: "VETOED", message } => assert!(message.contains(words), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(arbiter.handover("v2").await?.owner.version, "v2");
    Ok(())
}

/// No executor at all, and a death instead of a handover.
/// A compare that failed has written nothing: the unit of work may be done again elsewhere.
#[tokio::test]
async fn a_write_that_lost_its_compare_is_none() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, cart) = version(&arbiter, "v1", Hooks::new()).await?;
    let (_v2, _) = version(&arbiter, "v2", Hooks::new()).await?;
    let (compares, writes) = (term(&mut v1).await, v1.region().term()?);
    let unborn = cart.load_versioned()?.stamp;
    cart.set(&writes, &vec!["tea".into()])?;
    assert!(!cart.compare_set(&compares, unborn, &vec![])?, "another stamp");
    arbiter.handover("v2").await?;
    for (unit, nothing_written) in [(compares, true), (writes, false)] {
        match cart.set(&unit, &vec![]) {
            Err(WriteError::Fenced(f)) => assert_eq!(f.nothing_written, nothing_written),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_standby_inherits() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, cart1) = wait(version(&arbiter, "v1", Hooks::new()))?;
    let (mut v2, cart2) = wait(version(&arbiter, "v2", Hooks::new()))?;
    let shares = v1.region().up_down_gauge("open_requests").open()?;
    let _request = shares.share();
    let mut served = || wait(v1.next_term()).expect("not asked to leave");
    let t1 = served();
    cart1.set(&t1, &vec!["tea".into()])?;
    arbiter.kill("v1");
    let t2 = wait(v2.next_term()).expect("not asked to leave");
    assert_eq!(t2.cause(), Cause::OwnerDied);
    assert_eq!(cart2.load()?, ["tea"]);
    assert!(matches!(cart1.set(&t1, &vec![]), Err(WriteError::Fenced(_))));
    assert_eq!(v2.region().up_down_gauge("open_requests").open()?.total(), 0);
    assert_eq!((v1.region().role(), wait(v1.next_term()).map(drop)), (Role::Left, None));
    Ok(())
}

#[tokio::test]
async fn leaving_passes_on_or_leaves_vacant() -> Result {
    let arbiter = Embedded::new("shop")?;
    let flushed = Arc::new(AtomicBool::new(false));
    let seen = flushed.clone();
    let hooks = Hooks::new().flush(move |f| {
        let seen = seen.clone();
        async move {
            assert_eq!(f.target.map(|t| t.version).as_deref(), Some("v2"));
            seen.store(true, Ordering::Relaxed);
            Ok(())
        }
    });
    let (mut v1, cart1) = version(&arbiter, "v1", hooks).await?;
    let (mut v2, cart2) = version(&arbiter, "v2", Hooks::new()).await?;
    cart1.set(&term(&mut v1).await, &vec!["tea".into()])?;
    let left = soon(v1.leave()).await?;
    assert!(flushed.load(Ordering::Relaxed));
    assert_eq!((left.owner.map(|o| o.version).as_deref(), left.undrained), (Some("v2"), 0));
    let t2 = term(&mut v2).await;
    assert_eq!(t2.cause(), Cause::OwnerLeft);
    cart2.update(&t2, |c| c.push("cup".into()))?;

    // Nobody is there: the state waits for who comes next.
    let left = soon(v2.leave()).await?;
    assert_eq!(left.owner, None);
    assert!(matches!(cart2.set(&t2, &vec![]), Err(WriteError::Fenced(_))));
    let (mut v3, cart3) = version(&arbiter, "v3", Hooks::new()).await?;
    assert_eq!(term(&mut v3).await.cause(), Cause::Succession);
    assert_eq!(cart3.load()?, ["tea", "cup"]);
    Ok(())
}

#[tokio::test]
async fn a_drain_waits_for_work_in_flight() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, _) = version(&arbiter, "v1", Hooks::new()).await?;
    let (_v2, _) = version(&arbiter, "v2", Hooks::new()).await?;
    let t1 = term(&mut v1).await;
    let request = v1.region().in_flight("requests");
    arbiter.handover("v2").await?;
    role(&v1, |r| r == Role::Draining(t1.generation())).await;
    drop(request);
    role(&v1, |r| r == Role::Standby { ready: true }).await;
    // A drained one may own again; a leaving one waits for its work.
    arbiter.rollback().await?;
    let request = v1.region().in_flight("requests");
    let region = v1.region().clone();
    let leaving = tokio::spawn(v1.leave());
    soon(async {
        let mut roles = region.roles();
        while matches!(roles.current().role, Role::Owner(_)) {
            roles.changed().await.expect("attached");
        }
    })
    .await;
    assert!(!leaving.is_finished());
    drop(request);
    assert_eq!(soon(leaving).await??.undrained, 0);
    Ok(())
}

#[tokio::test]
async fn run_serves_a_new_term_while_the_old_one_drains() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (v1, _) = version(&arbiter, "v1", Hooks::new()).await?;
    let (_v2, _) = version(&arbiter, "v2", Hooks::new()).await?;
    let (slow, stop, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    v1.leave_when(stop.clone().notified_owned());
    let terms = Arc::new(AtomicU32::new(0));
    let serving = {
        let (slow, begun, terms) = (slow.clone(), begun.clone(), terms.clone());
        tokio::spawn(v1.run(move |term| {
            let (slow, begun, n) = (slow.clone(), begun.clone(), terms.fetch_add(1, Ordering::SeqCst));
            async move {
                begun.notify_one();
                term.ended().await;
                if n == 0 {
                    slow.notified().await; // one slow request of the first term
                }
                Ok::<_, Error>(())
            }
        }))
    };
    soon(begun.notified()).await;
    arbiter.handover("v2").await?;
    arbiter.rollback().await?;
    soon(begun.notified()).await; // the first term is still draining
    slow.notify_one();
    stop.notify_one();
    assert_eq!(soon(serving).await??.owner.map(|o| o.version).as_deref(), Some("v2"));
    assert_eq!(terms.load(Ordering::SeqCst), 2);
    Ok(())
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Basket {
    items: Cart,
    voucher: Option<String>,
}

#[tokio::test]
async fn an_older_schema_is_read_and_written_beside_the_new_one() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, old) = version(&arbiter, "v1", Hooks::new()).await?;
    old.set(&term(&mut v1).await, &vec!["tea".into()])?;
    let at = arbiter.attach("v2").await?;
    let open = |region: &heirloom_client::Region| {
        let cell = region.cell::<Basket>("cart").schema(2);
        cell.reads(1, |items: Cart| Basket { items, voucher: None }).writes(1, |b: &Basket| b.items.clone()).open()
    };
    let new = open(at.region())?;
    let mut v2 = at.ready(Hooks::new()).await?;
    arbiter.handover("v2").await?;
    let t2 = term(&mut v2).await;
    assert_eq!(new.load()?, Basket { items: vec!["tea".into()], voucher: None });
    new.set(&t2, &Basket { items: vec!["cup".into()], voucher: Some("half".into()) })?;
    assert_eq!(new.load()?.voucher.as_deref(), Some("half"));
    assert_eq!(old.load()?, ["cup"]);
    arbiter.rollback().await?;
    Ok(())
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_never_handed_over() -> Result {
    let arbiter = Embedded::new("shop")?;
    // Opened before anything was written, so only the arbiter's verdict is left to say no.
    let at1 = arbiter.attach("v1").await?;
    let cart1 = at1.region().cell::<Cart>("cart").open()?;
    let at2 = arbiter.attach("v2").await?;
    let new = at2.region().cell::<Basket>("cart").schema(2).open()?;
    let mut v2 = at2.ready(Hooks::new()).await?;
    new.set(&term(&mut v2).await, &Basket::default())?;
    let late = arbiter.attach("v0").await?;
    match late.region().cell::<Cart>("cart").open().map(drop) {
        Err(Error::Incompatible(Incompatible::Schema { name, readable, found })) => {
            assert_eq!((name.as_str(), readable, found), ("cart", vec![1], 2));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(cart1.load(), Err(Error::Incompatible(Incompatible::Schema { found: 2, .. }))));
    match at1.ready(Hooks::new()).await {
        Err(e) => assert_eq!(e.reason(), "SCHEMA_UNREADABLE"),
        Ok(_) => panic!("it cannot read what is there"),
    }
    Ok(())
}

#[tokio::test]
async fn a_handover_to_who_cannot_read_is_refused() -> Result {
    let arbiter = Embedded::new("shop")?;
    let at1 = arbiter.attach("v1").await?;
    let new = at1.region().cell::<Basket>("cart").schema(2).open()?;
    let mut v1 = at1.ready(Hooks::new()).await?;
    let t1 = term(&mut v1).await;
    let (v2, _) = version(&arbiter, "v2", Hooks::new()).await?; // ready before the first write
    new.set(&t1, &Basket::default())?;
    match arbiter.handover("v2").await.unwrap_err() {
        NotDone::Refused { reason: "SCHEMA_UNREADABLE" | "TARGET_NOT_READY", message } => {
            assert!(message.contains("cart"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(t1.is_current());
    assert_eq!(v2.region().role(), Role::Standby { ready: true });
    Ok(())
}

#[tokio::test]
async fn cells_compare_and_set_and_keep_the_old_value_over_a_panic() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, cart) = version(&arbiter, "v1", Hooks::new()).await?;
    let t = term(&mut v1).await;
    let never = cart.load_versioned()?;
    assert_eq!((never.value.len(), never.generation), (0, None));
    assert!(cart.compare_set(&t, never.stamp, &vec!["tea".into()])?);
    assert!(!cart.compare_set(&t, never.stamp, &vec!["cup".into()])?);
    let tea = cart.load_versioned()?;
    assert_eq!((tea.value, tea.generation), (vec!["tea".to_owned()], Some(t.generation())));

    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cart.update(&t, |c| {
            c.clear();
            panic!("half-way")
        })
    }));
    assert!(panics.is_err());
    assert_eq!(cart.load()?, ["tea"]);
    let within = cart.update(&t, |_| cart.set(&t, &vec![]))?;
    assert!(matches!(within, Err(WriteError::Misuse(Misuse::Argument { .. }))), "{within:?}");
    assert_eq!(cart.load()?, ["tea"]);

    let small = v1.region().cell::<String>("note").bytes_max(8).open_or("none".into())?;
    assert_eq!(small.load()?, "none");
    match small.set(&t, &"x".repeat(100)) {
        Err(WriteError::Full(full)) => assert!(full.to_string().contains("at most 8"), "{full}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(small.load()?, "none");
    let twice = v1.region().cell::<String>("twice").reads(1, |s: String| s).open();
    assert!(matches!(twice.map(drop), Err(Error::Misuse(Misuse::Argument { what: "schema", .. }))));
    Ok(())
}

/// Two cells are written one after the other, always with the same number; a view never sees them apart by more than the
/// write under way, and never a later first with an earlier second.
#[test]
fn a_view_is_one_moment() -> Result {
    let arbiter = Embedded::new("shop")?;
    let at = arbiter.attach("v1").wait()?;
    let region = at.region().clone();
    let (a, b) = (region.cell::<u64>("a").open()?, region.cell::<u64>("b").open()?);
    let gauge = region.gauge("last").open()?;
    let mut v1 = wait(at.ready(Hooks::new()))?;
    let t = wait(v1.next_term()).expect("not asked to leave");
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| -> Result {
        threads.spawn(|| {
            for n in 1.. {
                a.set(&t, &n).expect("owner");
                b.set(&t, &n).expect("owner");
                gauge.set(&t, n as f64).expect("owner");
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::yield_now();
            }
        });
        let mut seen = 0;
        while seen < 200 {
            match region.read(|at| Ok((at.cell(&a)?, at.cell(&b)?, at.gauge(&gauge) as u64))) {
                Ok((a, b, last)) => {
                    assert!(a == b || a == b + 1, "{a} {b}");
                    assert!(b == last || b == last + 1, "{b} {last}");
                    seen += 1;
                }
                Err(Error::NotReady(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        stop.store(true, Ordering::Relaxed);
        Ok(())
    })
}

#[tokio::test]
async fn roles_are_a_stream_to_the_end() -> Result {
    use futures_util::StreamExt;
    let arbiter = Embedded::new("shop")?;
    let (mut v1, _) = version(&arbiter, "v1", Hooks::new()).await?;
    let roles = v1.region().roles();
    let t1 = term(&mut v1).await;
    let seen = tokio::spawn(roles.map(|change| change.role).collect::<Vec<_>>());
    soon(v1.leave()).await?;
    let seen = soon(seen).await?;
    assert_eq!(seen.last(), Some(&Role::Left), "{seen:?}");
    assert!(!seen.contains(&Role::Owner(t1.generation())) || seen[0] == Role::Owner(t1.generation()), "{seen:?}");
    Ok(())
}

/// The arbiter is gone: everything goes on but handovers; and the state is there for the next arbiter.
#[tokio::test]
async fn a_file_outlives_its_arbiter() -> Result {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let arbiter = Embedded::open("shop", dir.path())?;
    let (mut v1, cart) = version(&arbiter, "v1", Hooks::new()).await?;
    let hits = v1.region().counter("hits_total").open()?;
    let t1 = term(&mut v1).await;
    let outside = arbiter.observe()?;
    assert_eq!(outside.roles().current().owner.as_ref(), Some(v1.region().me()));
    drop(arbiter);
    hits.inc();
    cart.set(&t1, &vec!["tea".into()])?;
    let fresh = v1.region().cell::<u64>("made without an arbiter").open();
    assert!(matches!(fresh.map(drop), Err(Error::Misuse(_))), "a name has no spaces");
    v1.region().cell::<u64>("fresh").open()?.set(&t1, &7)?;
    assert_eq!(outside.cell::<Cart>("cart", 1)?, Some(vec!["tea".to_owned()]));
    assert_eq!(outside.cell::<u64>("nothing", 1)?, None);
    assert!(matches!(outside.cell::<Cart>("cart", 3), Err(Error::Incompatible(_))));
    let mut text = String::new();
    outside.encode_metrics(&mut text, Exposition::OpenMetrics)?;
    assert!(text.contains("hits_total 1\n") && text.ends_with("# EOF\n"), "{text}");

    // Without an arbiter the leaver flushes and goes by itself.
    let left = soon(v1.leave()).await?;
    assert_eq!((left.owner, left.why), (None, None));
    assert!(cart.load().is_ok());
    // Nobody closed the gate, yet who writes until it is told to stop is told.
    assert!(matches!(cart.set(&t1, &vec![]), Err(WriteError::Fenced(_))));
    drop((cart, hits, t1));

    let arbiter = Embedded::open("shop", dir.path())?;
    let (mut v2, cart) = version(&arbiter, "v2", Hooks::new()).await?;
    let t2 = term(&mut v2).await;
    assert_eq!((cart.load()?, t2.generation().get() > 2), (vec!["tea".to_owned()], true));
    assert_eq!(v2.region().counter("hits_total").open()?.total(), 1);
    Ok(())
}

#[test]
fn absent_sidecars() -> Result {
    let dir = tempfile::tempdir()?;
    let nowhere = || attach("shop").version("1").socket(dir.path().join("none.sock"));
    for choice in [IfAbsent::Fail, IfAbsent::Wait(Duration::from_millis(50))] {
        let error = nowhere().if_absent(choice).wait().map(drop).unwrap_err();
        assert_eq!(error.reason(), "UNREACHABLE");
        assert!(error.to_string().contains("none.sock"), "{error}");
    }
    let shop = nowhere().if_absent(IfAbsent::Local(Duration::ZERO)).wait()?;
    let region = shop.region().clone();
    let basket = region.cell::<Cart>("basket").open()?;
    region.histogram("wait_seconds").buckets(&[0.1]).open()?.observe(0.05);
    region.counter("hits_total").help("a \"b\"\n").label("path", "\\a").open()?.add(3);
    let mut serving = wait(shop.ready(Hooks::new()))?;
    let term = wait(serving.next_term()).expect("an owner at once");
    assert_eq!((term.cause(), region.link()), (Cause::First, Link::Local));
    basket.set(&term, &vec!["tea".into()])?;
    let mut text = String::new();
    region.encode_local_metrics(&mut text, Exposition::Prometheus)?;
    for line in [
        "heirloom_local_fallbacks_total 1\n",
        "# HELP hits_total a \"b\"\\n\n",
        "# TYPE hits_total counter\n",
        "hits_total{path=\"\\\\a\"} 3\n",
        "wait_seconds_bucket{le=\"0.1\"} 1\n",
        "wait_seconds_bucket{le=\"+Inf\"} 1\n",
        "wait_seconds_count 1\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    Ok(())
}

#[test]
fn families_and_names() -> Result {
    let arbiter = Embedded::new("shop")?;
    let at = arbiter.attach("v1").wait()?;
    let region = at.region();
    let hits = region.counter("hits_total").family(["path", "code"])?;
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for n in 0..100 {
                    let path = format!("/{}", n % 10);
                    hits.get([path.as_str(), "200"]).expect("room").inc();
                }
            });
        }
    });
    let totals: BTreeMap<_, _> =
        (0..10).map(|n| (n, hits.get([format!("/{n}").as_str(), "200"]).map(|c| c.total()).expect("room"))).collect();
    assert!(totals.values().all(|n| *n == 40), "{totals:?}");
    assert_eq!(hits.get(["/0", "404"])?.total(), 0);
    assert!(matches!(region.counter("hits total").open().map(drop), Err(Error::Misuse(Misuse::Name { .. }))));
    assert!(region.counter("a_total").family(["le bad"]).is_err());
    let mismatch = region.gauge("hits").family(["path", "code"])?.get(["/0", "200"]).map(drop);
    assert!(matches!(mismatch, Err(Error::Incompatible(Incompatible::Kind { .. }))), "{mismatch:?}");
    Ok(())
}

/// A hook that outlives its deadline aborts the handover; nothing else happens to it.
#[tokio::test]
async fn a_flush_that_never_returns_is_not_waited_for() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, cart) = version(&arbiter, "v1", Hooks::new().flush(|_| std::future::pending())).await?;
    let (_v2, _) = version(&arbiter, "v2", Hooks::new()).await?;
    let t1 = term(&mut v1).await;
    match soon(arbiter.handover("v2")).await.unwrap_err() {
        NotDone::Aborted { phase: "flush", reason: "FLUSH_TIMEOUT", .. } => {}
        other => panic!("{other:?}"),
    }
    cart.set(&t1, &vec!["tea".into()])?;
    Ok(())
}

#[tokio::test]
async fn a_death_without_a_standby_leaves_the_region_vacant() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, cart) = version(&arbiter, "v1", Hooks::new()).await?;
    let t1 = term(&mut v1).await;
    cart.set(&t1, &vec!["tea".into()])?;
    arbiter.kill("v1");
    assert!(matches!(cart.set(&t1, &vec![]), Err(WriteError::Fenced(_))));
    assert!(v1.next_term().await.is_none());
    let left = soon(v1.leave()).await?;
    assert_eq!(left.why.as_deref(), Some("killed"));
    let (mut v2, cart) = version(&arbiter, "v2", Hooks::new()).await?;
    assert_eq!(term(&mut v2).await.cause(), Cause::OwnerDied);
    assert_eq!(cart.load()?, ["tea"]);
    Ok(())
}

/// What nobody takes to an end leaves by itself.
#[tokio::test]
async fn dropping_leaves() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, _) = version(&arbiter, "v1", Hooks::new()).await?;
    let (mut v2, _) = version(&arbiter, "v2", Hooks::new()).await?;
    let _t1 = term(&mut v1).await;
    drop(arbiter.attach("v0").await?); // before it was ready
    drop(v1);
    assert_eq!(term(&mut v2).await.cause(), Cause::OwnerLeft);
    Ok(())
}
