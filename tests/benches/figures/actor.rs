//! This program again, as another process on the same region: it finds its seat in its arguments and the descriptor that
//! proves its life on its standard input. It says what it has to say on its standard output, a line each.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use heirloom_region::instances::Seat;
use heirloom_region::mapping::Mapping;
use heirloom_region::process::Process;

use crate::ground::Ground;
use crate::{memory, scraper, storm, takeover};

/// Before the part and its arguments.
pub(crate) const FLAG: &str = "--play";

/// A process that plays a part; killed, by its id, when dropped.
pub(crate) struct Actor {
    child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) incarnation: u64,
}

impl Actor {
    /// Starts it on a fresh seat of the region.
    pub(crate) fn start(ground: &mut Ground, part: &str, more: &[u64]) -> Self {
        let (seat, liveness) = ground.seat(part);
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([FLAG, part]).arg(ground.path()).arg(seat.row.to_string()).arg(seat.incarnation.to_string());
        command.args(more.iter().map(u64::to_string)).stdout(Stdio::piped());
        command.stdin(liveness.map_or_else(Stdio::null, Stdio::from));
        let mut child = command.spawn().expect("start this program again");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines, incarnation: seat.incarnation }
    }

    /// The next number that it says.
    pub(crate) fn hear(&mut self) -> u64 {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("it speaks");
        line.trim()
            .parse()
            .unwrap_or_else(|_| panic!("expected a number from process {}, found {line:?}", self.child.id()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a part is played with.
pub(crate) struct Stage {
    pub(crate) process: Arc<Process>,
    pub(crate) more: Vec<u64>,
}

impl Stage {
    fn enter(path: &str, row: u64, incarnation: u64, more: Vec<u64>) -> Self {
        // Whoever started this is killed before it can end it, perhaps.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("end with the parent");
        let mapping = Mapping::open_file(Path::new(path), false).expect("open the region");
        let liveness = std::io::stdin().as_fd().try_clone_to_owned().expect("the descriptor");
        let seat = Seat { row: row as u32, incarnation };
        Self { process: Process::attach(mapping, seat, Some(liveness)).expect("attach"), more }
    }
}

/// Plays the part that `words` name.
pub(crate) fn play(words: &[String]) {
    if let [part, words @ ..] = words
        && part == "member"
    {
        return crate::member::play(words);
    }
    let [part, path, numbers @ ..] = words else { panic!("expected a part and a region, found {words:?}") };
    let number = |word: &String| word.parse().unwrap_or_else(|_| panic!("expected a number, found {word:?}"));
    let numbers: Vec<u64> = numbers.iter().map(number).collect();
    let stage = || Stage::enter(path, numbers[0], numbers[1], numbers[2..].to_vec());
    match part.as_str() {
        "storm" => storm::play(&stage()),
        "scraper" => scraper::play(&stage()),
        "sweep" => memory::play(&stage()),
        "newcomer" => takeover::play(stage),
        "sidecar" => crate::scrape::play(path),
        other => panic!("expected a part, found {other:?}"),
    }
}
