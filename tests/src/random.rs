//! Random moments that can be had again: the seed is printed, and `HEIRLOOM_TEST_SEED` sets it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (xorshift64*), enough to choose moments.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded from the clock or from `HEIRLOOM_TEST_SEED`; prints the seed, which a failing test shows.
    pub fn announced(test: &str) -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = std::env::var("HEIRLOOM_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(clock);
        println!("{test}: HEIRLOOM_TEST_SEED={seed}");
        Self::seeded(seed)
    }

    /// From this seed.
    pub fn seeded(seed: u64) -> Self {
        Random(seed | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A time below `end`.
    pub fn moment(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(end.as_micros().max(1) as u64))
    }
}
