//! axum 0.8: serve so that no request is cut, take a term per request, pass strays to the owner.
//!
//! A *stray* is a request that reaches an instance which does not own (any more): its [`Term`] extractor refuses it before
//! the handler runs, or a write in it is fenced and nothing was written before. Both leave a mark in the response, by which
//! [`serve`] knows that the whole request may be done again by the owner.
//!
//! ```no_run
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//!
//! use axum::extract::{FromRef, State};
//! use axum::{Router, routing::post};
//! use heirloom_client::axum::{Refused, serve};
//! use heirloom_client::{Cell, Hooks, Region, Term};
//! use tokio::net::TcpListener;
//!
//! #[derive(Clone)]
//! struct App {
//!     region: Region,
//!     basket: Cell<Vec<String>>,
//! }
//! impl FromRef<App> for Region {
//!     fn from_ref(app: &App) -> Region {
//!         app.region.clone()
//!     }
//! }
//!
//! async fn put(term: Term, State(app): State<App>, item: String) -> Result<(), Refused> {
//!     Ok(app.basket.update(&term, |b| b.push(item))?)
//! }
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let shop = heirloom_client::attach("shop").await?;
//! let app = App { region: shop.region().clone(), basket: shop.region().cell("basket").open()? };
//! let routes = Router::new().route("/", post(put)).with_state(app);
//! // Bound once: it stays open from one term to the next, and is accepted from only in a term.
//! let http = Arc::new(TcpListener::bind("127.0.0.1:8081").await?);
//! let port = |version: &str| if version == "1.0.0" { 8081 } else { 8082 };
//! let serving = shop.ready(Hooks::new()).await?;
//! serving
//!     .run(|term| {
//!         serve(term, &http, routes.clone())
//!             .owner_at(move |owner| Some(SocketAddr::from(([127, 0, 0, 1], port(&owner.version)))))
//!     })
//!     .await?;
//! # Ok(()) }
//! ```

use ::axum::extract::{FromRef, FromRequestParts};
use ::axum::http::request::Parts;
use ::axum::http::{StatusCode, header};
use ::axum::response::{IntoResponse, Response};
use heirloom_region::error::{Error, Fenced};

use crate::region::Region;
use crate::term::Term;

mod door;
mod patience;
mod probe;
mod serve;
mod strays;

pub use door::Door;
pub use probe::{probe, probe_standing};
pub use serve::{Serve, serve};

/// Mark in a response's extensions: nothing was done for the request, and the owner may do it.
#[derive(Clone, Copy, Debug)]
struct Stray;

/// A handler that takes a `Term` is one that writes owned state; a stray gets 503 before the handler runs.
impl<S: Send + Sync> FromRequestParts<S> for Term
where
    Region: FromRef<S>,
{
    type Rejection = Refused;
    async fn from_request_parts(_: &mut Parts, state: &S) -> Result<Self, Refused> {
        Region::from_ref(state).term().map_err(Refused::from)
    }
}

/// Any error of this crate as a response, for the `?` of a handler: 503 with `Retry-After: 1` if the same request may succeed
/// later, 507 at a limit, else 500. ([`Error`] itself is of another crate than this one, so it cannot be a response.)
///
/// ```
/// use axum::response::IntoResponse;
/// # use heirloom_client::{axum::Refused, embedded::Embedded};
/// # fn main() -> Result<(), heirloom_client::Error> {
/// # let shop = Embedded::new("shop")?.attach("v1").wait()?;
/// let not_owner = shop.region().term().map_err(Refused::from).unwrap_err();
/// assert_eq!(not_owner.into_response().status(), 503);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Refused(pub Error);

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Refused(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let stray = match &self.0 {
            Error::NotOwner(_) => true,
            Error::Fenced(Fenced { nothing_written, .. }) => *nothing_written,
            _ => false,
        };
        let status = match &self.0 {
            e if e.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            Error::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = (status, self.0.to_string()).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        if stray {
            response.extensions_mut().insert(Stray);
        }
        response
    }
}
