//! Series through the public API: two versions, the real switch, no sidecar.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use heirloom_client::embedded::Embedded;
use heirloom_client::error::Misuse;
use heirloom_client::series::{AppendError, Appended, Labels, Matcher, Reader, Rejected, Sample, SeriesRef, Store};
use heirloom_client::{Error, Hooks, Serving, Term, WriteError, wait};

type Result<T = (), E = Box<dyn StdError>> = std::result::Result<T, E>;

/// Longest that a test waits for a state.
const SOON: Duration = Duration::from_secs(20);

/// A version that is ready.
struct Version {
    serving: Serving,
    series: Store,
}

impl Version {
    fn new(arbiter: &Embedded, name: &str) -> Result<Self> {
        let attached = arbiter.attach(name).wait()?;
        let series = attached.region().series()?;
        Ok(Self { serving: wait(attached.ready(Hooks::new()))?, series })
    }
    fn term(&mut self) -> Term {
        wait(self.serving.next_term()).expect("not asked to leave")
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().copied()).expect("labels")
}

fn up(job: &str) -> Labels {
    labels(&[("__name__", "up"), ("job", job)])
}

fn at(timestamp_ms: i64, value: f64) -> Sample {
    Sample { timestamp_ms, value }
}

/// Everything that there is, by labels.
fn all(reader: &Reader) -> Result<BTreeMap<String, Vec<(i64, f64)>>> {
    let mut found = BTreeMap::new();
    for series in reader.select(&[Matcher::not_equal("__name__", "")], i64::MIN..=i64::MAX)? {
        let series = series?;
        let samples = series.samples().map(|s| s.map(|s| (s.timestamp_ms, s.value))).collect::<Result<_, _>>()?;
        found.insert(series.labels().to_string(), samples);
    }
    Ok(found)
}

/// A user's function: whatever fails, `?` takes it out.
fn one_then_many(store: &Store, term: &Term, series: SeriesRef, samples: &[Sample]) -> Result<u64, Error> {
    store.append(term, series, samples[0])?;
    let mut batch = store.appender(term);
    batch.extend(samples[1..].iter().map(|sample| (series, *sample)));
    Ok(batch.commit()?.appended)
}

#[test]
fn the_errors_of_appending_are_errors_of_heirloom() -> Result {
    let arbiter = Embedded::new("shop")?;
    let mut v1 = Version::new(&arbiter, "v1")?;
    let term = v1.term();
    let a = v1.series.open(&term, &up("a"))?;
    assert_eq!(one_then_many(&v1.series, &term, a, &[at(1, 1.0), at(2, 2.0), at(3, 3.0)])?, 2);
    let old = one_then_many(&v1.series, &term, a, &[at(2, 2.0)]).unwrap_err();
    assert_eq!(old.to_string(), "sample: out of order sample: at 2 ms, expected after 3 ms");
    assert!(matches!(old, Error::Misuse(Misuse::Argument { what: "sample", .. })) && !old.is_retryable());
    let _v2 = Version::new(&arbiter, "v2")?;
    wait(arbiter.handover("v2"))?;
    assert!(matches!(one_then_many(&v1.series, &term, a, &[at(4, 4.0)]), Err(Error::Fenced(_))));
    let mut batch = v1.series.appender(&term);
    batch.push(a, at(4, 4.0));
    assert!(matches!(batch.commit().map_err(Error::from), Err(Error::Fenced(_))));
    Ok(())
}

/// What [`Appender::commit`](heirloom_client::series::Appender::commit) says of giving a batch again.
#[test]
fn a_batch_given_again_is_whole_only_with_one_sample_a_series() -> Result {
    let arbiter = Embedded::new("shop")?;
    let mut v1 = Version::new(&arbiter, "v1")?;
    let term = v1.term();
    let (a, b) = (v1.series.open(&term, &up("a"))?, v1.series.open(&term, &up("b"))?);
    let give = |batch: &[(SeriesRef, Sample)]| {
        let mut appender = v1.series.appender(&term);
        appender.extend(batch.iter().copied());
        appender.commit()
    };
    let scrape = [(a, at(1, 1.0)), (b, at(1, 1.0))];
    assert_eq!(give(&scrape[..1])?.appended, 1, "as if interrupted after one");
    let again = give(&scrape)?;
    assert_eq!((again.appended, again.duplicates, again.rejected.len()), (1, 1, 0));
    let several = [(a, at(2, 2.0)), (a, at(3, 3.0)), (b, at(2, 2.0))];
    assert_eq!(give(&several[..2])?.appended, 2);
    let whole = give(&several)?;
    assert_eq!((whole.appended, whole.duplicates, whole.rejected.len()), (1, 1, 1));
    assert!(matches!(whole.rejected[0], (0, Rejected::OutOfOrder { found_ms: 2, last_ms: 3 })));
    let rest = [(a, at(5, 5.0)), (b, at(5, 5.0))];
    assert_eq!(give(&rest)?.appended, 2, "from `committed` on");
    Ok(())
}

