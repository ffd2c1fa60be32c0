//! membarrier
