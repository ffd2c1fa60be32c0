//! The index against a filter that asks every series.

use proptest::prelude::*;

use super::super::labels::Labels;
use super::super::matcher::Matcher;
use super::*;

/// What a user means, without any index: the matchers on each series' own value.
fn filter(series: &[Labels], matchers: &[Matcher]) -> Vec<u32> {
    let tests: Vec<_> = matchers.iter().map(test).collect();
    (0..).zip(series).filter(|(_, labels)| tests.iter().all(|test| test(labels))).map(|(i, _)| i).collect()
}

fn test(matcher: &Matcher) -> Box<dyn Fn(&Labels) -> bool + '_> {
    let regex = |e: &str| regex::Regex::new(&format!("^(?s:{e})$")).expect("an expression");
    let value = |labels: &Labels, name: &str| {
        labels.iter().find(|(n, _)| *n == name).map_or(String::new(), |(_, v)| v.to_owned())
    };
    match matcher {
        Matcher::Equal(name, wanted) => Box::new(move |labels| value(labels, name) == *wanted),
        Matcher::NotEqual(name, wanted) => Box::new(move |labels| value(labels, name) != *wanted),
        Matcher::Regex(name, expression) => {
            let regex = regex(expression);
            Box::new(move |labels| regex.is_match(&value(labels, name)))
        }
        Matcher::NotRegex(name, expression) => {
            let regex = regex(expression);
            Box::new(move |labels| !regex.is_match(&value(labels, name)))
        }
    }
}

fn index(series: &[Labels]) -> Index {
    let mut index = Index::default();
    series.iter().for_each(|labels| index.add(Some(labels.iter())));
    index
}

/// As a reader answers: what the index found, and its open questions asked of the labels.
fn find(index: &Index, series: &[Labels], matchers: &[Matcher]) -> Vec<u32> {
    let compiled: Vec<_> = matchers.iter().map(|m| Compiled::new(m).expect("a matcher")).collect();
    let found = index.find(&compiled);
    let asked = |number: &u32| found.ask.iter().all(|i| compiled[*i].matches(&series[*number as usize]));
    found.numbers.iter().filter(asked).collect()
}

const NAMES: [&str; 4] = ["__name__", "job", "zone", "absent"];
const VALUES: [&str; 10] = ["", "a", "b", "ab", "web-1", "web-2", "web", "line\nbreak", "ä", "10.0.0.1:80"];
const EXPRESSIONS: [&str; 24] = [
    "",
    "a",
    "a|b",
    "a|",
    "a?",
    ".*",
    ".+",
    "(.*)",
    "web-.*",
    "web-[0-9]|a",
    "web.*|web-1",
    ".*-1",
    ".*e.*",
    "line.break",
    "a$",
    "^a|b$",
    "(?i)A|WEB",
    "(a|b)b?",
    "[^a]",
    "[^a]*",
    "ä",
    r"10\.0\.0\.1:80",
    "(?-s:.*)",
    "x{0}",
];

fn labels() -> impl Strategy<Value = Labels> {
    let value = || proptest::sample::select(&VALUES[..]);
    (value(), value(), value()).prop_map(|values| {
        let pairs = NAMES.into_iter().zip([values.0, values.1, values.2]);
        Labels::of(pairs.filter(|(_, value)| !value.is_empty()))
    })
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let name = || proptest::sample::select(&NAMES[..]);
    let value = || proptest::sample::select(&VALUES[..]);
    let expression = || proptest::sample::select(&EXPRESSIONS[..]);
    prop_oneof![
        (name(), value()).prop_map(|(n, v)| Matcher::equal(n, v)),
        (name(), value()).prop_map(|(n, v)| Matcher::not_equal(n, v)),
        (name(), expression()).prop_map(|(n, v)| Matcher::regex(n, v)),
        (name(), expression()).prop_map(|(n, v)| Matcher::not_regex(n, v)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn finds_what_a_filter_finds(
        series in proptest::collection::vec(labels(), 0..60),
        matchers in proptest::collection::vec(matcher(), 0..4),
    ) {
        let naive = filter(&series, &matchers);
        prop_assert_eq!(find(&index(&series), &series, &matchers), naive, "{:?}", matchers);
    }

    /// Taking an expression apart into words and prefixes loses no match, whatever the expression.
    #[test]
    fn an_expression_means_the_same_in_parts(
        expression in expression(),
        values in proptest::collection::vec("[abc0-9]{0,6}", 1..20),
    ) {
        let present = |value| [("l", value)].into_iter().filter(|(_, v): &(&str, &str)| !v.is_empty());
        let series: Vec<Labels> = values.iter().map(|value| Labels::of(present(value))).collect();
        let index = index(&series);
        for matcher in [Matcher::regex("l", &expression), Matcher::not_regex("l", &expression)] {
            let naive = filter(&series, std::slice::from_ref(&matcher));
            prop_assert_eq!(find(&index, &series, std::slice::from_ref(&matcher)), naive, "{}", matcher);
        }
    }
}

/// Expressions that are well formed, of words, classes, anchors, repetitions and alternatives.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof!["[abc]{0,3}", Just("[a-c]".into()), Just(".".into()), Just("^".into()), Just("$".into())];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let repeated = (inner.clone(), proptest::sample::select(&["?", "*", "+", "{0}", "{1,2}", "{2,}"][..]));
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            proptest::collection::vec(inner, 1..4).prop_map(|parts| format!("({})", parts.join("|"))),
            repeated.prop_map(|(part, sign)| format!("(?:{part}){sign}")),
        ]
    })
}

