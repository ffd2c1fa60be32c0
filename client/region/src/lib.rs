//! client/region
