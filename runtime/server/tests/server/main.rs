//! The whole server in the test's process, reached as clients reach it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod admin_layers;
mod audit;
mod chat_live;
mod chat_shred;
mod compat_unknown;
mod harness;
mod identity_access;
mod identity_api_keys;
mod identity_attacks;
mod identity_attempts;
mod identity_deletion;
mod identity_mail;
mod identity_passkeys;
mod identity_passwords;
mod identity_second_factor;
mod identity_security;
mod identity_sessions;
mod identity_strength;
mod identity_tokens;
mod input_bad;
mod input_names;
mod mail_queue;
mod ops_keys;
mod org_backups;
mod org_end;
mod org_invitations;
mod org_life;
mod org_members;
mod org_pages;
mod org_quotas;
mod org_repeat;
mod org_search;
mod roles_matrix;
mod roles_revoke;
mod stream_resume;
