//! Canopy as the side under test: the real server in a process of its own, reached as clients reach
//! it; for `commit`, its actors and store in this process.

pub mod authorise;
mod commit;
mod guest;
mod people;
pub mod revoke;
mod rows;
pub mod sessions;
mod sides;
pub mod vaults;

pub use commit::Actors;
pub use rows::Sealed;
pub use sides::Canopy;
