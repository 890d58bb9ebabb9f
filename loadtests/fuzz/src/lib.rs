//! Fuzz targets for every parser of bytes from outside: from the network, the disk, and people's
//! command lines. Each holds properties, not only that nothing panics: what was written reads the same,
//! nothing altered is taken for authentic, and what is accepted has one form.
//!
//! `.ci/fuzz` runs them under libFuzzer, guided by what of our code an input reaches, with bounds on
//! memory, time and length. The corpus is replayed by an ordinary test.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a target says by a panic that a property does not hold"
)]

mod breached;
mod command_line;
mod edge;
mod files;
mod names;
mod passkeys;
mod recovery;
mod wire;

/// A parser under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the folder of its corpus.
    pub name: &'static str,
    /// Panics where a property does not hold.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("sealed_value", canopy_store::fuzz::sealed_value),
    target("feed_entry", canopy_store::fuzz::feed_entry),
    target("root_slots", files::root_slots),
    target("org_keys", files::org_keys),
    target("vault_index", files::vault_index),
    target("keyring", files::keyring),
    target("head", files::head),
    target("heads", files::heads),
    target("settled", files::settled),
    target("backup", recovery::backup),
    target("key_bundle", recovery::key_bundle),
    target("token", edge::token),
    target("passkey_made", passkeys::made),
    target("passkey_answer", passkeys::answer),
    target("page_token", names::page_token),
    target("name", names::name),
    target("wire", wire::check),
    target("merge", wire::merge),
    target("timeout", edge::timeout),
    target("certificate", edge::certificate),
    target("breached_passwords", breached::search),
    target("config", command_line::config),
    target("json", command_line::json),
];