#[test]
fn samples_cross_and_come_back() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, mut v2) = (Version::new(&arbiter, "v1")?, Version::new(&arbiter, "v2")?);
    let observer = arbiter.observe()?.series()?;
    assert_eq!((v1.series.count()?, all(&observer)?.len()), (0, 0));

    let t1 = v1.term();
    let a1 = v1.series.open(&t1, &up("a"))?;
    assert_eq!(v1.series.append(&t1, a1, at(1000, 1.0))?, Appended::New);
    let a2 = v2.series.find(&up("a"))?.expect("a standby finds what the owner made");
    assert_eq!(v2.series.labels(a2)?, up("a"));
    wait(arbiter.handover("v2"))?;
    let t2 = v2.term();
    assert_eq!(v2.series.append(&t2, a2, at(2000, 2.0))?, Appended::New);
    let b2 = v2.series.open(&t2, &up("b"))?;
    v2.series.append(&t2, b2, at(2000, 3.0))?;

    wait(arbiter.rollback())?;
    let t3 = v1.term();
    // What this process last wrote is not the last that was written.
    assert_eq!(v1.series.append(&t3, a1, at(2000, 2.0))?, Appended::Duplicate);
    assert_eq!(v1.series.append(&t3, a1, at(3000, 4.0))?, Appended::New);
    assert_eq!(v1.series.open(&t3, &up("b"))?, v1.series.find(&up("b"))?.expect("made by the other"));
    let expected = BTreeMap::from([
        (up("a").to_string(), vec![(1000, 1.0), (2000, 2.0), (3000, 4.0)]),
        (up("b").to_string(), vec![(2000, 3.0)]),
    ]);
    for reader in [v1.series.reader(), v2.series.reader(), &observer] {
        assert_eq!(all(reader)?, expected);
    }

    arbiter.kill("v1");
    let t4 = v2.term();
    v2.series.append(&t4, a2, at(4000, 5.0))?;
    assert_eq!(all(&observer)?[&up("a").to_string()].len(), 4);
    Ok(())
}

#[test]
fn an_old_term_writes_nothing_and_says_so() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, mut v2) = (Version::new(&arbiter, "v1")?, Version::new(&arbiter, "v2")?);
    let first = v1.term();
    let a = v1.series.open(&first, &up("a"))?;
    v1.series.append(&first, a, at(1000, 1.0))?;
    let (idle, refused) = (v1.serving.region().term()?, v1.serving.region().term()?);
    // Neither a sample that is there nor one that is refused is a write.
    v1.series.append(&idle, a, at(1000, 1.0))?;
    assert!(matches!(v1.series.append(&refused, a, at(0, 1.0)), Err(AppendError::Rejected(_))));
    wait(arbiter.handover("v2"))?;
    let t2 = v2.term();
    for (term, wrote) in [(&first, true), (&idle, false), (&refused, false)] {
        match v1.series.append(term, a, at(2000, 1.0)) {
            Err(AppendError::Write(WriteError::Fenced(fenced))) => assert_eq!(fenced.nothing_written, !wrote),
            other => panic!("{other:?}"),
        }
        let mut batch = v1.series.appender(term);
        batch.push(a, at(2000, 1.0));
        let interrupted = batch.commit().expect_err("the term is over");
        assert_eq!((interrupted.committed, interrupted.commit.appended), (0, 0));
        assert!(matches!(interrupted.error, WriteError::Fenced(_)));
        assert!(matches!(v1.series.open(term, &up("new")), Err(WriteError::Fenced(_))));
        assert_eq!(v1.series.open(term, &up("a"))?, a, "what is there needs no write");
    }
    assert!(matches!(v1.series.append(&t2, a, at(2000, 1.0)), Err(AppendError::Write(WriteError::Misuse(_)))));
    assert_eq!((v2.series.count()?, all(&v2.series)?[&up("a").to_string()].len()), (1, 1));
    Ok(())
}

