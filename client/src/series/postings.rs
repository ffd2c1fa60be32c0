//! Sets of series numbers, as an index holds them: most have one or a few members, some have nearly all.
//!
//! Numbers are added in ascending order only. A short list is an array; a longer one a Roaring bitmap, which takes two bytes a
//! number where numbers lie close together, and an eighth of one where nearly all are in.

use std::borrow::Cow;

use roaring::RoaringBitmap;

/// Longest array. Scattered over a large region, a bitmap of fewer would be mostly headers.
const FEW_MAX: usize = 256;

/// Series numbers in ascending order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Postings {
    One(u32),
    /// At most [`FEW_MAX`] in an index; what is computed from it may be longer.
    Few(Vec<u32>),
    Many(Box<RoaringBitmap>),
}

impl Postings {
    pub(crate) const EMPTY: Postings = Postings::Few(Vec::new());

    /// The numbers below `end`.
    pub(crate) fn below(end: u32) -> Self {
        let mut all = RoaringBitmap::new();
        all.insert_range(..end);
        Postings::Many(Box::new(all))
    }

    /// Adds a number above all that are in.
    pub(crate) fn push(&mut self, number: u32) {
        match self {
            Postings::One(first) => *self = Postings::Few(vec![*first, number]),
            Postings::Few(few) if few.is_empty() => *self = Postings::One(number),
            Postings::Few(few) if few.len() < FEW_MAX => {
                if few.len() == few.capacity() {
                    // A quarter more: there are many of these, and doubling would leave a third of them unused.
                    few.reserve_exact(1 + few.len() / 4);
                }
                few.push(number);
            }
            Postings::Few(few) => {
                let mut many: RoaringBitmap = few.iter().copied().collect();
                many.insert(number);
                *self = Postings::Many(Box::new(many));
            }
            Postings::Many(many) => {
                many.insert(number);
            }
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Postings::One(_) => 1,
            Postings::Few(few) => few.len() as u64,
            Postings::Many(many) => many.len(),
        }
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        match self {
            Postings::One(one) => *one == number,
            Postings::Few(few) => few.binary_search(&number).is_ok(),
            Postings::Many(many) => many.contains(number),
        }
    }

    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Postings::One(one) => Box::new(std::iter::once(*one)),
            Postings::Few(few) => Box::new(few.iter().copied()),
            Postings::Many(many) => Box::new(many.iter()),
        }
    }

    /// Whether a number is in both.
    pub(crate) fn meets(&self, other: &Postings) -> bool {
        match (self, other) {
            (Postings::Many(a), Postings::Many(b)) => !a.is_disjoint(b),
            (a, b) if a.len() <= b.len() => a.iter().any(|number| b.contains(number)),
            (a, b) => b.iter().any(|number| a.contains(number)),
        }
    }

    /// What is here and not there.
    pub(crate) fn minus(&self, other: &Postings) -> Postings {
        match self {
            Postings::Many(many) => Postings::Many(Box::new(many.as_ref() - other.bitmap().as_ref())),
            few => Postings::Few(few.iter().filter(|number| !other.contains(*number)).collect()),
        }
    }

    /// What is in any of them.
    pub(crate) fn union<'p>(all: impl IntoIterator<Item = &'p Postings>) -> Cow<'p, Postings> {
        let mut all = all.into_iter();
        let (first, second) = (all.next(), all.next());
        let (Some(first), Some(second)) = (first, second) else {
            return first.map_or(Cow::Owned(Postings::EMPTY), Cow::Borrowed);
        };
        let (mut scattered, mut many) = (Vec::new(), None::<RoaringBitmap>);
        for postings in [first, second].into_iter().chain(all) {
            match postings {
                Postings::One(one) => scattered.push(*one),
                Postings::Few(few) => scattered.extend_from_slice(few),
                Postings::Many(bits) => *many.get_or_insert_default() |= bits.as_ref(),
            }
        }
        scattered.sort_unstable();
        scattered.dedup();
        Cow::Owned(match many {
            None => Postings::Few(scattered),
            Some(many) => Postings::Many(Box::new(many | scattered.into_iter().collect::<RoaringBitmap>())),
        })
    }

    /// What is in all of `within`, of which there is at least one, and in none of `without`.
    pub(crate) fn intersection(mut within: Vec<Cow<'_, Postings>>, without: &[Cow<'_, Postings>]) -> Postings {
        within.sort_by_key(|postings| postings.len());
        let Some((smallest, rest)) = within.split_first() else { return Postings::EMPTY };
        if let Postings::Many(smallest) = smallest.as_ref()
            && smallest.len() > 1 << 14
        {
            let mut left = smallest.as_ref().clone();
            rest.iter().for_each(|postings| left &= postings.bitmap().as_ref());
            without.iter().for_each(|postings| left -= postings.bitmap().as_ref());
            return Postings::Many(Box::new(left));
        }
        let in_all =
            |number: u32| rest.iter().all(|p| p.contains(number)) && !without.iter().any(|p| p.contains(number));
        Postings::Few(smallest.iter().filter(|number| in_all(*number)).collect())
    }

    fn bitmap(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Postings::Many(many) => Cow::Borrowed(many),
            few => Cow::Owned(few.iter().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn postings(numbers: &BTreeSet<u32>) -> Postings {
        let mut postings = Postings::EMPTY;
        numbers.iter().for_each(|number| postings.push(*number));
        postings
    }

    /// Of all three kinds, dense and scattered.
    fn numbers() -> impl Strategy<Value = BTreeSet<u32>> {
        prop_oneof![
            proptest::collection::btree_set(0u32..200_000, 0..4),
            proptest::collection::btree_set(0u32..200_000, 0..600),
            (0u32..100_000, 0u32..40_000).prop_map(|(start, count)| (start..start + count).collect()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn sets_are_sets(a in numbers(), b in numbers(), c in numbers()) {
            let (pa, pb, pc) = (postings(&a), postings(&b), postings(&c));
            let of = |p: &Postings| p.iter().collect::<Vec<_>>();
            prop_assert_eq!(of(&pa), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(pa.len(), a.len() as u64);
            prop_assert_eq!(pa.meets(&pb), !a.is_disjoint(&b));
            prop_assert_eq!(of(&pa.minus(&pb)), a.difference(&b).copied().collect::<Vec<_>>());
            let union: BTreeSet<u32> = &(&a | &b) | &c;
            prop_assert_eq!(of(&Postings::union([&pa, &pb, &pc])), union.into_iter().collect::<Vec<_>>());
            let both: BTreeSet<u32> = &(&a & &b) - &c;
            let found = Postings::intersection(vec![Cow::Borrowed(&pa), Cow::Borrowed(&pb)], &[Cow::Borrowed(&pc)]);
            prop_assert_eq!(of(&found), both.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn below_is_all_below() {
        assert_eq!(Postings::below(3).iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(Postings::below(0).len(), 0);
    }
}
