//! What was broken on purpose, and that the tests see it: `tests/mutants.toml`.
//!
//! Without further words each entry is checked to still name a text that stands exactly once, so that the list cannot rot.
//! `HEIRLOOM_MUTANTS=all cargo test -p heirloom-tests --test mutants -- --nocapture` (or a part of a name in place of `all`)
//! puts one after the other into a copy of the workspace, builds it, and wants its test to fail: it must compile, and the
//! test must not pass. Everybody may run it; it takes about a minute for each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde::Deserialize;

#[derive(Deserialize)]
struct List {
    mutant: Vec<Mutant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    file: String,
    from: String,
    to: String,
    package: String,
    /// A test's name, or a part of it.
    test: String,
    /// It is a model of loom's.
    #[serde(default)]
    loom: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn list() -> Vec<Mutant> {
    let text = fs::read_to_string(root().join("tests/mutants.toml")).expect("the list");
    toml::from_str::<List>(&text).expect("a list of mutants").mutant
}

#[test]
fn each_mutant_changes_a_text_that_stands_once() {
    let wrong: Vec<String> = list()
        .iter()
        .filter_map(|m| {
            let text = fs::read_to_string(root().join(&m.file)).unwrap_or_default();
            let found = text.matches(&m.from).count();
            (found != 1 || m.from == m.to)
                .then(|| format!("{}: expected once in {}, found {found} times", m.name, m.file))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_mutant_is_seen() {
    let Ok(which) = env::var("HEIRLOOM_MUTANTS") else { return };
    let copy = copy_of_the_workspace();
    let mut survivors = Vec::new();
    let chosen: Vec<_> = list().into_iter().filter(|m| which == "all" || m.name.contains(&which)).collect();
    assert!(!chosen.is_empty(), "no mutant is called {which}");
    for mutant in &chosen {
        let at = copy.join(&mutant.file);
        let whole = fs::read_to_string(root().join(&mutant.file)).expect("checked above");
        fs::write(&at, whole.replace(&mutant.from, &mutant.to)).expect("the copy");
        let built = cargo(&copy, mutant, &["--no-run"]);
        let passes = built && cargo(&copy, mutant, &[]);
        fs::write(&at, whole).expect("the copy");
        let word = match (built, passes) {
            (false, _) => "DOES NOT COMPILE",
            (true, true) => "SURVIVES",
            (true, false) => "seen",
        };
        println!("{word:16} {}", mutant.name);
        if word != "seen" {
            survivors.push(format!("{word}: {}", mutant.name));
        }
    }
    assert!(survivors.is_empty(), "{survivors:#?}");
}

/// Runs the mutant's tests in the copy; true if all passed.
fn cargo(copy: &Path, mutant: &Mutant, more: &[&str]) -> bool {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--quiet", "--locked", "-p", &mutant.package, &mutant.test]).args(more);
    // The tests of the copy are to fail, not to run mutants of their own.
    command.current_dir(copy).env_remove("HEIRLOOM_MUTANTS");
    if mutant.loom {
        // In a directory of its own: other flags build everything anew.
        command
            .args(["--release", "--lib"])
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_TARGET_DIR", target.join("loom"));
    } else {
        command.env("CARGO_TARGET_DIR", target);
    }
    let output = command.output().expect("cargo");
    if more.is_empty() || !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let said = |line: &&str| line.contains("is broken") || line.contains("panicked") || line.starts_with("error");
        text.lines().filter(said).take(2).for_each(|line| println!("    {line}"));
    }
    output.status.success()
}

/// Every tracked file, in a directory of its own; unchanged ones keep their time, so that little is built again.
fn copy_of_the_workspace() -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git");
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    for name in names.split_terminator('\0') {
        let (from, to) = (root().join(name), copy.join(name));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
            fs::write(&to, bytes).expect("a copy");
        }
    }
    copy
}
