//! What a store is opened with.

use std::path::PathBuf;

use canopy_domain::Secret;

/// How the root key is reached. Whoever has it can read everything.
pub enum Unlock {
    /// A text that people remember, stretched by Argon2id.
    Passphrase(Secret),
    /// A file with 64 hex digits. Made on first run, with mode 0600: keep it
    /// on another disk than the data.
    KeyFile(PathBuf),
    /// 64 hex digits, as an environment variable or a secret store gives them.
    Key(Secret),
}

/// Options of [`crate::Store::open`]. Every budget is the node's, not a vault's.
pub struct StoreOptions {
    /// The data directory; made on first run with mode 0700.
    pub dir: PathBuf,
    /// How the root key is reached.
    pub unlock: Unlock,
    /// Vaults kept open at once. While all of them are in use, up to twice as
    /// many are opened; then [`crate::StoreError::TooManyVaults`]. An open
    /// vault costs a thread and some file descriptors.
    pub open_vaults_max: usize,
    /// Bytes of blocks kept in memory, over all vaults.
    pub block_cache_bytes: u64,
    /// Bytes of rows kept in memory before they go into tables, over all vaults.
    pub write_buffer_bytes: u64,
    /// Commits that share a write and an fsync at most.
    pub group_commits_max: usize,
    /// Bytes that share a write and an fsync, once reached.
    pub group_bytes_max: usize,
    /// Milliseconds that the first answer to a request id is kept at least.
    pub request_retention_ms: i64,
    /// Milliseconds that feed entries are kept, until they are trimmed; 0 for as
    /// long as their partition.
    pub feed_retention_ms: i64,
    /// The time in milliseconds since 1970, noted with each key that is made;
    /// 0, where nobody tells the time, stands for unknown.
    pub clock: fn() -> i64,
}

impl StoreOptions {
    /// See [`StoreOptions::open_vaults_max`]: a few hundred descriptors.
    pub const OPEN_VAULTS_MAX: usize = 64;
    /// See [`StoreOptions::block_cache_bytes`].
    pub const BLOCK_CACHE_BYTES: u64 = 64 << 20;
    /// See [`StoreOptions::write_buffer_bytes`].
    pub const WRITE_BUFFER_BYTES: u64 = 128 << 20;
    /// See [`StoreOptions::group_commits_max`]: beyond this a group gains
    /// little and delays its first commit.
    pub const GROUP_COMMITS_MAX: usize = 256;
    /// See [`StoreOptions::group_bytes_max`].
    pub const GROUP_BYTES_MAX: usize = 4 << 20;
    /// See [`StoreOptions::request_retention_ms`]: 24 hours.
    pub const REQUEST_RETENTION_MS: i64 = 24 * 60 * 60 * 1000;

    /// The defaults above.
    pub fn new(dir: impl Into<PathBuf>, unlock: Unlock) -> Self {
        Self {
            dir: dir.into(),
            unlock,
            open_vaults_max: Self::OPEN_VAULTS_MAX,
            block_cache_bytes: Self::BLOCK_CACHE_BYTES,
            write_buffer_bytes: Self::WRITE_BUFFER_BYTES,
            group_commits_max: Self::GROUP_COMMITS_MAX,
            group_bytes_max: Self::GROUP_BYTES_MAX,
            request_retention_ms: Self::REQUEST_RETENTION_MS,
            feed_retention_ms: 0,
            clock: || 0,
        }
    }
}
