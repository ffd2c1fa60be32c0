//! The README's Rust, compiled: each line of its snippets stands here, and a changed one that does not is named.

use std::error::Error as StdError;
use std::ops::RangeInclusive;
#[cfg(feature = "axum")]
use std::time::Duration;

use heirloom_client::series::{Labels, Matcher, Sample, TimestampMs};
use heirloom_client::{Attachment, Hooks, Parcel, Parcels, Term};
#[cfg(feature = "axum")]
use heirloom_client::{Serving, axum::probe_standing};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

const README: &str = include_str!("../../README.md");
const THIS: &str = include_str!("readme.rs");

#[derive(Default, Serialize, Deserialize)]
struct Basket(Vec<String>);

impl Basket {
    fn add(&mut self, what: &str) {
        self.0.push(what.to_owned());
    }
}

async fn sigterm() {}

#[rustfmt::skip]
#[expect(dead_code, reason = "to compile is all that is asked of it")]
async fn serve() -> Result<(), Box<dyn StdError>> {
    let shop = heirloom_client::attach("shop").version("1.0.0").await?;
    let visits = shop.region().counter("shop_visits_total").open()?;        // any instance counts, at any time
    let basket = shop.region().cell::<Basket>("basket").open()?;            // the owner writes, everybody reads
    visits.inc();
    let serving = shop.ready(Hooks::new()).await?;
    serving.leave_when(sigterm());                                          // the owner passes on before it ends
    serving.run(async |term| {
        basket.update(&term, |b| b.add("tea"))?;
        term.ended().await;
        Ok::<(), heirloom_client::Error>(())
    }).await?;
    Ok(())
}

#[cfg(feature = "axum")]
#[rustfmt::skip]
#[expect(dead_code, reason = "to compile is all that is asked of it")]
async fn listen(shop: Attachment, routes: axum::Router) -> Result<(), Box<dyn StdError>> {
    let http = shop.region().listener("http", "0.0.0.0:8080").open().await?;     // kept by name: the same socket in every version
    let serving = shop.ready(Hooks::new()).await?;
    serving.run(|term| heirloom_client::axum::serve(term, &http, routes.clone())).await?;
    Ok(())
}

#[cfg(feature = "axum")]
#[rustfmt::skip]
#[expect(dead_code, reason = "to compile is all that is asked of it")]
fn drain(shop: &Attachment, serving: &Serving) -> axum::Router {
   let mut upload = shop.region().in_flight("uploads");                        // until it is dropped
   upload.because("CLIENT_IS_SLOW");                                           // a TLS connection says "TLS"
   let probes = axum::Router::new().route("/ready", probe_standing(shop.region()));   // 200, or 503 and why
   serving.drain_within("uploads", Duration::from_secs(10));                   // the rest has 30 s when it leaves
   serving.leave_when_noticed(sigterm(), Duration::from_secs(5));              // 503 first, and the port served meanwhile
    probes
}

#[rustfmt::skip]
#[expect(dead_code, reason = "to compile is all that is asked of it")]
async fn carry(shop: &Attachment, mut conn: Parcel<u64>) -> Result<(), Box<dyn StdError>> {
    let lines: Parcels<u64> = shop.region().parcels("lines", 1)?;              // the state here: a count
    let mut tracked = lines.track();                                          // from accept on; or lines.arrival().await.accept()?
    loop {
   let departure = tokio::select! {
       _ = conn.stream.read_buf(&mut conn.unread) => continue,                // and consume, and answer
       departure = tracked.departure() => departure,                          // another version owns, and has room
   };
   match departure.send(conn).await {
       Ok(()) => return Ok(()),                                               // it has the connection
       Err(back) => conn = back.parcel,                                       // it has not, for back.reason: serve on
   }
    }
}

#[rustfmt::skip]
#[expect(dead_code, reason = "to compile is all that is asked of it")]
fn append(shop: &Attachment, term: Term, range_ms: RangeInclusive<TimestampMs>) -> Result<(), Box<dyn StdError>> {
    let (from_ms, to_ms) = range_ms.into_inner();
    let timestamp_ms = to_ms;
    let series = shop.region().series()?;
    let up = series.open(&term, &Labels::new([("__name__", "up"), ("job", "shop")])?)?;   // creating takes a term
    let mut scrape = series.appender(&term);
    scrape.push(up, Sample { timestamp_ms, value: 1.0 });
    let commit = scrape.commit()?;                                          // appended, duplicates, rejected and why
    for found in series.select(&[Matcher::regex("job", "shop|cart")], from_ms..=to_ms)? {
        let found = found?;                                                 // found.labels(), .samples(), .chunks()
        let _ = (found.labels(), found.samples().count(), found.chunks());
    }
    let _ = commit.appended;
    Ok(())
}

#[test]
fn every_snippet_of_the_readme_compiles_here() {
    let blocks: Vec<&str> = README.split("```rust").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 5, "expected the README's five snippets, found {}", blocks.len());
    let here: Vec<&str> = THIS.lines().map(str::trim).collect();
    let lines = blocks.iter().flat_map(|block| block.lines()).map(str::trim);
    let strange: Vec<&str> = lines.filter(|line| !line.is_empty() && !here.contains(line)).collect();
    assert!(strange.is_empty(), "in the README and not compiled here: {strange:#?}");
}
