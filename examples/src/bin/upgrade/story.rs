//! The upgrade, step by step, and what must be true at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use heirloom_examples::gateway::Gateway;
use heirloom_examples::load::{Counts, Load, Plan};
use heirloom_examples::process::{Running, free_address};
use heirloom_examples::scrape::{Seen, Watcher, get, sum};

use crate::Options;
use crate::heirloom::{Answer, Sidecar, myself};
use crate::report::{Report, milliseconds};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const V1: &str = "1.0.0";
const V2: &str = "2.0.0";

/// Everything that runs. Fields are dropped in this order: the gateway first, the sidecar last, then their files.
struct Stage {
    gateway: Option<Gateway>,
    addresses: BTreeMap<&'static str, SocketAddr>,
    /// Where customers come without a gateway.
    kept: Option<SocketAddr>,
    sidecar: Sidecar,
    dir: tempfile::TempDir,
    phase: Duration,
}

/// Runs the whole demo; false if anything was lost.
pub(crate) async fn tell(options: Options) -> Result<bool> {
    let began = Instant::now();
    // Regions belong on tmpfs; the temporary directory of many machines is not.
    let dir = tempfile::Builder::new().prefix("heirloom-demo-").tempdir_in(tmpfs())?;
    let sidecar = Sidecar::start(dir.path(), free_address()?)?;
    await_ok(sidecar.http, "/healthz").await?;
    let addresses = BTreeMap::from([(V1, free_address()?), (V2, free_address()?)]);
    let servers: Vec<SocketAddr> = addresses.values().copied().collect();
    let gateway = if options.direct || !Gateway::installed() {
        None
    } else {
        Some(Gateway::start(dir.path(), free_address()?, &servers)?)
    };
    let kept = if gateway.is_some() { None } else { Some(free_address()?) };
    introduce(gateway.as_ref(), &addresses, kept);
    let stage = Stage { gateway, addresses, kept, sidecar, dir, phase: options.phase };

    let v1 = stage.open(V1)?;
    stage.await_owner(V1).await?;
    let targets: Vec<SocketAddr> = stage.gateway.as_ref().map(Gateway::address).or(kept).into_iter().collect();
    // The gateway's health check has to see the first owner before anybody asks.
    await_any_owner(&targets).await?;
    let load = Load::start(Plan { targets, customers: options.customers, think: Duration::from_millis(2) });
    let watcher = Watcher::start(stage.sidecar.http);
    let mut report = Report::new();
    let last = stage.acts(&mut report, &load, v1).await?;

    let (visits, counts) = load.stop().await;
    let seen = watcher.stop(stage.sidecar.http).await;
    let table = stage.table(V1).await?;
    println!("\nAt the end, after {:.0} s:", began.elapsed().as_secs_f64());
    judge(&mut report, options.customers, &visits, &counts, &table, &seen);
    judge_history(&mut report, &visits, &stage.history(V1).await?);
    let verified = stage.sidecar.call(&["verify", "shop"]).await?;
    report.verdict(verified.exit_code == Some(0), "every checksum of the region holds (heirloom verify shop)");
    stage.close(last)?;
    println!("\n{}", if report.all_well() { "Nothing was lost." } else { "SOMETHING WAS LOST." });
    Ok(report.all_well())
}

fn introduce(gateway: Option<&Gateway>, addresses: &BTreeMap<&'static str, SocketAddr>, kept: Option<SocketAddr>) {
    let versions: Vec<String> = addresses.iter().map(|(version, address)| format!("{version} at {address}")).collect();
    println!("Shop in two versions: {}.", versions.join(", "));
    match gateway {
        Some(gateway) => {
            let version = Gateway::version().unwrap_or_else(|| "HAProxy".into());
            println!("Through {} at {}, both as servers of one backend.", version, gateway.address());
        }
        None => {
            let kept = kept.map_or_else(String::new, |kept| kept.to_string());
            println!("Without a gateway: customers come to {kept}, whose socket Heirloom keeps for the owner.");
        }
    }
}

