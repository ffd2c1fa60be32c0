//! Where the sidecar ships samples, and whose: regions by name, over TLS with a CA of one's own, with a token that changes.

use std::collections::BTreeMap;
use std::fs;

use heirloom_tests::host::{Host, tmpfs_dir};
use heirloom_tests::receiver::{Does, Receiver};
use heirloom_tests::wait::{holds, until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn host(url: &str, more: &str) -> Host {
    let retry = "interval = \"20ms\"\nbackoff_max = \"100ms\"\nshards = 1\n";
    Host::configured(&format!("[region]\nlimit = \"64MiB\"\n[remote_write]\nurl = {url:?}\n{retry}{more}"))
}

/// Samples that were taken, by region.
fn taken(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for series in receiver.received().iter().filter(|r| r.was_taken()).flat_map(|r| r.series()) {
        let region = series.labels.iter().find(|label| label.name == "region").expect("a region's label");
        *all.entry(region.value.clone()).or_default() += series.samples.len();
    }
    all
}

/// Services of these names, one after the other, each with 50 samples.
fn feed(host: &Host, services: &[&str]) -> Vec<heirloom_tests::instance::Instance> {
    let feed = |service: &&str| {
        let mut owner = host.ready(service, "1.0.0");
        host.await_owner(service, "1.0.0");
        owner.tell("append 5 10 1700000000000");
        owner
    };
    services.iter().map(feed).collect()
}

#[test]
fn regions_that_are_named_are_sent_and_no_others() {
    let receiver = Receiver::start(&[]);
    let host_of_two = host(&receiver.url(), "regions = [\"cart\", \"shop\"]\n");
    let _owners = feed(&host_of_two, &["other", "shop", "cart"]);
    let two = BTreeMap::from([("cart".to_owned(), 50), ("shop".to_owned(), 50)]);
    until("both regions to have arrived", || holds(taken(&receiver) == two, format!("{:?}", taken(&receiver))));
    // The other one came first; it is not only late.
    let sent = host_of_two.metrics("heirloom_remote_write_samples_total");
    assert!(sent.keys().all(|series| !series.contains("other")) && sent.len() == 2, "{sent:?}");

    let receiver = Receiver::start(&[]);
    let host_of_all = host(&receiver.url(), "");
    let _owners = feed(&host_of_all, &["other", "shop", "cart"]);
    let three = BTreeMap::from(["cart", "other", "shop"].map(|region| (region.to_owned(), 50)));
    until("all regions to have arrived", || holds(taken(&receiver) == three, format!("{:?}", taken(&receiver))));
}

/// A CA's certificate in PEM, and what a store at 127.0.0.1 with its signature shows.
fn ca() -> (String, ServerConfig) {
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate: CertificateDer<'static> = params.signed_by(&key, &ca).expect("signed").der().clone();
    let provider = rustls::crypto::ring::default_provider().into();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate], private).expect("a certificate");
    (ca.pem(), config)
}

#[test]
fn samples_go_over_tls_with_the_token_of_the_day_to_a_store_that_the_named_ca_signed() {
    let dir = tmpfs_dir();
    let file = |name: &str| dir.path().join(name);
    let ((pem, config), (stranger, _)) = (ca(), ca());
    fs::write(file("ca.pem"), pem).expect("write");
    fs::write(file("stranger.pem"), stranger).expect("write");
    fs::write(file("token"), "first\n").expect("write");
    let receiver = Receiver::start_tls(&[], config);
    assert!(receiver.url().starts_with("https://"));
    let more = |ca: &str| format!("bearer_token_file = {:?}\nca_file = {:?}\n", file("token"), file(ca));

    let host_of_another = host(&receiver.url(), &more("stranger.pem"));
    let _owners = feed(&host_of_another, &["shop"]);
    let retries = || host_of_another.metrics("heirloom_remote_write_retries_total").values().sum::<f64>();
    until("the store to be refused twice", || holds(retries() >= 2.0, retries()));
    assert!(receiver.received().is_empty(), "a sample, or a token, went to a stranger");
    assert!(host_of_another.log().to_lowercase().contains("certificate"), "{}", host_of_another.log());
    drop(host_of_another);

    let host = host(&receiver.url(), &more("ca.pem"));
    let mut owners = feed(&host, &["shop"]);
    let count = || taken(&receiver).values().sum::<usize>();
    until("all to be taken", || holds(count() == 50, count()));
    assert!(receiver.received().iter().all(|r| r.head.contains("\r\nauthorization: bearer first\r\n")));

    // The token is read anew for each request, also for one that is repeated.
    receiver.then(Does::Answers(503, ""));
    fs::write(file("token"), "second\n").expect("write");
    owners[0].tell("append 1 1 1700001000000");
    until("the next to be taken", || holds(count() == 51, count()));
    let heads: Vec<String> = receiver.received().into_iter().map(|r| r.head).collect();
    assert!(heads[heads.len() - 1].contains("\r\nauthorization: bearer second\r\n"), "{heads:?}");
    assert!(!host.log().contains("second"), "the token is in the log");
}
