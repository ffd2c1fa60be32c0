//! `heirloom`: the sidecar daemon and the command line.

fn main() {}
