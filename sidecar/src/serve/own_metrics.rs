//! The sidecar's own metrics: what it knows about its regions and what its handovers took.
//!
//! They count from the sidecar's start and say so in their start timestamps; the region's own counters are others and go
//! on for ever. Everything of one region bears `region`, as the region's own series do.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use heirloom_region::arbiter::{Record, RegionStatus, Role};

use super::exposition::{Family, Kind, Sample, Value};
use super::host::Host;
use super::hosts::{Hosts, Slot};
use super::remote_write::Progress;

/// How long an arbiter may take to say how its region is; a busy one is left out of the scrape.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

const SECONDS: &[f64] =
    &[0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
const ROUNDS: &[f64] = &[0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
const PAGES: &[f64] = &[0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0];

/// A histogram that this process alone counts.
#[derive(Clone, Debug)]
struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let at = self.bounds.iter().position(|b| value <= *b).unwrap_or(self.bounds.len());
        self.counts[at] += 1;
        self.sum += value;
    }

    fn value(&self) -> Value {
        Value::Histogram { bounds: self.bounds.into(), counts: self.counts.clone(), sum: self.sum }
    }
}

/// What the handovers of one region took.
#[derive(Clone, Debug)]
pub(crate) struct HandoverMetrics {
    since_unix_ms: u64,
    outcomes: BTreeMap<(String, String), u64>,
    phases: BTreeMap<String, Histogram>,
    blackout: Histogram,
    rounds: Histogram,
    frozen_pages: Histogram,
}

impl Default for HandoverMetrics {
    fn default() -> Self {
        HandoverMetrics {
            since_unix_ms: super::unix_ms(),
            outcomes: BTreeMap::new(),
            phases: BTreeMap::new(),
            blackout: Histogram::new(SECONDS),
            rounds: Histogram::new(ROUNDS),
            frozen_pages: Histogram::new(PAGES),
        }
    }
}

impl HandoverMetrics {
    /// A handover is decided.
    pub(crate) fn decided(&mut self, record: &Record) {
        self.answered(record.outcome.as_str(), record.reason.map_or("", |r| r.as_str()));
        let figures = &record.figures;
        for (phase, us) in &figures.phase_us {
            self.phases.entry(phase.clone()).or_insert_with(|| Histogram::new(SECONDS)).observe(*us as f64 / 1e6);
        }
        if let Some(us) = figures.writer_blackout_us {
            self.blackout.observe(us as f64 / 1e6);
        }
        self.rounds.observe(figures.precopy_rounds.into());
        self.frozen_pages.observe(figures.frozen_pages as f64);
    }

    /// A request was answered.
    pub(crate) fn answered(&mut self, outcome: &str, reason: &str) {
        *self.outcomes.entry((outcome.to_owned(), reason.to_owned())).or_default() += 1;
    }
}

/// Families under construction; one per name, in the order of first use.
#[derive(Default)]
struct Families {
    region: String,
    list: Vec<Family>,
}

impl Families {
    fn add(&mut self, name: &str, help: &str, kind: Kind, labels: &[(&str, &str)], value: Value, created_unix_ms: u64) {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let sample = Sample { labels, value, created_unix_ms };
        match self.list.iter_mut().find(|f| f.name == name) {
            Some(family) => family.samples.push(sample),
            None => {
                let family = Family::new(name, help, kind);
                self.list.push(Family { region: self.region.clone(), samples: vec![sample], ..family });
            }
        }
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(name, help, Kind::Gauge, labels, Value::Integer(value), 0);
    }

    fn region(&mut self, status: &RegionStatus) {
        self.gauge("heirloom_generation", "Open generation.", &[], status.generation);
        if let Some(owner) = &status.owner {
            let labels = [("instance", owner.instance.as_str()), ("version", owner.version.as_str())];
            self.add("heirloom_owner_info", "Who owns the region.", Kind::Info, &labels, Value::Integer(1), 0);
        }
        for (state, bytes) in [("used", status.used_bytes), ("limit", status.limit_bytes)] {
            self.gauge("heirloom_region_bytes", "Bytes of the region.", &[("state", state)], bytes);
        }
        let vacant_ms = status.vacant_since_unix_ms.map_or(0, |since| super::unix_ms().saturating_sub(since));
        let vacant = Value::Float(vacant_ms as f64 / 1e3);
        self.add("heirloom_vacant_seconds", "How long nobody has owned the region.", Kind::Gauge, &[], vacant, 0);
        let standbys = status.instances.iter().filter(|i| i.role == Role::Standby && i.eligible).count();
        self.gauge("heirloom_standby_ready", "Instances that could own at once.", &[], standbys as u64);
        self.in_flight(status);
    }