impl Stage {
    /// The upgrade itself. Gives the instance that owns at the end.
    async fn acts(&self, report: &mut Report, load: &Load, mut v1: Running) -> Result<Running> {
        let counts = load.counts();
        self.play().await;
        report.step("v1 alone", V1, None, counts);

        let mut v2 = self.open(V2)?;
        self.wait_for(&format!("eligible={V2}")).await?;
        let answer = self.switch(&["handover", "shop", V2]).await?;
        self.play().await;
        report.step("hand over to v2", V2, Some(&answer), counts);

        let answer = self.switch(&["rollback", "shop"]).await?;
        self.play().await;
        report.step("roll back to v1", V1, Some(&answer), counts);

        let answer = self.switch(&["handover", "shop", V2]).await?;
        self.play().await;
        report.step("hand over to v2 again", V2, Some(&answer), counts);

        // v1 has done its part. It stands by, owns nothing, and ends in order.
        self.end(&mut v1)?;
        self.play().await;
        report.step("v1 leaves", V2, None, counts);

        // Nobody stands by when v2 ends: the state waits for the next one. Requests wait with it, and none fails.
        let vacant = Instant::now();
        self.end(&mut v2)?;
        let mut v2 = self.open(V2)?;
        self.await_owner(V2).await?;
        let vacant = vacant.elapsed();
        self.play().await;
        report.step("restart v2 in place (succession)", V2, self.last_switch().await?.as_ref(), counts);
        println!("    no owner for {}: requests were asked again, not lost", milliseconds(vacant));

        let v1 = self.open(V1)?;
        self.wait_for(&format!("eligible={V1}")).await?;
        let killed = Instant::now();
        v2.kill()?;
        self.await_owner(V1).await?;
        let killed = killed.elapsed();
        self.play().await;
        report.step("kill v2 (promotion of v1)", V1, self.last_switch().await?.as_ref(), counts);
        println!("    v1 owned {} after SIGKILL was sent", milliseconds(killed));
        Ok(v1)
    }

    async fn play(&self) {
        tokio::time::sleep(self.phase).await;
    }

    /// Starts one instance of the shop.
    fn open(&self, version: &'static str) -> Result<Running> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("shop.log"))?;
        let mut command = myself("shop")?;
        command.arg(version).arg(self.sidecar.socket()).arg(self.addresses[version].to_string());
        command.args(self.kept.map(|kept| kept.to_string()));
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Running::start(&format!("shop {version}"), &mut command)?)
    }

    /// Ends an instance as a service manager does.
    fn end(&self, shop: &mut Running) -> Result<()> {
        let status = shop.terminate(Duration::from_secs(10))?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(self.dir.path().join("shop.log")).unwrap_or_default();
        Err(format!("{} ended with {status}: {said}", shop.name()).into())
    }

    async fn await_owner(&self, version: &'static str) -> Result<()> {
        await_ok(self.addresses[version], "/ready").await.map_err(|e| {
            let said = std::fs::read_to_string(self.dir.path().join("shop.log")).unwrap_or_default();
            format!("{version} does not own: {e}; the shop said: {said}").into()
        })
    }

    async fn wait_for(&self, condition: &str) -> Result<()> {
        let answer = self.sidecar.call(&["wait", "shop", "--for", condition, "--timeout", "30s"]).await?;
        match answer.exit_code {
            Some(0) => Ok(()),
            code => Err(format!("heirloom wait --for {condition}: exit code {code:?}: {}", answer.json).into()),
        }
    }

    /// A handover or a rollback, which must be committed.
    async fn switch(&self, args: &[&str]) -> Result<Answer> {
        let answer = self.sidecar.call(args).await?;
        if answer.word("outcome") != "committed" {
            return Err(
                format!("heirloom {}: expected outcome committed, found {}", args.join(" "), answer.json).into()
            );
        }
        Ok(answer)
    }

    /// The newest entry of the region's history: what the sidecar did by itself.
    async fn last_switch(&self) -> Result<Option<Answer>> {
        let mut answer = self.sidecar.call(&["history", "shop", "-n", "1"]).await?;
        let Some(newest) = answer.json.get_mut(0) else { return Ok(None) };
        answer.json = newest.take();
        Ok(Some(answer))
    }

    async fn table(&self, version: &'static str) -> Result<BTreeMap<String, u64>> {
        Ok(serde_json::from_str(&get(self.addresses[version], "/sessions").await?)?)
    }

    async fn history(&self, version: &'static str) -> Result<BTreeMap<String, Vec<f64>>> {
        Ok(serde_json::from_str(&get(self.addresses[version], "/history").await?)?)
    }

    fn close(self, mut shop: Running) -> Result<()> {
        self.end(&mut shop)?;
        drop(self.gateway);
        self.sidecar.stop()?;
        Ok(self.dir.close()?)
    }
}

