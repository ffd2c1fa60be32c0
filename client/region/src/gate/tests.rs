//! The gate under threads: symmetric and asymmetric, with more threads than slots.
