//! metric-store 1.0.0.

use axum::Router;

use super::{Failure, Place};

/// Runs one instance of version 1 until it is told to end.
///
/// # Errors
/// If it cannot attach, or its address is taken.
pub async fn run(place: Place) -> Result<(), Failure> {
    super::run(place, "1.0.0", Router::new()).await
}