#[test]
fn refusals_are_prometheus() -> Result {
    let arbiter = Embedded::new("shop")?;
    let mut v1 = Version::new(&arbiter, "v1")?;
    let term = v1.term();
    let a = v1.series.open(&term, &up("a"))?;
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    let mut batch = v1.series.appender(&term);
    batch.extend([1000, 2000, 3000].map(|t| (a, at(t, 1.0))));
    batch.extend([(a, at(2500, 1.0)), (a, at(3000, 1.0)), (a, at(3000, 2.0)), (a, at(4000, stale))]);
    assert_eq!(batch.len(), 7);
    let commit = batch.commit()?;
    assert_eq!((commit.appended, commit.duplicates, commit.rejected.len()), (4, 1, 2));
    assert!(matches!(commit.rejected[0], (3, Rejected::OutOfOrder { found_ms: 2500, last_ms: 3000 })));
    assert!(matches!(commit.rejected[1], (5, Rejected::Conflict { timestamp_ms: 3000, .. })));
    let series = v1.series.select(&[Matcher::equal("job", "a")], 3500..=4500)?.next().expect("one")?;
    let samples: Vec<Sample> = series.samples().collect::<Result<_, _>>()?;
    assert_eq!(samples, [at(4000, stale)], "the very bits, and nothing outside of the range");
    assert_eq!((series.reference(), series.chunks().len(), series.chunks()[0].min_ms), (a, 1, 1000));
    for nothing in [4001..=i64::MAX, 1001..=1999, i64::MIN..=999] {
        assert_eq!(v1.series.select(&[Matcher::equal("job", "a")], nothing.clone())?.count(), 0, "{nothing:?}");
    }

    v1.series.set_retention(Some(Duration::from_secs(10)), None);
    v1.series.expire(&term, 13_000)?;
    assert!(matches!(v1.series.append(&term, a, at(2999, 1.0)), Err(AppendError::Rejected(Rejected::TooOld { .. }))));
    assert_eq!(all(&v1.series)?[&up("a").to_string()].iter().map(|s| s.0).collect::<Vec<_>>(), [3000, 4000]);
    v1.series.expire(&term, 100_000)?;
    assert_eq!((all(&v1.series)?.len(), v1.series.list(&[Matcher::equal("job", "a")])?.len()), (0, 1));
    Ok(())
}

/// A reference and a term are of one region.
#[test]
fn what_belongs_to_another_region_is_refused() -> Result {
    let (here, there) = (Embedded::new("here")?, Embedded::new("there")?);
    let (mut here, mut there) = (Version::new(&here, "v1")?, Version::new(&there, "v1")?);
    let (mine, other) = (here.term(), there.term());
    let theirs = there.series.open(&other, &up("a"))?;
    let misused = |error: &WriteError| matches!(error, WriteError::Misuse(Misuse::Argument { what: "series", .. }));
    match here.series.append(&mine, theirs, at(1, 1.0)) {
        Err(AppendError::Write(error)) => assert!(misused(&error)),
        other => panic!("{other:?}"),
    }
    let mut batch = here.series.appender(&mine);
    batch.push(theirs, at(1, 1.0));
    assert!(misused(&batch.commit().expect_err("not of this region").error));
    assert!(here.series.labels(theirs).is_err());
    assert!(matches!(here.series.open(&other, &up("b")), Err(WriteError::Misuse(Misuse::ForeignTerm { .. }))));
    Ok(())
}

