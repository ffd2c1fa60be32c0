//! The daemon in this process, spoken to over its sockets as anybody else would.

mod attach;
mod control;
mod followers;
mod handover;
mod http;
mod start;
mod support;
mod tls;
