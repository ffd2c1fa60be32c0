//! What the tests and benchmarks share: a host with a real sidecar process, instances as real processes that do what they are
//! told, and waiting for a state with a deadline.
//!
//! - [`host::Host`]: a sidecar with its own directory, socket and ports.
//! - [`cli`]: the command line as another process, and its answers.
//! - [`instance::Instance`]: a process attached to a region; [`worker`] is the program it runs.
//! - [`shop::Shop`]: the example, as processes.
//! - [`prometheus::Prometheus`]: a real Prometheus that finds its targets by the sidecar's `/sd`.
//! - [`grpc::Control`]: the control API without the command line.
//! - [`http`], [`wait`], [`random`]: a GET, a bounded wait, a seed that is printed.
//!
//! Nothing here waits without a deadline, and every process is ended by its own id.

pub mod cli;
pub mod grpc;
pub mod host;
pub mod http;
pub mod instance;
pub mod prometheus;
pub mod random;
pub mod shop;
pub mod sys;
pub mod wait;
pub mod worker;