/// Large enough that bitmaps are in play, and that an expression is rather asked of the few series left than of all values.
#[test]
fn many_series() {
    let series: Vec<Labels> = (0..20_000u32)
        .map(|i| {
            let (id, job, pod) = (i.to_string(), (i % 3).to_string(), format!("pod-{}", i / 1000));
            Labels::of([("__name__", "up"), ("id", &id), ("job", &job), ("pod", &pod)])
        })
        .collect();
    let index = index(&series);
    let all = [
        Matcher::equal("__name__", "up"),
        Matcher::not_equal("__name__", "up"),
        Matcher::equal("id", "777"),
        Matcher::equal("pod", "pod-7"),
        Matcher::not_equal("job", "1"),
        Matcher::regex("id", ".*7"),
        Matcher::not_regex("id", "[0-9]*[1-9]"),
        Matcher::regex("pod", "pod-1.|pod-2"),
        Matcher::regex("job", "1|2|"),
        Matcher::equal("none", ""),
    ];
    let alone: Vec<Vec<u32>> = all.iter().map(|m| filter(&series, std::slice::from_ref(m))).collect();
    for (a, of_a) in all.iter().zip(&alone) {
        for (b, of_b) in all.iter().zip(&alone) {
            let both: Vec<u32> = of_a.iter().copied().filter(|number| of_b.binary_search(number).is_ok()).collect();
            assert_eq!(find(&index, &series, &[a.clone(), b.clone()]), both, "{a} {b}");
        }
    }
    let compiled: Vec<_> = [&all[2], &all[5]].into_iter().map(|m| Compiled::new(m).expect("a matcher")).collect();
    assert_eq!(index.find(&compiled).ask, [1], "one series is left: its label is read, not 20,000 values");
}

#[test]
fn names_and_values_of_some_series() {
    let series = [
        Labels::of([("__name__", "up"), ("job", "b")]),
        Labels::of([("__name__", "up"), ("job", "a"), ("zone", "eu")]),
        Labels::of([("__name__", "down"), ("job", "c")]),
    ];
    let index = index(&series);
    assert_eq!(index.names(None), ["__name__", "job", "zone"]);
    assert_eq!(index.values("job", None), ["a", "b", "c"]);
    let up = index.find(&[Compiled::new(&Matcher::equal("__name__", "up")).expect("a matcher")]).numbers;
    assert_eq!(index.values("job", Some(&up)), ["a", "b"]);
    let down = index.find(&[Compiled::new(&Matcher::equal("__name__", "down")).expect("a matcher")]).numbers;
    assert_eq!(index.names(Some(&down)), ["__name__", "job"]);
    assert!(index.values("none", None).is_empty());
}

#[test]
fn what_cannot_be_read_is_left_out_and_named() {
    let mut index = index(&[Labels::of([("__name__", "up")])]);
    index.add(None::<std::iter::Empty<(&str, &str)>>);
    index.add(Some(Labels::of([("__name__", "up"), ("job", "a")]).iter()));
    assert_eq!((index.next(), index.unreadable()), (3, &[1][..]));
    let none = Compiled::new(&Matcher::equal("zone", "")).expect("a matcher");
    assert_eq!(index.find(&[none]).numbers.iter().collect::<Vec<_>>(), [0, 2]);
}
