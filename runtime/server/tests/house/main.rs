//! The house's rules.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod arrows;
mod asvs;
mod house_source;
mod tidy;
