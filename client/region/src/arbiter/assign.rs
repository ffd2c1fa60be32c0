//! Which region an instance joins that leaves the choice to the sidecar (`HEIRLOOM_REPLICA=auto`).
//!
//! Pure: the caller holds its table of regions still while it asks and acts on the answer.

/// A region of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// Its replica name; empty for the region that bears the service's own name.
    pub replica: String,
    /// When it was created; the lowest is the oldest.
    pub created: u64,
    /// The version of its owner; none while it is vacant.
    pub owner_version: Option<String>,
    /// Attached instances that might own and never have: they came for this region's next term.
    pub standbys: usize,
    /// It cannot be joined: corrupt, quarantined, full.
    pub closed: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// Join this one.
    Join(String),
    /// Create this one.
    Create(String),
    /// All are taken, and no more may be created.
    Full {
        /// How many there may be.
        replicas_max: usize,
    },
}

/// The oldest vacant region that nobody waits in; else the oldest whose owner has another version and where nobody waits; else
/// a new one, named by the lowest free number.
pub fn assign(regions: &[Replica], version: &str, replicas_max: usize) -> Assignment {
    let mut open: Vec<&Replica> = regions.iter().filter(|r| !r.closed && r.standbys == 0).collect();
    open.sort_by(|a, b| (a.created, &a.replica).cmp(&(b.created, &b.replica)));
    let vacant = open.iter().find(|r| r.owner_version.is_none());
    let upgrade = || open.iter().find(|r| r.owner_version.as_deref().is_some_and(|v| v != version));
    if let Some(region) = vacant.or_else(upgrade) {
        return Assignment::Join(region.replica.clone());
    }
    if regions.len() >= replicas_max {
        return Assignment::Full { replicas_max };
    }
    let taken = |n: &usize| regions.iter().any(|r| r.replica == n.to_string());
    let number = (0..=regions.len()).find(|n| !taken(n)).unwrap_or(regions.len());
    Assignment::Create(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(replica: &str, created: u64, owner: Option<&str>, standbys: usize) -> Replica {
        let owner_version = owner.map(Into::into);
        Replica { replica: replica.into(), created, owner_version, standbys, closed: false }
    }

    #[test]
    fn vacant_first_then_an_upgrade_then_a_new_one() {
        let mut regions = vec![region("0", 1, Some("1"), 0), region("1", 3, None, 0), region("2", 2, None, 0)];
        assert_eq!(assign(&regions, "2", 3), Assignment::Join("2".into()));
        regions[2].standbys = 1;
        assert_eq!(assign(&regions, "2", 3), Assignment::Join("1".into()));
        regions[1].closed = true;
        assert_eq!(assign(&regions, "2", 3), Assignment::Join("0".into()));
        assert_eq!(assign(&regions, "1", 3), Assignment::Full { replicas_max: 3 });
        assert_eq!(assign(&regions, "1", 4), Assignment::Create("3".into()));
    }

    #[test]
    fn a_new_name_fills_the_first_gap() {
        let regions = [region("", 1, Some("1"), 0), region("1", 2, Some("1"), 1)];
        assert_eq!(assign(&regions, "1", 9), Assignment::Create("0".into()));
        assert_eq!(assign(&[], "1", 0), Assignment::Full { replicas_max: 0 });
    }
}
