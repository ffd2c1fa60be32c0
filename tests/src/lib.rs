//! What the tests and benchmarks share: a host with a real sidecar process, instances as real processes that do what they are
//! told, and waiting for a state with a deadline.
//!
//! - [`host::Host`]: a sidecar with its own directory, socket and ports.
//! - [`cli`]: the command line as another process, and its answers.
//! - [`instance::Instance`]: a process attached to a region; [`worker`] is the program it runs.
//! - [`shop::Shop`]: the example, as processes.
//! - [`metric_store::Pair`]: the example metric-store, as two processes behind HAProxy; [`remote`] writes to it and reads it.
//! - [`prometheus::Prometheus`]: a real Prometheus. [`oracle::Oracle`]: two of them around a metric-store, so that what it answers
//!   can be compared; [`recorder`] notes what it acknowledged.
//! - [`receiver::Receiver`]: a store that takes remote write and answers by a script.
//! - [`newer::Newer`]: a wire that speaks a later release. [`grpc::Control`]: the control API without the command line.
//! - [`steps`]: a process that is followed instruction by instruction.
//! - [`storm::Storm`]: new connections by the clock, counted by what became of them.
//! - [`lines::Lines`]: connections that never rest, each answer checked.
//! - [`http`], [`wait`], [`random`]: a GET, a bounded wait, a seed that is printed.
//!
//! Nothing here waits without a deadline, and every process is ended by its own id.

pub mod cli;
pub mod grpc;
pub mod holders;
pub mod host;
pub mod http;
pub mod instance;
pub mod lines;
pub mod metric_store;
pub mod newer;
pub mod oracle;
pub mod prometheus;
pub mod random;
pub mod receiver;
pub mod recorder;
pub mod remote;
pub mod shop;
pub mod steps;
pub mod storm;
pub mod sys;
pub mod wait;
pub mod worker;
