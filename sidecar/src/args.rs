//! Arguments. Verbs and flags follow kubectl (`-o`, `-w`, `wait --for`, `--dry-run`) and systemctl (`status`, quiet exit codes).
//!
//! A duration without its unit is refused, and so is a combination that has no meaning; nothing is guessed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use crate::complete;

mod condition;

pub use condition::Condition;

/// Where the sidecar listens if nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/heirloom/heirloom.sock";

/// Hands a service's memory down to its next version.
///
/// Exit codes: 0 done, or already so · 1 internal · 2 usage · 3 refused, nothing changed · 4 aborted, the old owner
/// owns · 5 no sidecar · 6 data found corrupt · 7 outcome unknown: the sidecar was lost on the way · 130 left by a second
/// Ctrl-C (the first asks for an abort).
#[derive(Parser, Debug)]
#[command(name = "heirloom", version, disable_help_subcommand = true, after_help = "Start with: heirloom status")]
pub struct Cli {
    /// What every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Sidecar's address: a socket's path, or https://HOST:PORT [default: /run/heirloom/heirloom.sock]
    #[arg(long, global = true, env = "HEIRLOOM_SOCKET", value_name = "ADDR")]
    pub socket: Option<String>,
    /// How to print; json is one value (a list of status or history, else an object), jsonl one object per event
    #[arg(short, long, global = true, env = "HEIRLOOM_OUTPUT", value_enum, default_value_t = Output::Human, value_name = "FORMAT")]
    pub output: Output,
    /// Print nothing but errors; the exit code says it
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to colour; NO_COLOR is respected
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
    /// CA that signed the sidecar's certificate, for https
    #[arg(long, global = true, env = "HEIRLOOM_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Own certificate for https
    #[arg(long, global = true, env = "HEIRLOOM_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate
    #[arg(long, global = true, env = "HEIRLOOM_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl Global {
    /// The address in force.
    pub fn address(&self) -> &str {
        self.socket.as_deref().unwrap_or(DEFAULT_SOCKET)
    }
}

/// How to print.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tables and lines for people.
    Human,
    /// The same with more columns.
    Wide,
    /// Exactly one value, whatever the outcome: a list where status or history succeed, else an object.
    Json,
    /// One object per event.
    Jsonl,
}

