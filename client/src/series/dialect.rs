//! Prometheus' regular expressions are Go's (RE2); ours are the `regex` crate's. The two mean the same by the same text but for
//! a few spots, which are rewritten here:
//!
//! | text | Go | `regex`, as it stands |
//! |---|---|---|
//! | `\d` `\w` `\s` `\b` and their opposites | ASCII, and `\s` without the vertical tab | Unicode |
//! | `\Q…\E` | literal text | an error |
//! | `{` that opens no repetition, as in `/api/{id}` | literal | an error |
//! | `[`, `&&`, `~~`, `--` within a class | literal | nested classes, set operations |
//!
//! What Go refuses and we accept (`(?x)`, `**`) stays accepted.

use std::iter::Peekable;
use std::str::CharIndices;

/// `pattern` in the `regex` crate's syntax.
pub(crate) fn from_go(pattern: &str) -> String {
    let mut translation = Translation { pattern, rest: pattern.char_indices().peekable(), out: String::new() };
    translation.run();
    translation.out
}

struct Translation<'p> {
    pattern: &'p str,
    rest: Peekable<CharIndices<'p>>,
    out: String,
}

impl Translation<'_> {
    fn run(&mut self) {
        while let Some((at, c)) = self.rest.next() {
            match c {
                '\\' => self.escape(false),
                '[' => self.class(),
                '{' if !opens_repetition(&self.pattern[at..]) => self.out.push_str(r"\{"),
                c => self.out.push(c),
            }
        }
    }

    /// After a backslash.
    fn escape(&mut self, in_class: bool) {
        let Some((at, c)) = self.rest.next() else {
            self.out.push('\\'); // and the crate says what is wrong with it
            return;
        };
        match c {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            's' => self.out.push_str(r"[\t\n\f\r ]"),
            'S' => self.out.push_str(r"[^\t\n\f\r ]"),
            'b' if !in_class => self.out.push_str(r"(?-u:\b)"),
            'B' if !in_class => self.out.push_str(r"(?-u:\B)"),
            'Q' if !in_class => {
                let literal = &self.pattern[at + 1..];
                let literal = literal.split_once(r"\E").map_or(literal, |(literal, _)| literal);
                self.out.push_str(&regex::escape(literal));
                let end = at + 1 + literal.len() + r"\E".len();
                while self.rest.next_if(|(at, _)| *at < end).is_some() {}
            }
            c => self.out.extend(['\\', c]),
        }
    }

    /// After a `[`.
    fn class(&mut self) {
        self.out.push('[');
        if self.rest.next_if(|(_, c)| *c == '^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        while let Some((at, c)) = self.rest.next() {
            if c == ']' && !first {
                return self.out.push(']');
            }
            first = false;
            let after = &self.pattern[self.member(at, c)..];
            // A dash before the closing bracket is a member.
            if after.starts_with('-') && !after.starts_with("-]") {
                self.rest.next();
                self.out.push('-');
                if let Some((at, c)) = self.rest.next() {
                    self.member(at, c);
                }
            }
        }
    }

    /// A class's member that starts at `at` with `c`; where a dash would begin a range from it.
    fn member(&mut self, at: usize, c: char) -> usize {
        match c {
            '\\' => {
                let named = self.rest.peek().is_some_and(|(_, c)| "dDwWsS".contains(*c));
                self.escape(true);
                if named {
                    return self.pattern.len(); // no range begins with a class
                }
            }
            '[' => match posix(&self.pattern[at..]) {
                Some(name) => {
                    self.out.push_str(name);
                    while self.rest.next_if(|(next, _)| *next < at + name.len()).is_some() {}
                    return self.pattern.len();
                }
                None => self.out.push_str(r"\["),
            },
            '&' | '~' | '-' | ']' | '^' => self.out.extend(['\\', c]),
            c => self.out.push(c),
        }
        self.rest.peek().map_or(self.pattern.len(), |(next, _)| *next)
    }
}

/// Whether this begins with `{n}`, `{n,}` or `{n,m}`.
fn opens_repetition(text: &str) -> bool {
    let Some((inside, _)) = text[1..].split_once('}') else { return false };
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

/// `[:alpha:]` at the start of this, if there is one.
fn posix(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("[:")?;
    let end = inside.find(":]")?;
    let name = inside[..end].strip_prefix('^').unwrap_or(&inside[..end]);
    name.bytes().all(|b| b.is_ascii_lowercase()).then(|| &text[..end + 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let pattern = format!("^(?s:{})$", from_go(pattern));
        regex::Regex::new(&pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")).is_match(text)
    }

    /// Each line is what Go 1.22 answers.
    #[test]
    fn means_what_go_means() {
        let table = [
            (r"\d+", "12", true),
            (r"\d", "\u{663}", false), // an Arabic digit
            (r"\D", "\u{663}", true),
            (r"\w+", "aZ_9", true),
            (r"\w", "ä", false),
            (r"[\W]", "ä", true),
            (r"[^\w]", "ä", true),
            (r"a\sb", "a b", true),
            (r"a\sb", "a\u{b}b", false),
            (r"ä\b.*", "ä", false), // no word character for Go
            (r"a\b.*", "a-", true),
            (r"\Qa.b\E+", "a.bb", true),
            (r"\Qa.b", "a.b", true),
            (r"\Qa.b", "axb", false),
            ("/api/{id}", "/api/{id}", true),
            ("a{,5}", "a{,5}", true),
            ("a{2}", "aa", true),
            ("a{2,}b{1,2}", "aaabb", true),
            ("{", "{", true),
            ("[[a]", "[", true),
            ("[[a]", "a", true),
            ("[a&&b]+", "a&b", true),
            ("[a~~b]+", "a~b", true),
            ("[+--]+", "+,-", true),
            ("[+--]", ".", false),
            ("[--/]+", "-./", true),
            (r"[\d-z]+", "1-z", true),
            (r"[\d-z]", "a", false),
            (r"[\n-a]+", "\nAa", true),
            ("[a-]+", "a-", true),
            ("[a^]+", "^a", true),
            ("[]a]+", "]a", true),
            ("[^]a]+", "]", false),
            ("[[:alpha:]_]+", "ab_", true),
            ("[[:^alpha:]]+", "12", true),
            (r"[\]a]+", "]a", true),
            ("(?i)K", "\u{212a}", true), // the Kelvin sign folds to k, in Go too
            ("a.b", "a\nb", true),
            ("(?-s)a.b", "a\nb", false),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            (r"\x41\x{42}", "AB", true),
            (r"\pL+", "aä", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} on {text:?}, as {:?}", from_go(pattern));
        }
    }
}
