//! Accounts and sessions