#[test]
fn matchers() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (mut v1, v2) = (Version::new(&arbiter, "v1")?, Version::new(&arbiter, "v2")?);
    let term = v1.term();
    let open = |pairs: &[(&str, &str)]| -> Result<SeriesRef> {
        let series = v1.series.open(&term, &labels(pairs))?;
        v1.series.append(&term, series, at(1000, 1.0))?;
        Ok(series)
    };
    // In no order, and one after the standby's index was made.
    open(&[("__name__", "up"), ("instance", "web-2"), ("zone", "eu")])?;
    open(&[("__name__", "up"), ("instance", "web-1")])?;
    open(&[("__name__", "requests_total"), ("instance", "web-1"), ("code", "200")])?;
    wait(v2.series.warm())?;
    open(&[("__name__", "up"), ("instance", "db"), ("zone", "us\nwest")])?;

    let table: &[(&[Matcher], &[&str])] = &[
        (&[Matcher::equal("__name__", "up")], &["db", "web-1", "web-2"]),
        (&[Matcher::equal("__name__", "up"), Matcher::not_equal("zone", "eu")], &["db", "web-1"]),
        (&[Matcher::equal("__name__", "up"), Matcher::equal("zone", "")], &["web-1"]),
        (&[Matcher::not_equal("zone", "")], &["db", "web-2"]),
        (&[Matcher::regex("instance", "web-.*"), Matcher::equal("code", "200")], &["web-1"]),
        (&[Matcher::regex("instance", "web")], &[]),
        (&[Matcher::regex("zone", "us.west|")], &["db"]),
        (&[Matcher::equal("__name__", "up"), Matcher::regex("zone", "us.west|")], &["db", "web-1"]),
        (&[Matcher::equal("__name__", "up"), Matcher::not_regex("instance", "web-.|db")], &[]),
        (&[Matcher::not_regex("zone", "eu|")], &["db"]),
        (&[Matcher::equal("nobody", "has")], &[]),
    ];
    for (matchers, expected) in table {
        if matchers == &[Matcher::regex("zone", "us.west|")] {
            continue; // matches the empty value alone: below
        }
        let found = v2.series.select(matchers, 0..=2000)?;
        let found: Vec<String> = found
            .map(|s| s.map(|s| s.labels().get("instance").unwrap_or_default().to_owned()))
            .collect::<Result<_, _>>()?;
        assert_eq!(found, *expected, "{matchers:?}");
        assert_eq!(v2.series.list(matchers)?.len(), expected.len());
    }
    for empty in
        [&[][..], &[Matcher::regex("zone", "us.west|")], &[Matcher::equal("zone", ""), Matcher::not_equal("a", "b")]]
    {
        let refused = v2.series.select(empty, 0..=2000).map(drop);
        assert!(matches!(refused, Err(Error::Misuse(Misuse::Argument { what: "matchers", .. }))), "{refused:?}");
    }
    match v2.series.select(&[Matcher::regex("zone", "a(")], 0..=1).map(drop) {
        Err(Error::Misuse(Misuse::Argument { what: "regular expression", found })) => assert!(found.contains("a(")),
        other => panic!("{other:?}"),
    }
    assert_eq!(v2.series.label_names(&[])?, ["__name__", "code", "instance", "zone"]);
    assert_eq!(v2.series.label_names(&[Matcher::equal("zone", "eu")])?, ["__name__", "instance", "zone"]);
    assert_eq!(v2.series.label_values("instance", &[])?, ["db", "web-1", "web-2"]);
    assert_eq!(v2.series.label_values("instance", &[Matcher::equal("zone", "")])?, ["web-1"]);
    assert!(v2.series.label_values("nobody", &[])?.is_empty());
    Ok(())
}