    /// What is in flight, of everybody by role; and why it is left, of those that drain.
    fn in_flight(&mut self, status: &RegionStatus) {
        let (mut all, mut left) = (BTreeMap::<[&str; 2], u64>::new(), BTreeMap::<[&str; 2], u64>::new());
        let draining = status.instances.iter().filter(|i| i.role == Role::Draining);
        let count = draining.clone().count() as u64;
        for instance in &status.instances {
            for (kind, count) in &instance.in_flight {
                *all.entry([kind, instance.role.as_str()]).or_default() += count;
            }
        }
        for instance in draining {
            for (kind, count) in &instance.in_flight {
                let parts = || instance.undrained.iter().filter(|part| part.kind == *kind);
                let known: u64 = parts().map(|part| part.count).sum();
                for part in parts() {
                    *left.entry([kind, &part.reason]).or_default() += part.count;
                }
                *left.entry([kind, ""]).or_default() += count.saturating_sub(known);
            }
        }
        self.gauge("heirloom_draining_instances", "Instances that owned and are not drained.", &[], count);
        for ([kind, role], count) in all {
            let labels = [("kind", kind), ("role", role)];
            self.gauge("heirloom_in_flight", "In flight, as last reported.", &labels, count);
        }
        for ([kind, reason], count) in left.into_iter().filter(|(_, count)| *count > 0) {
            let labels = [("kind", kind), ("reason", reason)];
            self.gauge("heirloom_draining", "In flight at draining instances, by why it is left.", &labels, count);
        }
    }

    fn handovers(&mut self, host: &Host) {
        let it = host.metrics().clone();
        let since = it.since_unix_ms;
        for ((outcome, reason), count) in &it.outcomes {
            let labels = [("outcome", outcome.as_str()), ("reason", reason.as_str())];
            let value = Value::Integer(*count);
            self.add("heirloom_handovers_total", "Handovers answered.", Kind::Counter, &labels, value, since);
        }
        for (phase, histogram) in &it.phases {
            let labels = [("phase", phase.as_str())];
            let help = "Time in each phase of a handover.";
            self.add("heirloom_phase_duration_seconds", help, Kind::Histogram, &labels, histogram.value(), since);
        }
        for (name, help, histogram) in [
            ("heirloom_blackout_seconds", "Longest wait of a writer at a switch, as it measured it.", &it.blackout),
            ("heirloom_precopy_rounds", "Rounds before the freeze.", &it.rounds),
            ("heirloom_frozen_pages", "Pages checksummed while the gate was closed.", &it.frozen_pages),
        ] {
            self.add(name, help, Kind::Histogram, &[], histogram.value(), since);
        }
    }
}

impl Families {
    fn remote_write(&mut self, it: &Progress) {
        let since = it.since_unix_ms;
        for (name, help, count) in [
            ("samples", "Samples that the store has taken.", &it.samples),
            ("retries", "Requests that were repeated.", &it.retries),
            ("gaps", "Series of which samples had expired before they were sent, each time.", &it.gaps),
            ("unreadable_series", "Series that could not be read, each time.", &it.unreadable),
            ("skipped_chunks", "Chunks of an encoding that this build does not know, each time.", &it.skipped_chunks),
        ] {
            let value = Value::Integer(count.load(Ordering::Relaxed));
            self.add(&format!("heirloom_remote_write_{name}_total"), help, Kind::Counter, &[], value, since);
        }
        for (reason, samples) in it.failures() {
            let (help, labels) = ("Samples that the store has refused for good.", [("reason", reason.as_str())]);
            let value = Value::Integer(samples);
            self.add("heirloom_remote_write_failed_total", help, Kind::Counter, &labels, value, since);
        }
        let lag = Value::Float(it.lag_seconds());
        let help = "How long ago all that there was had been sent.";
        self.add("heirloom_remote_write_lag_seconds", help, Kind::Gauge, &[], lag, 0);
    }
}

/// Own metrics of these regions.
pub(crate) async fn of_regions(hosts: &[std::sync::Arc<Host>]) -> Vec<Family> {
    let mut all = Vec::new();
    for host in hosts {
        let mut families = Families { region: host.name.clone(), ..Families::default() };
        if let Ok(Ok(status)) = tokio::time::timeout(STATUS_TIMEOUT, host.status()).await {
            families.region(&status);
        }
        families.handovers(host);
        if let Some(progress) = host.shipping.get() {
            families.remote_write(progress);
        }
        all.append(&mut families.list);
    }
    all
}

/// What belongs to no region.
pub(crate) fn of_sidecar(hosts: &Hosts, start_unix_ms: u64, sockets_missing: usize) -> Vec<Family> {
    let mut families = Families::default();
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    families.add("heirloom_build_info", "This sidecar's build.", Kind::Info, &labels, Value::Integer(1), 0);
    let start = Value::Float(start_unix_ms as f64 / 1e3);
    families.add("heirloom_start_time_seconds", "When this sidecar started.", Kind::Gauge, &[], start, 0);
    let quarantined = Value::Integer(hosts.quarantined_total.load(Ordering::Relaxed));
    let help = "Regions set aside since the start.";
    families.add("heirloom_quarantined_total", help, Kind::Counter, &[], quarantined, start_unix_ms);
    let help = "Socket files of this sidecar that are gone: it answers nobody new there until it is started again.";
    families.gauge("heirloom_socket_missing", help, &[], sockets_missing as u64);
    let (serving, aside): (Vec<_>, Vec<_>) =
        hosts.all().into_iter().partition(|(_, slot)| matches!(slot, Slot::Serving(_)));
    for (state, list) in [("serving", serving), ("quarantined", aside)] {
        families.gauge("heirloom_regions", "Regions of this sidecar.", &[("state", state)], list.len() as u64);
    }
    families.list
}
