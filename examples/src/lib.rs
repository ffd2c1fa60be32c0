//! Services in two versions, and what the demo needs to upgrade one under load.
//!
//! [`shop`] is the part to copy: how a service attaches, owns and hands over. [`metric_store`] keeps time series, behind
//! Prometheus' protocols; [`echo`] moves its live connections. The rest drives them: [`load`] asks numbered
//! requests and checks every answer, [`scrape`] watches the counters, [`gateway`] puts HAProxy in front, [`process`] starts and
//! ends what the demo runs.
#![forbid(unsafe_code)]

pub mod echo;
pub mod gateway;
pub mod load;
pub mod metric_store;
pub mod process;
pub mod scrape;
pub mod shop;
