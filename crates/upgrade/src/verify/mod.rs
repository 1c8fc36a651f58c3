//! Proof by comparison: every table's rows, counted and hashed on both sides.

pub mod compare;
pub mod converge;
pub mod fingerprint;

pub use converge::CompareTables;
