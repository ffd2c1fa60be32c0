//! `[remote_write]`: where the regions' samples are sent.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{Verdict, verdict};

/// `[remote_write]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteWrite {
    /// Where a Prometheus-compatible store takes remote write 1.0; empty: off.
    pub url: String,
    /// Regions or services whose samples are sent; empty: all.
    pub regions: Vec<String>,
    /// How often regions are looked at for new samples.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Most samples in one request.
    pub batch_samples: u32,
    /// Requests under way at once, for each region; a series always goes by the same one.
    pub shards: u32,
    /// How long one request may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The first wait before a request is repeated; each further one is twice as long.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// The longest wait, unless the store asks for a longer one by Retry-After (at most five minutes).
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// A file with a token for `Authorization: Bearer …`, read before each request; empty: none.
    pub bearer_token_file: PathBuf,
    /// PEM certificates of who may sign the store's; empty: those that the system trusts.
    pub ca_file: PathBuf,
    /// The label that holds the region's name; empty: none. A series' own label of this name stays.
    pub region_label: String,
    /// Labels that every series gets that does not have them.
    pub external_labels: BTreeMap<String, String>,
    /// More headers of each request.
    pub headers: BTreeMap<String, String>,
}

impl Default for RemoteWrite {
    fn default() -> Self {
        RemoteWrite {
            url: String::new(),
            regions: vec![],
            interval: Duration::from_secs(1),
            batch_samples: 2000,
            shards: 2,
            timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(30),
            backoff_max: Duration::from_secs(5),
            bearer_token_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            region_label: "region".into(),
            external_labels: BTreeMap::new(),
            headers: BTreeMap::new(),
        }
    }
}

impl RemoteWrite {
    /// Whether anything is sent at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.url.is_empty()
    }

    /// Whether a region's samples are sent.
    #[must_use]
    pub fn wants(&self, region: &str) -> bool {
        let service = region.split('.').next().unwrap_or_default();
        self.is_on() && (self.regions.is_empty() || self.regions.iter().any(|name| name == region || name == service))
    }

    pub(super) fn check(&self) -> Vec<Verdict> {
        if !self.is_on() {
            return vec![verdict("remote_write.url", Ok("off".into()))];
        }
        let at = |key: &str, result| verdict(&format!("remote_write.{key}"), result);
        let within = |what: &str, found: u32, from: u32, to: u32| match found {
            n if (from..=to).contains(&n) => Ok(n.to_string()),
            n => Err(format!("expected {from} to {to} {what}, found {n}")),
        };
        let positive = |found: Duration| match found {
            d if d.is_zero() => Err("expected more than 0, found 0s".to_owned()),
            d => Ok(format!("{d:?}")),
        };
        let backoff = match (self.backoff_min, self.backoff_max) {
            (min, max) if min.is_zero() || max < min => {
                Err(format!("expected at least backoff_min ({min:?}), which is more than 0; found {max:?}"))
            }
            (_, max) => Ok(format!("{max:?}")),
        };
        vec![
            at("url", self.url()),
            at("regions", self.named_regions()),
            at("interval", positive(self.interval)),
            at("batch_samples", within("samples", self.batch_samples, 1, 100_000)),
            at("shards", within("shards", self.shards, 1, 64)),
            at("timeout", positive(self.timeout)),
            at("backoff_max", backoff),
            at("bearer_token_file", readable(&self.bearer_token_file)),
            at("ca_file", readable(&self.ca_file)),
            at("region_label", self.labels()),
            at("headers", self.header_names()),
        ]
    }

    fn url(&self) -> Result<String, String> {
        let wrong =
            |why: &str| Err(format!("expected http://HOST/PATH or https://HOST/PATH, found \"{}\"{why}", self.url));
        let Ok(uri) = self.url.parse::<axum::http::Uri>() else { return wrong("") };
        match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
                wrong(": credentials belong into headers or bearer_token_file")
            }
            (Some("http" | "https"), Some(_)) => Ok(self.url.clone()),
            _ => wrong(""),
        }
    }

    fn named_regions(&self) -> Result<String, String> {
        for name in &self.regions {
            heirloom_region::name::region(name).map_err(|e| e.to_string())?;
        }
        Ok(if self.regions.is_empty() { "all".into() } else { self.regions.join(", ") })
    }

    fn labels(&self) -> Result<String, String> {
        let names = self.external_labels.keys().chain(Some(&self.region_label).filter(|name| !name.is_empty()));
        for name in names {
            let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !is_word || name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
                return Err(format!("expected label names of letters, digits and _, found \"{name}\""));
            }
        }
        Ok(if self.region_label.is_empty() { "none".into() } else { self.region_label.clone() })
    }

    fn header_names(&self) -> Result<String, String> {
        use axum::http::{HeaderName, HeaderValue};
        for (name, value) in &self.headers {
            // The value may be a secret.
            if name.parse::<HeaderName>().is_err() || HeaderValue::from_str(value).is_err() {
                return Err(format!(
                    "expected a header's name and a value of visible characters, found them wrong for \"{name}\""
                ));
            }
        }
        Ok(self.headers.keys().cloned().collect::<Vec<_>>().join(", "))
    }
}

fn readable(path: &PathBuf) -> Result<String, String> {
    if path.as_os_str().is_empty() {
        return Ok("none".into());
    }
    fs::read(path).map(|_| path.display().to_string()).map_err(|e| format!("{}: {e}", path.display()))
}
