//! The machine that the figures are of.

use std::fs;

/// Processor, cores, kernel, memory and present load, on one line.
pub(crate) fn facts() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cpuinfo = read("/proc/cpuinfo");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(1).collect();
    format!(
        "machine: {}, family {} model {}, {cores} cores, Linux {}, memory {}, load {}, {} scheduling",
        field(&cpuinfo, "model name"),
        field(&cpuinfo, "cpu family"),
        field(&cpuinfo, "model\t"),
        read("/proc/sys/kernel/osrelease").trim(),
        field(&read("/proc/meminfo"), "MemTotal"),
        load.concat(),
        scheduling(&read("/proc/self/stat")),
    )
}

/// By which rules this process gets its turns: field 41 of its `stat`, counted behind the name, which may hold anything.
fn scheduling(stat: &str) -> &'static str {
    let policy = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(38));
    match policy {
        Some("0") => "normal",
        Some("1" | "2") => "real-time",
        _ => "other",
    }
}
