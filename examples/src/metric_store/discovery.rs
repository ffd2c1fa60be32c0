//! What series, label names and label values there are, in the JSON that Prometheus answers.
//!
//! Without `start` and `end` the index answers; with them only series that have a sample in that time count.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, RequestExt as _};
use heirloom_client::Error;
use heirloom_client::series::{Labels, Matcher, NAME};
use serde_json::{Value, json};

use super::App;
use super::selector::{selector, time_ms};

/// Largest form in a body.
const FORM_MAX: usize = 1 << 20;

/// Why there is no answer, in Prometheus' words.
#[derive(Debug)]
pub(super) enum Failed {
    BadData(String),
    Heirloom(Error),
    Internal(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error {
            Error::Misuse(misuse) => Failed::BadData(misuse.to_string()),
            other => Failed::Heirloom(other),
        }
    }
}

/// `{"status": …}` around what was found.
pub(super) fn answer(found: Result<Value, Failed>) -> Response {
    let (status, kind, error) = match found {
        Ok(data) => return Json(json!({ "status": "success", "data": data })).into_response(),
        Err(Failed::BadData(why)) => (StatusCode::BAD_REQUEST, "bad_data", why),
        Err(Failed::Heirloom(e)) if e.is_retryable() => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", e.to_string()),
        Err(Failed::Heirloom(e)) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string()),
        Err(Failed::Internal(why)) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", why),
    };
    (status, Json(json!({ "status": "error", "errorType": kind, "error": error }))).into_response()
}

/// Runs what decodes many samples or walks many series where it holds up no other request.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panicked| Err(Failed::Internal(panicked.to_string())))
}

/// What a request asks for.
struct Asked {
    selectors: Vec<Vec<Matcher>>,
    /// `None`: any time.
    range: Option<RangeInclusive<i64>>,
}

impl Asked {
    /// From the query string, and from the form in the body if there is one.
    async fn of(request: Request) -> Result<Self, Failed> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let form = request.headers().get(header::CONTENT_TYPE);
        let has_form = form.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let body = request.with_limited_body().into_body();
        let form = if has_form {
            to_bytes(body, FORM_MAX).await.map_err(|e| Failed::BadData(format!("the form: {e}")))?
        } else {
            Default::default()
        };
        let (mut selectors, mut start, mut end) = (Vec::new(), None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(&form)) {
            match &*name {
                "match[]" => selectors.push(selector(&value).map_err(Failed::BadData)?),
                "start" => start = Some(time_ms("start", &value).map_err(Failed::BadData)?),
                "end" => end = Some(time_ms("end", &value).map_err(Failed::BadData)?),
                _ => {} // as Prometheus: what a later version knows does not make an earlier one fail
            }
        }
        let limited = start.is_some() || end.is_some();
        let range = limited.then(|| start.unwrap_or(i64::MIN)..=end.unwrap_or(i64::MAX));
        if range.as_ref().is_some_and(RangeInclusive::is_empty) {
            return Err(Failed::BadData("end timestamp must not be before start time".into()));
        }
        Ok(Asked { selectors, range })
    }

    /// The label sets of all series that are asked for.
    fn labels(&self, app: &App) -> Result<BTreeSet<Labels>, Failed> {
        let all = [vec![Matcher::not_equal(NAME, "")]];
        let selectors = if self.selectors.is_empty() { &all[..] } else { &self.selectors[..] };
        let mut found = BTreeSet::new();
        for selector in selectors {
            match &self.range {
                None => found.extend(app.store.list(selector)?),
                Some(range) => {
                    for series in app.store.select(selector, range.clone())? {
                        found.insert(series?.labels().clone());
                    }
                }
            }
        }
        Ok(found)
    }

    /// The union over the selectors of what `by_index` says, or over the series that have samples in the time asked for.
    fn words(
        &self,
        app: &App,
        by_index: impl Fn(&[Matcher]) -> Result<Vec<String>, Error>,
        of: impl Fn(&Labels) -> Vec<String>,
    ) -> Result<Value, Failed> {
        let mut words = BTreeSet::new();
        if self.range.is_some() {
            self.labels(app)?.iter().for_each(|labels| words.extend(of(labels)));
        } else if self.selectors.is_empty() {
            words.extend(by_index(&[])?);
        }
        for selector in self.selectors.iter().filter(|_| self.range.is_none()) {
            words.extend(by_index(selector)?);
        }
        Ok(json!(words))
    }
}

/// `/api/v1/series`: label sets.
pub(super) async fn series(State(app): State<App>, request: Request) -> Response {
    let found = async {
        let asked = Asked::of(request).await?;
        if asked.selectors.is_empty() {
            return Err(Failed::BadData("no match[] parameter provided".into()));
        }
        in_background(move || {
            let found = asked.labels(&app)?;
            let object = |labels: &Labels| labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let objects: Vec<BTreeMap<String, String>> = found.iter().map(object).collect();
            Ok(json!(objects))
        })
        .await
    };
    answer(found.await)
}

/// `/api/v1/labels`: label names.
pub(super) async fn labels(State(app): State<App>, request: Request) -> Response {
    let found = async {
        let asked = Asked::of(request).await?;
        in_background(move || {
            let names = |labels: &Labels| labels.iter().map(|(name, _)| name.to_owned()).collect();
            asked.words(&app, |selector| app.store.label_names(selector), names)
        })
        .await
    };
    answer(found.await)
}

/// `/api/v1/label/<name>/values`.
pub(super) async fn values(State(app): State<App>, Path(name): Path<String>, request: Request) -> Response {
    let found = async {
        let asked = Asked::of(request).await?;
        in_background(move || {
            let value = |labels: &Labels| labels.get(&name).map(str::to_owned).into_iter().collect();
            asked.words(&app, |selector| app.store.label_values(&name, selector), value)
        })
        .await
    };
    answer(found.await)
}
