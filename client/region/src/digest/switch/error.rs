//! Why a switch did not come about.

use std::time::Duration;

use crate::error::{Corrupt, Error};
use crate::gate::GateWord;

/// Why a freeze, a seal or a commit did not come about. The gate is open again under the old generation.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The gate was not what this keeper left it as, or somebody thawed it.
    #[error("the gate is {found}, expected {expected}")]
    Lost {
        /// What it had to be.
        expected: GateWord,
        /// What it is.
        found: GateWord,
    },
    /// Threads of these rows did not leave their sections in time.
    #[error("writers of rows {rows:?} did not leave within {budget:?}")]
    Stuck {
        /// Rows of the instance table.
        rows: Vec<u32>,
        /// The time they had.
        budget: Duration,
    },
    /// More was dirty than could be read in time.
    #[error("{pages} dirty pages read within {budget:?}, and more are left")]
    Overrun {
        /// Read so far.
        pages: u64,
        /// The time there was.
        budget: Duration,
    },
    /// The seal was complete only after the freezer's time was over.
    #[error("sealed {took:?} after the freeze, later than the {budget:?} that it may take")]
    Late {
        /// From the freeze to the commit that was not made.
        took: Duration,
        /// The time there was.
        budget: Duration,
    },
    /// The system refused the barrier that some instance relies on.
    #[error("barrier: {0}")]
    BarrierFailed(#[source] Error),
    /// A counter of the format is used up.
    #[error("{what} are used up: {limit}")]
    Exhausted {
        /// Which.
        what: &'static str,
        /// Its last value.
        limit: u64,
    },
    /// The region is corrupt, or full.
    #[error(transparent)]
    Region(#[from] Error),
}

impl From<Corrupt> for FreezeError {
    fn from(why: Corrupt) -> Self {
        FreezeError::Region(why.into())
    }
}
