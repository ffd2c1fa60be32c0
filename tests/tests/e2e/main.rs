//! End to end: real sidecar processes, real instances, the command line as deploy tools call it. One file a theme; they are one
//! program so that it is linked once.

mod access;
mod attached;
mod bad_files;
mod bad_input;
mod deaths;
mod drain;
mod exposition;
mod gateway;
mod leaving;
mod many_handovers;
mod parcels;
mod prometheus;
mod releases;
mod remote_write;
mod remote_write_to;
mod replicas;
mod series_chunks;
mod series_kills;
mod series_protocol;
mod series_upgrades;
mod sidecar_lost;
mod sockets;
mod switch;
