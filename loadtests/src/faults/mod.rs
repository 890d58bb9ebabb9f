//! The store under attack: killed, without power, with rotten bits, on a disk that is full or fails.
//!
//! A [`victim`] writes and says what it was promised; an attack ends or damages it; an [`inspector`]
//! opens what is left and compares all of it. The attacks are functions, which tests call with small
//! numbers and the scenario `faults` with any.

pub mod dice;
pub mod disk;
pub mod failing;
pub mod finding;
pub mod flips;
pub mod history;
pub mod host;
pub mod inspect;
pub mod inspector;
pub mod kill;
pub mod plaintext;
pub mod plan;
pub mod power;
pub mod shim;
pub mod tree;
pub mod victim;
