//! Compiled matchers: which values a matcher wants, and where in a sorted table of values they can be.
//!
//! A regular expression is anchored at both ends and its dot matches a newline, as in Prometheus 3. One that is a finite set of
//! words (`a|b`, `5..` is not) becomes that set; of any other the words and prefixes that every match begins with are kept, so
//! that an index looks at the values between them alone.

use std::collections::BTreeSet;
use std::ops::Bound;

use heirloom_region::error::Misuse;
use regex::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::{Extractor, Literal};
use regex_syntax::hir::{Hir, HirKind};

use super::dialect;
use super::labels::Labels;
use super::matcher::Matcher;

/// Most words that an expression is taken apart into.
const WORDS_MAX: usize = 4096;
/// Most characters of a class that become a word each.
const CLASS_MAX: usize = 256;

/// A matcher, ready to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) name: String,
    /// It wants what `pattern` does not match.
    pub(crate) negative: bool,
    pub(crate) pattern: Pattern,
}

/// What a value is held against. A label that is not there has the empty value.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    /// Any of these.
    Words(BTreeSet<String>),
    /// All but the empty one: `.+`.
    NotEmpty,
    /// Each: `.*`.
    All,
    Regex(Expression),
}

/// Any other regular expression.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    regex: Regex,
    matches_empty: bool,
    /// Where every match is: one of these words, or behind one of these prefixes. No prefix begins with another, and no
    /// word with a prefix. `None`: it may be anywhere.
    pub(crate) begins: Option<(BTreeSet<String>, BTreeSet<String>)>,
}

impl Compiled {
    /// # Errors
    /// [`Misuse::Argument`] for a regular expression that is none, or is too large.
    pub(crate) fn new(matcher: &Matcher) -> Result<Self, Misuse> {
        let (name, negative, pattern) = match matcher {
            Matcher::Equal(name, value) => (name, false, Pattern::word(value)),
            Matcher::NotEqual(name, value) => (name, true, Pattern::word(value)),
            Matcher::Regex(name, expression) => (name, false, Pattern::expression(expression)?),
            Matcher::NotRegex(name, expression) => (name, true, Pattern::expression(expression)?),
        };
        Ok(Self { name: name.clone(), negative, pattern })
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.wants(labels.get(&self.name).unwrap_or_default())
    }

    /// Whether a series without the label is wanted.
    pub(crate) fn matches_empty(&self) -> bool {
        self.wants("")
    }

    fn wants(&self, value: &str) -> bool {
        self.pattern.is_match(value) != self.negative
    }
}

impl Pattern {
    fn word(word: &str) -> Self {
        Pattern::Words(BTreeSet::from([word.to_owned()]))
    }

    fn expression(text: &str) -> Result<Self, Misuse> {
        let pattern = dialect::from_go(text);
        let refuse = |why: String| Misuse::Argument { what: "regular expression", found: format!("{text:?}: {why}") };
        let parsed = ParserBuilder::new().dot_matches_new_line(true).octal(true).build().parse(&pattern);
        let hir = parsed.map_err(|why| refuse(why.to_string()))?;
        let begins = beginnings(&hir);
        // What looks around itself may match less than its words say.
        if let Some((words, prefixes)) = &begins
            && prefixes.is_empty()
            && hir.properties().look_set().is_empty()
        {
            return Ok(Pattern::Words(words.clone()));
        }
        if let HirKind::Repetition(all) = hir.kind()
            && *all.sub == Hir::dot(regex_syntax::hir::Dot::AnyChar)
            && all.max.is_none()
            && all.min <= 1
        {
            return Ok(if all.min == 0 { Pattern::All } else { Pattern::NotEmpty });
        }
        let anchored = format!("^(?s:{pattern})$");
        let regex = regex::RegexBuilder::new(&anchored).octal(true).build().map_err(|why| refuse(why.to_string()))?;
        Ok(Pattern::Regex(Expression { matches_empty: regex.is_match(""), regex, begins }))
    }