/// When to colour.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Run the sidecar
    Serve(Serve),
    /// Show regions: owner, generation, instances, last handover
    Status {
        /// Only this one
        #[arg(add = ArgValueCompleter::new(complete::regions))]
        region: Option<String>,
        /// Show again at each change
        #[arg(short, long)]
        watch: bool,
    },
    /// Make a version the owner
    Handover(Handover),
    /// Undo the last handover, or the one named
    Rollback {
        /// Region's name
        #[arg(add = ArgValueCompleter::new(complete::regions))]
        region: String,
        /// Number of the handover to undo; undone already counts as done
        #[arg(long, value_name = "NUMBER")]
        handover: Option<u64>,
        /// What handover and rollback share.
        #[command(flatten)]
        switch: Switch,
    },
    /// Abort the running handover
    Abort {
        /// Region's name
        #[arg(add = ArgValueCompleter::new(complete::regions))]
        region: String,
        /// Only if this is the one that runs
        #[arg(value_name = "NUMBER")]
        handover: Option<u64>,
        /// For the history
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Ask an instance to drain and leave
    Drain {
        /// Region's name
        #[arg(add = ArgValueCompleter::new(complete::regions))]
        region: String,
        /// Instance's name
        #[arg(add = ArgValueCompleter::new(complete::instances))]
        instance: String,
        /// Even the owner, even if nobody can take over
        #[arg(long)]
        force: bool,
        /// Then the drain is reported as late; nothing is cut
        #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
        timeout: Option<Duration>,
    },
    /// Wait for a condition: owner=V, eligible=V, drained=V, left=V, generation=N (at least)
    Wait {
        /// Region's name
        #[arg(add = ArgValueCompleter::new(complete::regions))]
        region: String,
        /// owner=V, eligible=V, drained=V, left=V or generation=N; V is a version or an instance. Who is to be drained or to
        /// leave must be attached, or have been: a V that nobody knows is INSTANCE_NOT_FOUND, exit 3
        #[arg(long = "for", value_name = "CONDITION")]
        condition: Condition,
        /// Then exit 3
        #[arg(long, value_parser = humantime::parse_duration, default_value = "60s", value_name = "DURATION")]
        timeout: Duration,
    },
    /// Print changes as they happen
    Watch {
        /// Only this one
        #[arg(add = ArgValueCompleter::new(complete::regions))]
        region: Option<String>,
        /// Go on after this sequence number
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<u64>,
    },
    /// List handovers, newest first, or show one
    History {
        /// Region's name
        #[arg(add = ArgValueCompleter::new(complete::regions))]
        region: String,
        /// Show this one
        #[arg(value_name = "NUMBER")]
        handover: Option<u64>,
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: u32,
    },
    /// Check every checksum of a region, live or in a file
    Verify {
        /// Region's name
        #[arg(required_unless_present = "file", add = ArgValueCompleter::new(complete::regions))]
        region: Option<String>,
        /// A region's file, read without a sidecar and never changed
        #[arg(long, conflicts_with = "region", value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print a region file, without a sidecar
    Dump {
        /// A region's file; it is never changed
        file: PathBuf,
        /// Objects with their values
        #[arg(long)]
        objects: bool,
        /// Checksum state of every page range
        #[arg(long)]
        pages: bool,
    },
    /// Say what this host allows: kernel, membarrier, pidfd, tmpfs, seccomp
    Doctor {
        /// Where regions lie, or shall lie
        #[arg(long, env = "HEIRLOOM_REGION_DIR", default_value = "/dev/shm/heirloom", value_name = "DIR")]
        region_dir: PathBuf,
    },
    /// The sidecar's configuration
    Config {
        /// Show or check.
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Completions for a shell; region, version and instance names complete from the running sidecar
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// `serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Configuration file; flags and environment win over it [default: /etc/heirloom/heirloom.toml, if it is there]
    #[arg(short, long, env = "HEIRLOOM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration and the regions on disk, then exit
    #[arg(long)]
    pub check: bool,
    /// Where regions lie
    #[arg(long, env = "HEIRLOOM_REGION_DIR", value_name = "DIR")]
    pub region_dir: Option<PathBuf>,
    /// gRPC on TCP, with mutual TLS
    #[arg(long, value_name = "ADDR")]
    pub grpc_listen: Option<String>,
    /// /metrics, /healthz, /readyz and the JSON twins
    #[arg(long, value_name = "ADDR")]
    pub http_listen: Option<String>,
    /// Send the samples of all series to a Prometheus-compatible store, by remote write 1.0
    #[arg(long, value_name = "URL")]
    pub remote_write_url: Option<String>,
    /// Log lines for people or as JSON
    #[arg(long, env = "HEIRLOOM_LOG_FORMAT", value_enum, value_name = "text|json")]
    pub log_format: Option<LogLines>,
}

/// Form of the log.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLines {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// `handover`.
#[derive(Args, Debug)]
pub struct Handover {
    /// Region's name; with --all the service's
    #[arg(add = ArgValueCompleter::new(complete::regions))]
    pub region: String,
    /// Version that shall own; default: the only eligible standby
    #[arg(add = ArgValueCompleter::new(complete::versions))]
    pub version: Option<String>,
    /// Instance that shall own
    #[arg(long, conflicts_with = "version", value_name = "ID", add = ArgValueCompleter::new(complete::instances))]
    pub instance: Option<String>,
    /// All replicas of the service REGION, one after the other, halting at the first that is not committed
    #[arg(long, conflicts_with_all = ["instance", "expect_generation", "request_id", "detach"])]
    pub all: bool,
    /// Wait for an eligible target
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub wait_ready: Option<Duration>,
    /// What handover and rollback share.
    #[command(flatten)]
    pub switch: Switch,
}

/// What handover and rollback share.
#[derive(Args, Clone, Debug, Default)]
pub struct Switch {
    /// Refuse unless this generation is open
    #[arg(long, value_name = "GENERATION")]
    pub expect_generation: Option<u64>,
    /// Give all verdicts, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Kill the owner if it does not quiesce; asks on a terminal unless --yes
    #[arg(long)]
    pub force: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Return when it has begun
    #[arg(long, conflicts_with = "follow_drain")]
    pub detach: bool,
    /// Return when the old owner is drained
    #[arg(long)]
    pub follow_drain: bool,
    /// Longest blackout risked before it aborts
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub freeze_timeout: Option<Duration>,
    /// Longest prepare hook
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub prepare_timeout: Option<Duration>,
    /// Longest pre-copy
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub precopy_timeout: Option<Duration>,
    /// Longest flush hook
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub flush_timeout: Option<Duration>,
    /// Then the drain is reported as late; nothing is cut
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain_timeout: Option<Duration>,
    /// Ask the old owner to leave so long after its drain
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub retire_after: Option<Duration>,
    /// For the history
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Joins the handover that has this id, if there is one; target and options must be the same
    #[arg(long, value_name = "UUID")]
    pub request_id: Option<uuid::Uuid>,
}

/// `config`.
#[derive(Subcommand, Debug)]
pub enum ConfigVerb {
    /// Print the configuration in force
    Show {
        /// The built-in one
        #[arg(long, action = ArgAction::SetTrue)]
        default: bool,
        /// Configuration file [default: /etc/heirloom/heirloom.toml, if it is there]
        #[arg(short, long, env = "HEIRLOOM_CONFIG", value_name = "FILE", conflicts_with = "default")]
        config: Option<PathBuf>,
    },
    /// Check a file
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Shells that can complete.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "lower")]
#[allow(missing_docs, clippy::enum_variant_names)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
    PowerShell,
}

#[cfg(test)]
mod tests;