/// The batch is a second's work or so, the switch comes in its middle.
#[test]
fn a_batch_cut_by_a_switch_says_how_far_it_came() -> Result {
    const SERIES: i64 = 32;
    for samples in [1i64 << 20, 1 << 22, 1 << 24] {
        let arbiter = Embedded::new("shop")?;
        let (mut v1, mut v2) = (Version::new(&arbiter, "v1")?, Version::new(&arbiter, "v2")?);
        let term = v1.term();
        let open = |i: i64| v1.series.open(&term, &up(&i.to_string()));
        let series: Vec<SeriesRef> = (0..SERIES).map(open).collect::<Result<_, _>>()?;
        let of = |i: i64| at(i / SERIES, i as f64);
        // A unit of work of its own, which writes nothing but the batch.
        let mut batch = v1.series.appender(&v1.serving.region().term()?);
        (0..samples).for_each(|i| batch.push(series[(i % SERIES) as usize], of(i)));
        let cut = std::thread::scope(|scope| {
            let committing = scope.spawn(|| batch.commit());
            let begin = Instant::now();
            while all_of(&v2.series, &up("0")).is_empty() {
                assert!(begin.elapsed() < SOON, "no sample of the batch is seen");
                std::thread::yield_now();
            }
            wait(arbiter.handover("v2")).expect("a handover");
            committing.join().expect("it does not panic")
        });
        let Err(cut) = cut else { continue }; // a faster machine: a longer batch
        assert!(matches!(&cut.error, WriteError::Fenced(fenced) if !fenced.nothing_written), "{cut}");
        assert_eq!((cut.commit.appended as usize, cut.commit.rejected.len()), (cut.committed, 0));
        assert!(cut.committed > 0 && (cut.committed as i64) < samples);
        for s in 0..SERIES {
            let expected: Vec<Sample> = (0..cut.committed as i64).filter(|i| i % SERIES == s).map(of).collect();
            assert!(all_of(&v2.series, &up(&s.to_string())) == expected, "series {s}");
        }
        // The next owner goes on where the answer said.
        let t2 = v2.term();
        let series: Vec<SeriesRef> =
            (0..SERIES).map(|i| v2.series.open(&t2, &up(&i.to_string()))).collect::<Result<_, _>>()?;
        let mut rest = v2.series.appender(&t2);
        (cut.committed as i64..).take(1000).for_each(|i| rest.push(series[(i % SERIES) as usize], of(i)));
        assert_eq!(rest.commit()?.appended, 1000);
        return Ok(());
    }
    panic!("no batch was long enough to be cut");
}

fn all_of(reader: &Reader, labels: &Labels) -> Vec<Sample> {
    let matchers: Vec<_> = labels.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
    let mut found = reader.select(&matchers, i64::MIN..=i64::MAX).expect("matchers");
    let samples = |s: Result<_, _>| -> Vec<Sample> {
        let s: heirloom_client::series::Series = s.expect("whole");
        s.samples().map(|s| s.expect("whole")).collect()
    };
    found.next().map(samples).unwrap_or_default()
}

/// Lets the readers end, also where the test fails.
struct Stops(Arc<AtomicBool>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Owners come and go under readers in the other version and outside: what was acknowledged before a look is seen by it.
#[test]
fn readers_see_every_acknowledged_sample_over_switches() -> Result {
    const SERIES: usize = 8;
    let arbiter = Embedded::new("shop")?;
    let mut versions = [Version::new(&arbiter, "v1")?, Version::new(&arbiter, "v2")?];
    let readers = [versions[0].series.clone(), versions[1].series.clone()];
    let observer = arbiter.observe()?.series()?;
    let (acknowledged, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    std::thread::scope(|scope| -> Result {
        let _stops = Stops(stop.clone());
        let looking: Vec<_> = [readers[0].reader(), readers[1].reader(), &observer]
            .map(|reader| {
                let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
                scope.spawn(move || {
                    let mut looks = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        let before = acknowledged.load(Ordering::Acquire);
                        let found = all(reader).expect("readable");
                        for samples in found.values() {
                            assert!(samples.len() as i64 >= before, "{} of {before}", samples.len());
                            assert!(samples.iter().zip(1..).all(|(s, t)| *s == (t, t as f64)), "not a prefix");
                        }
                        assert!(before == 0 || found.len() == SERIES);
                        looks += 1;
                    }
                    looks
                })
            })
            .into();
        let mut timestamp = 0;
        for round in 0..12 {
            let version = &mut versions[round % 2];
            if round > 0 {
                wait(arbiter.handover(["v1", "v2"][round % 2]))?;
            }
            let term = version.term();
            let open = |i: usize| version.series.open(&term, &up(&i.to_string()));
            let series: Vec<SeriesRef> = (0..SERIES).map(open).collect::<Result<_, _>>()?;
            for _ in 0..50 {
                timestamp += 1;
                let mut scrape = version.series.appender(&term);
                series.iter().for_each(|s| scrape.push(*s, at(timestamp, timestamp as f64)));
                assert_eq!(scrape.commit()?.appended as usize, SERIES);
                acknowledged.store(timestamp, Ordering::Release);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in looking {
            assert!(reader.join().expect("no assertion failed") > 0);
        }
        Ok(())
    })?;
    assert!(all(&observer)?.values().all(|samples| samples.len() == 600));
    Ok(())
}
