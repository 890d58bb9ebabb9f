//! The house's rules.

mod arrows;
mod house_source;
mod tidy;
