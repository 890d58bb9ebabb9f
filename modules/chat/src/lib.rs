//! Channels and messages
