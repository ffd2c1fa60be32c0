//! The helper program of this crate in its roles, and the command line's answers.

use std::process::{Command, Stdio};

use serde_json::Value;

/// What the helper program of this crate is called; it is the sidecar, the command line, the worker or the shop.
const HELPER: &str = "heirloom-test-helper";

/// What the command line answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The exit code; -1 if it was killed.
    pub exit_code: i32,
    /// What stdout held, or null.
    pub json: Value,
    /// What stderr held.
    pub stderr: String,
}

impl Answer {
    /// The word under a key, or nothing.
    pub fn word(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }

    /// The number under a key.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        self.json[key].as_u64().unwrap_or_else(|| panic!("expected a number under {key}, found {}", self.json))
    }

    /// Checks outcome and exit code at once.
    ///
    /// # Panics
    /// If either is another.
    #[track_caller]
    pub fn expect(self, outcome: &str, exit_code: i32) -> Self {
        let found = (self.word("outcome"), self.exit_code);
        assert_eq!(found, (outcome, exit_code), "{}\n{}", self.json, self.stderr);
        self
    }

    /// Checks reason and exit code at once, and that an explanation came with them.
    ///
    /// # Panics
    /// If one is another.
    #[track_caller]
    pub fn expect_reason(self, reason: &str, exit_code: i32) -> Self {
        let found = (self.word("reason"), self.exit_code);
        assert_eq!(found, (reason, exit_code), "{}\n{}", self.json, self.stderr);
        assert!(!self.word("message").is_empty(), "no message: {}", self.json);
        self
    }
}

/// A command that runs this crate's helper program in one of its roles.
///
/// # Panics
/// If the program is not beside the running test.
pub fn helper(role: &str) -> Command {
    let test = std::env::current_exe().expect("the running test has a path");
    let program = test.ancestors().skip(1).take(2).map(|dir| dir.join(HELPER)).find(|file| file.is_file());
    let mut command =
        Command::new(program.unwrap_or_else(|| panic!("{HELPER} is not built beside {}", test.display())));
    command.arg(role);
    command
}

/// Runs a command of the helper with `-o json` and reads its answer.
///
/// # Panics
/// If it cannot be started.
pub fn call(command: &mut Command, args: &[&str]) -> Answer {
    command.args(args).args(["-o", "json"]).stdin(Stdio::null());
    let output = command.output().expect("run heirloom");
    Answer {
        exit_code: output.status.code().unwrap_or(-1),
        json: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
