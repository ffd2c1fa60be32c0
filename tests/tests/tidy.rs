//! Rules of the source that neither the compiler nor clippy checks: a crate could drop its own `forbid`, and a lint that only
//! warns can be allowed away.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Where `unsafe` may stand, and why it must.
const UNSAFE_ALLOWED: [&str; 3] = ["client/region/", "tests/src/sys.rs", "tests/benches/figures/mmap.rs"];
/// How far above an unsafe block its SAFETY comment may end.
const SAFETY_LINES_MAX: usize = 4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Every tracked Rust file with its text.
fn sources() -> Vec<(String, String)> {
    let listed = Command::new("git").args(["ls-files", "-z", "*.rs"]).current_dir(root()).output().expect("git");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?));
    let found: Vec<_> = names.split_terminator('\0').filter_map(read).collect();
    assert!(found.len() > 100, "expected the whole workspace, found {} files", found.len());
    found
}

/// The line without its comment and without what stands in quotes.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn crates_without_unsafe_forbid_it() {
    for lib in ["proto/src/lib.rs", "client/src/lib.rs", "sidecar/src/lib.rs", "examples/src/lib.rs"] {
        let text = fs::read_to_string(root().join(lib)).expect(lib);
        assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{lib}: expected #![forbid(unsafe_code)]");
    }
}

#[test]
fn unsafe_stands_only_where_it_must_and_says_why() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = code(line);
            let at = format!("{name}:{}", i + 1);
            if !has_word(&code, "unsafe") {
                continue;
            }
            if !UNSAFE_ALLOWED.iter().any(|allowed| name.starts_with(allowed)) {
                wrong.push(format!("{at}: unsafe, expected only in {UNSAFE_ALLOWED:?}"));
            }
            let above = &lines[i.saturating_sub(SAFETY_LINES_MAX)..=i];
            let is_block = code.contains("unsafe {") || code.contains("unsafe impl");
            if is_block && !above.iter().any(|line| line.contains("SAFETY")) {
                wrong.push(format!("{at}: expected a SAFETY comment within {SAFETY_LINES_MAX} lines above"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    // In two pieces, so that this file does not name them.
    let marks = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("to", "do!"), ("unimplem", "ented!")];
    let marks = marks.map(|(a, b)| format!("{a}{b}"));
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        for (i, line) in text.lines().enumerate() {
            wrong.extend(
                marks.iter().filter(|mark| line.contains(*mark)).map(|mark| format!("{name}:{}: {mark}", i + 1)),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
