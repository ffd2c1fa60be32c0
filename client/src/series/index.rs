//! From labels to series: which series have a label, and which have it with a value.
//!
//! An index is this process's own, and is made of the region's append-only directory of series: [`Index::add`] takes the next
//! number each time, so every set of numbers only grows at its end, and an index that is behind is a right index of a younger
//! directory. Each name and each value stands in it once. Both tables are ordered, so that adding never moves all of them at
//! once, values come out sorted, and a regular expression's prefix is a range.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::pattern::{Compiled, Expression, Pattern};
use super::postings::Postings;

/// How much longer it takes to read the labels of one series in the region than to hold one value against an expression.
const READ_COST: u64 = 16;
/// A matcher that looks at no more values than this is never put off.
const CHEAP: u64 = 64;

/// The index of the series below [`Index::next`].
#[derive(Debug, Default)]
pub(crate) struct Index {
    names: BTreeMap<Box<str>, Name>,
    next: u32,
    /// Series whose labels could not be read. Any of them might be meant.
    unreadable: Vec<u32>,
}

/// One label.
#[derive(Debug)]
struct Name {
    /// Series that have it.
    any: Postings,
    values: BTreeMap<Box<str>, Postings>,
}

/// What an index knows of the series that match.
#[derive(Debug)]
pub(crate) struct Found {
    /// All that match are among them.
    pub(crate) numbers: Postings,
    /// Positions of matchers that are still to be asked, of each series; cheaper so than from here.
    pub(crate) ask: Vec<usize>,
}

impl Index {
    /// The first series that is not in.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }
    pub(crate) fn unreadable(&self) -> &[u32] {
        &self.unreadable
    }

    /// Adds series [`next`](Self::next), or leaves it out as unreadable.
    pub(crate) fn add<'a>(&mut self, labels: Option<impl Iterator<Item = (&'a str, &'a str)>>) {
        let number = self.next;
        self.next += 1;
        let Some(labels) = labels else { return self.unreadable.push(number) };
        for (name, value) in labels {
            let name = match self.names.get_mut(name) {
                Some(known) => known,
                None => self.names.entry(name.into()).or_insert(Name { any: Postings::EMPTY, values: BTreeMap::new() }),
            };
            name.any.push(number);
            match name.values.get_mut(value) {
                Some(known) => known.push(number),
                None => drop(name.values.insert(value.into(), Postings::One(number))),
            }
        }
    }

    /// Looks up what is cheap to look up, smallest first.
    pub(crate) fn find(&self, matchers: &[Compiled]) -> Found {
        let mut order: Vec<(u64, usize)> = matchers.iter().map(|m| self.cost(m)).zip(0..).collect();
        order.sort_unstable();
        let (mut within, mut without, mut ask) = (Vec::new(), Vec::new(), Vec::new());
        let mut most = u64::from(self.next);
        for (cost, i) in order {
            if cost > CHEAP && most.saturating_mul(READ_COST) < cost {
                ask.push(i);
                continue;
            }
            match self.constraint(&matchers[i]) {
                Constraint::None => {}
                Constraint::Within(postings) => {
                    most = most.min(postings.len());
                    within.push(postings);
                }
                Constraint::Without(postings) => without.push(postings),
            }
            if most == 0 {
                return Found { numbers: Postings::EMPTY, ask: Vec::new() };
            }
        }
        if within.is_empty() {
            let mut readable = Postings::below(self.next);
            if !self.unreadable.is_empty() {
                readable = readable.minus(&Postings::Few(self.unreadable.clone()));
            }
            within.push(Cow::Owned(readable));
        }
        Found { numbers: Postings::intersection(within, &without), ask }
    }

    /// About how many values it takes to answer a matcher.
    fn cost(&self, matcher: &Compiled) -> u64 {
        let values = || self.names.get(matcher.name.as_str()).map_or(0, |name| name.values.len() as u64);
        match &matcher.pattern {
            Pattern::Words(words) => words.len() as u64,
            Pattern::NotEmpty | Pattern::All => 1,
            Pattern::Regex(_) => values(),
        }
    }

    fn constraint(&self, matcher: &Compiled) -> Constraint<'_> {
        let Some(name) = self.names.get(matcher.name.as_str()) else {
            // Nobody has the label, so all have it empty.
            return match matcher.matches_empty() {
                true => Constraint::None,
                false => Constraint::Within(Cow::Owned(Postings::EMPTY)),
            };
        };
        let takes_empty = matcher.pattern.is_match("");
        match (matcher.negative, takes_empty) {
            (false, false) => Constraint::Within(name.of(&matcher.pattern)),
            (true, false) => Constraint::Without(name.of(&matcher.pattern)),
            (false, true) => Constraint::Without(name.but(&matcher.pattern)),
            (true, true) => Constraint::Within(name.but(&matcher.pattern)),
        }
    }

    /// The names of labels of `of`, or of all series; sorted.
    pub(crate) fn names(&self, of: Option<&Postings>) -> Vec<String> {
        let meets = |name: &Name| of.is_none_or(|of| name.any.meets(of));
        self.names.iter().filter(|(_, name)| meets(name)).map(|(text, _)| text.as_ref().to_owned()).collect()
    }
    /// The values of a label of `of`, or of all series; sorted.
    pub(crate) fn values(&self, name: &str, of: Option<&Postings>) -> Vec<String> {
        let Some(name) = self.names.get(name) else { return Vec::new() };
        let meets = |series: &Postings| of.is_none_or(|of| series.meets(of));
        name.values.iter().filter(|(_, series)| meets(series)).map(|(text, _)| text.as_ref().to_owned()).collect()
    }
}

/// What a matcher says of series.
enum Constraint<'i> {
    None,
    /// They are among these.
    Within(Cow<'i, Postings>),
    /// They are not among these.
    Without(Cow<'i, Postings>),
}

impl Name {
    /// Series with a value that matches.
    fn of(&self, pattern: &Pattern) -> Cow<'_, Postings> {
        match pattern {
            Pattern::NotEmpty | Pattern::All => Cow::Borrowed(&self.any),
            Pattern::Words(words) => Postings::union(words.iter().filter_map(|word| self.values.get(word.as_str()))),
            Pattern::Regex(expression) => Postings::union(self.matching(expression)),
        }
    }

    /// Series with a value that does not match.
    fn but(&self, pattern: &Pattern) -> Cow<'_, Postings> {
        match self.of(pattern).as_ref() {
            none if none.len() == 0 => Cow::Borrowed(&self.any),
            some => Cow::Owned(self.any.minus(some)),
        }
    }

    fn matching(&self, expression: &Expression) -> Vec<&Postings> {
        let matches = |value: &str| expression.is_match(value);
        let Some((words, prefixes)) = &expression.begins else {
            return self.values.iter().filter(|(value, _)| matches(value)).map(|(_, postings)| postings).collect();
        };
        let words = words.iter().filter_map(|word| self.values.get_key_value(word.as_str()));
        let behind = prefixes.iter().flat_map(|prefix| {
            let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
            self.values.range::<str, _>(from).take_while(|(value, _)| value.starts_with(prefix.as_str()))
        });
        words.chain(behind).filter(|(value, _)| matches(value)).map(|(_, postings)| postings).collect()
    }
}

#[cfg(test)]
mod tests;
