//! Whether an instance can read every value in the region that it asked for: what it declared against what is there.
//!
//! An object that an instance did not declare is none of its business and stays whole; so a version that drops an object
//! can own. A value without any schema in the region (never written) can be read by everyone.

use std::collections::HashMap;

use super::message::Need;
use super::reason::Reason;

/// Needs that one instance may declare.
pub(crate) const NEEDS_MAX: usize = 64 * 1024;

/// Objects of one name that have values in the same schemas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Its name.
    pub object: String,
    /// Its kind.
    pub kind: String,
    /// The schemas in which its value is there; reading one of them is enough.
    pub schemas: Vec<u32>,
}

/// The verdict on `needs`: the first object that cannot be read, and why.
///
/// # Errors
/// `KIND_MISMATCH` or `SCHEMA_UNREADABLE`, with words that name the object, what the instance reads and what is there.
pub fn verdict<'a>(needs: &[Need], present: impl IntoIterator<Item = &'a Present>) -> Result<(), (Reason, String)> {
    // As many cells as needs, and neither few: not each with each.
    let by_name: HashMap<&str, &Need> = needs.iter().map(|need| (need.object.as_str(), need)).collect();
    for there in present {
        if let Some(need) = by_name.get(there.object.as_str()) {
            if !need.kind.is_empty() && !there.kind.is_empty() && need.kind != there.kind {
                let words = format!("{}: is a {} in the region, not a {}", there.object, there.kind, need.kind);
                return Err((Reason::KindMismatch, words));
            }
            if !there.schemas.is_empty() && !there.schemas.iter().any(|s| need.readable.contains(s)) {
                let words = format!(
                    "{}: the region holds schema {:?}, this instance reads {:?}",
                    there.object, there.schemas, need.readable
                );
                return Err((Reason::SchemaUnreadable, words));
            }
        }
    }
    Ok(())
}

/// Takes a declaration in: the same object again replaces its need. `false` if there is no room.
pub(crate) fn declare(needs: &mut Vec<Need>, more: Vec<Need>) -> bool {
    let mut places: HashMap<String, usize> = needs.iter().map(|n| n.object.clone()).zip(0..).collect();
    for need in more {
        if let Some(known) = places.get(&need.object) {
            needs[*known] = need;
        } else if needs.len() < NEEDS_MAX {
            places.insert(need.object.clone(), needs.len());
            needs.push(need);
        } else {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(object: &str, readable: &[u32]) -> Need {
        Need { object: object.into(), kind: "cell".into(), readable: readable.into(), written: vec![] }
    }
    fn there(object: &str, kind: &str, schemas: &[u32]) -> Present {
        Present { object: object.into(), kind: kind.into(), schemas: schemas.into() }
    }

    #[test]
    fn one_readable_schema_is_enough() {
        let needs = [need("basket", &[1, 2])];
        assert_eq!(verdict(&needs, &[there("basket", "cell", &[2, 3])]), Ok(()));
        assert_eq!(verdict(&needs, &[there("basket", "cell", &[])]), Ok(()));
        assert_eq!(verdict(&needs, &[there("dropped", "cell", &[9])]), Ok(()));
        let (reason, words) = verdict(&needs, &[there("basket", "cell", &[3])]).expect_err("unreadable");
        assert_eq!(reason, Reason::SchemaUnreadable);
        assert!(words.contains("basket") && words.contains("[3]") && words.contains("[1, 2]"), "{words}");
        assert_eq!(verdict(&needs, &[there("basket", "map", &[1])]).expect_err("kind").0, Reason::KindMismatch);
    }

    #[test]
    fn declaring_again_replaces() {
        let mut needs = vec![need("a", &[1])];
        assert!(declare(&mut needs, vec![need("b", &[1]), need("a", &[2])]));
        assert_eq!((needs.len(), &needs[0].readable[..]), (2, &[2][..]));
    }
}
