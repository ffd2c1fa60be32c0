//! The program of an [`Instance`](crate::instance::Instance): attached to a region, it does what its standard input says, one
//! command a line, and answers each with one line of JSON: `{"ok":true,"value":…}` or `{"ok":false,"reason":…,"message":…}`.
//!
//! | command | does |
//! |---|---|
//! | `hook prepare\|flush nothing\|veto\|hang\|die` | before `ready`: what that hook will do |
//! | `ready`, `ready not` | becomes able to own; or attaches hooks but says it is not ready |
//! | `role`, `generation` | what it believes |
//! | `open KIND NAME [BUCKETS]` | opens a counter, histogram, updown or gauge |
//! | `inc NAME N`, `share NAME N`, `observe NAME N` | counts |
//! | `total NAME` | a counter's sum over all instances |
//! | `gauge NAME N` | sets a gauge, as the owner |
//! | `blob NAME LIMIT LEN` | writes LEN bytes into a cell of at most LIMIT |
//! | `write NAME` | one update of a ledger, as the owner; `read NAME` gives it |
//! | `keep` | keeps the term that is open now; `write-kept NAME` updates a ledger with it |
//! | `count NAME THREADS`, `churn NAME` | starts threads that count; one that updates a ledger whenever this owns |
//! | `listen NAME ADDRESS N` | opens a kept group of N sockets; gives address and count |
//! | `datagrams NAME ADDRESS` | opens a kept UDP socket |
//! | `answer NAME` | answers connections with the version, whenever this owns |
//! | `room N` | allows itself N more descriptors than it has |
//! | `append SERIES N MS` | appends N samples to each of so many series, from that time on, as the owner |
//! | `feed SERIES` | starts a thread that appends to so many series whenever this owns |
//! | `retain MS NOW` | lets go the samples that are older, as the owner |
//! | `stop` | ends them; gives what each has recorded for itself |
//! | `fork` | a child that lives on |
//! | `fork-write NAME` | sets a gauge, as the owner; gives what its forked child heard that did so too |
//! | `look REGION NAME` | what an observer sees: owner, generation and a ledger; wants `HEIRLOOM_SOCKET` |
//! | `leave` | leaves in order and ends |
//!
//! A ledger is a cell that holds how many updates it saw, and from whom: whatever was acknowledged and lost shows in it.

mod busy;
mod commands;
mod feed;
mod sockets;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use heirloom_client::{Error, IfAbsent, attach};
use serde_json::{Value, json};

use commands::Worker;

/// What a command gives, or why not: a reason and a message.
type Outcome = Result<Value, Trouble>;

/// An error as the tests compare it.
struct Trouble {
    reason: String,
    message: String,
}

impl Trouble {
    fn usage(message: impl Into<String>) -> Self {
        Trouble { reason: "USAGE".into(), message: message.into() }
    }
}

impl<E: Into<Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        let error = error.into();
        Trouble { reason: error.reason().to_owned(), message: error.to_string() }
    }
}

/// Runs a worker: `worker SERVICE VERSION SOCKET`.
pub fn run(args: &[String]) -> ExitCode {
    let [service, version, socket] = args else {
        eprintln!("usage: worker SERVICE VERSION SOCKET");
        return ExitCode::from(2);
    };
    let attach = attach(service.as_str()).version(version.as_str()).socket(socket);
    let attached = attach.if_absent(IfAbsent::Wait(Duration::from_secs(10))).wait();
    let mut worker = match attached {
        Ok(attachment) => {
            let worker = Worker::new(attachment);
            say(Ok(worker.introduction()));
            worker
        }
        Err(e) => {
            say(Err(e.into()));
            return ExitCode::FAILURE;
        }
    };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split_whitespace().collect();
        let leaving = words.first() == Some(&"leave");
        say(worker.obey(&words));
        if leaving {
            return ExitCode::SUCCESS;
        }
    }
    // The test is gone, or done with this instance without a word: end as a process ends that nobody told to leave.
    ExitCode::SUCCESS
}

fn say(outcome: Outcome) {
    let answer = match outcome {
        Ok(value) => json!({ "ok": true, "value": value }),
        Err(trouble) => json!({ "ok": false, "reason": trouble.reason, "message": trouble.message }),
    };
    let mut stdout = std::io::stdout().lock();
    // If nobody hears it any more, standard input is at its end too.
    let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
}