    pub(crate) fn is_match(&self, value: &str) -> bool {
        match self {
            Pattern::Words(words) => words.contains(value),
            Pattern::NotEmpty => !value.is_empty(),
            Pattern::All => true,
            Pattern::Regex(expression) => expression.is_match(value),
        }
    }
}

impl Expression {
    pub(crate) fn is_match(&self, value: &str) -> bool {
        if value.is_empty() { self.matches_empty } else { self.regex.is_match(value) }
    }
}

/// The words and prefixes that every match is or begins with, if there are few.
fn beginnings(hir: &Hir) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let mut extractor = Extractor::new();
    extractor.limit_class(CLASS_MAX).limit_literal_len(WORDS_MAX).limit_total(WORDS_MAX);
    let found = extractor.extract(hir);
    let (words, prefixes): (Vec<&Literal>, Vec<&Literal>) = found.literals()?.iter().partition(|l| l.is_exact());
    let text = |literal: &Literal| std::str::from_utf8(literal.as_bytes()).map(str::to_owned).ok();
    let all: BTreeSet<String> = prefixes.into_iter().map(text).collect::<Option<_>>()?;
    let words: BTreeSet<String> = words.into_iter().map(text).collect::<Option<_>>()?;
    if all.contains("") {
        return None;
    }
    let mut prefixes = BTreeSet::<String>::new();
    for prefix in all {
        // In ascending order, what begins with a prefix comes right after it.
        if prefixes.last().is_none_or(|before| !prefix.starts_with(before.as_str())) {
            prefixes.insert(prefix);
        }
    }
    let behind = |word: &str| {
        prefixes
            .range::<str, _>((Bound::Unbounded, Bound::Included(word)))
            .next_back()
            .is_some_and(|p| word.starts_with(p.as_str()))
    };
    let words = words.into_iter().filter(|word| !behind(word)).collect();
    Some((words, prefixes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Pattern {
        Pattern::expression(text).expect("an expression")
    }

    #[test]
    fn what_is_a_set_is_a_set() {
        for (text, expected) in [
            ("", &[""][..]),
            ("a", &["a"]),
            ("a|b|ab", &["a", "b", "ab"]),
            ("(foo|foobar)-[12]", &["foo-1", "foo-2", "foobar-1", "foobar-2"]),
            ("a?", &["", "a"]),
            (r"10\.0\.0\.1:9100|x", &["10.0.0.1:9100", "x"]),
            ("(?i)a", &["a", "A"]),
        ] {
            match of(text) {
                Pattern::Words(words) => assert!(
                    words.iter().map(String::as_str).eq(BTreeSet::from_iter(expected.iter().copied())),
                    "{text}: {words:?}"
                ),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_everything_is_everything() {
        assert!(matches!(of(".*"), Pattern::All));
        assert!(matches!(of(".+"), Pattern::NotEmpty));
        assert!(matches!(of("(?-s:.*)"), Pattern::Regex(_)));
    }

    #[test]
    fn beginnings_do_not_overlap() {
        let begins = |text: &str| match of(text) {
            Pattern::Regex(expression) => expression.begins,
            other => panic!("{text}: {other:?}"),
        };
        let set = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(begins("web-.*"), Some((set(&[]), set(&["web-"]))));
        assert_eq!(begins("web.*|web-1|web-2.*|db"), Some((set(&["db"]), set(&["web"]))));
        assert_eq!(begins(".*-web"), None);
        assert_eq!(begins("^web$"), Some((set(&["web"]), set(&[]))));
    }

    #[test]
    fn a_bad_expression_is_named() {
        match Pattern::expression("a(") {
            Err(Misuse::Argument { what: "regular expression", found }) => assert!(found.contains("\"a(\""), "{found}"),
            other => panic!("{other:?}"),
        }
        assert!(Pattern::expression("(((a{1000}){1000}){1000})").is_err(), "too large to compile");
    }
}