/// What must be true at the end.
fn judge(
    report: &mut Report,
    customers: usize,
    visits: &BTreeMap<String, u64>,
    counts: &Counts,
    table: &BTreeMap<String, u64>,
    seen: &Seen,
) {
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (sent, acknowledged, failed) = (read(&counts.sent), read(&counts.acknowledged), read(&counts.failed));
    report.verdict(failed == 0 && sent == acknowledged, &format!("{sent} requests sent, {failed} failed"));
    let by_version: Vec<String> = counts.by_version().iter().map(|(v, n)| format!("{n} by {v}")).collect();
    report.verdict(by_version.len() == 2, &format!("acknowledged: {}", by_version.join(", ")));
    let wrong = read(&counts.wrong);
    report.verdict(wrong == 0, &format!("{wrong} answers differed from what the customer had counted"));
    let exact = table == visits && visits.len() == customers && visits.values().sum::<u64>() == acknowledged;
    let stored: u64 = table.values().sum();
    report.verdict(
        exact,
        &format!("session table: {stored} visits of {} customers, each exactly as counted outside", table.len()),
    );

    let value = |name: &str, labels: &[&str]| sum(&seen.last, name, labels).unwrap_or(f64::NAN);
    report.verdict(
        seen.faults.is_empty(),
        &format!("{} scrapes of /metrics, no counter ever went back or vanished", seen.scrapes),
    );
    // Whole numbers far below 2^53: exact in f64.
    let (total, replays) = (value("shop_requests_total", &["path=\"/visit\""]), value("shop_replays_total", &[]));
    let (least, most) = (acknowledged as f64, acknowledged as f64 + replays);
    let in_flight = customers as f64;
    report.verdict(
        total >= least && total <= most + in_flight && total >= most - in_flight,
        &format!("counter: {total} answers counted, {acknowledged} acknowledged, {replays} of requests asked twice"),
    );
    let observed = value("shop_request_seconds_count", &[]);
    report.verdict(observed >= total && observed <= total + in_flight, &format!("histogram: {observed} answers timed"));
    let open = value("shop_open_requests", &[]);
    report.verdict(
        open == 0.0,
        &format!("gauge: {open} requests open at rest, though an owner was killed amid its requests"),
    );
    for fault in seen.faults.iter().take(5).cloned().chain(counts.first_fault()) {
        println!("      {fault}");
    }
}

/// Every acknowledged visit is a sample of its customer's series.
fn judge_history(report: &mut Report, visits: &BTreeMap<String, u64>, history: &BTreeMap<String, Vec<f64>>) {
    let (mut acknowledged, mut missing) = (0, 0);
    for (customer, visits) in visits {
        // Whole numbers far below 2^53: exact in f64.
        let kept: BTreeSet<u64> = history.get(customer).into_iter().flatten().map(|visit| *visit as u64).collect();
        acknowledged += visits;
        missing += (1..=*visits).filter(|visit| !kept.contains(visit)).count();
    }
    let samples: usize = history.values().map(Vec::len).sum();
    let series = history.len();
    report.verdict(
        missing == 0 && series == visits.len(),
        &format!(
            "series: {samples} samples of {series} series crossed, {missing} of {acknowledged} acknowledged missing"
        ),
    );
}

fn tmpfs() -> &'static Path {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm } else { Path::new("/tmp") }
}

/// Asks until the answer is 200.
async fn await_ok(address: SocketAddr, path: &str) -> std::result::Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match get(address, path).await {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() > deadline => return Err(e),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

async fn await_any_owner(targets: &[SocketAddr]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for &target in targets {
            if get(target, "/ready").await.is_ok() {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            return Err(format!("nobody at {targets:?} answers /ready with 200 within 10 s").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
