//! Compiles the part of Prometheus' messages that metric-store speaks, in pure Rust.

const FILE: &str = "proto/remote.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    prost_build::Config::new().compile_fds(protox::compile([FILE], ["proto"])?)?;
    println!("cargo:rerun-if-changed={FILE}");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
