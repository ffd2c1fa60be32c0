//! Glue to crates that change more often than this one; each behind a feature.

#[cfg(feature = "axum")]
pub mod axum;
