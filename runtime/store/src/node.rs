//! What all vaults of a process share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fjall::{Config, Database};
use metrics::{Counter, Gauge, Histogram};
use tokio::runtime::Handle;

use crate::catalog::{Catalog, VaultId};
use crate::group::Committer;
use crate::heads::{HEADS_WRITE_MS, Heads};
use crate::key::Hmac256;
use crate::keys;
use crate::layout::Layout;
use crate::root::Root;
use crate::{StoreError, StoreOptions};

pub(crate) struct Node {
    pub(crate) options: StoreOptions,
    pub(crate) installation: canopy_domain::Id,
    pub(crate) root: parking_lot::Mutex<Root>,
    /// One rotation or shredding at a time.
    pub(crate) key_work: tokio::sync::Mutex<()>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) committer: Committer,
    pub(crate) heads: Heads,
    pub(crate) runtime: Handle,
    /// Its block cache is every vault's.
    pub(crate) template: Config,
    /// Digests of partitions that do not exist.
    pub(crate) absent: Hmac256,
    pub(crate) figures: Figures,
    /// Vaults with an open database.
    pub(crate) open_databases: AtomicUsize,
    pub(crate) closing: AtomicBool,
    /// Vaults whose files cannot say it themselves; see [`crate::resync`].
    pub(crate) unsynced: parking_lot::Mutex<HashSet<VaultId>>,
    uses: AtomicU64,
    layout: parking_lot::Mutex<Option<Layout>>,
}

impl Node {
    pub(crate) fn open(options: StoreOptions) -> Result<Arc<Self>, StoreError> {
        let runtime = Handle::try_current()
            .map_err(|e| StoreError::Io { what: "the store needs a Tokio runtime".into(), reason: e.to_string() })?;
        let layout = Layout::open(&options.dir)?;
        let clock = options.clock;
        let mut root = Root::open(&layout, &options.unlock, clock())?;
        let catalog = Arc::new(Catalog::open_settled(&layout, &root, clock)?);
        if let Some(next) = root.next.clone() {
            tracing::info!("finishing the rotation of the root key");
            catalog.rewrite(&next)?;
            root.finish_rotation()?;
        }
        let heads = Heads::open(&layout.heads(), Some(&catalog.heads()))
            .map_err(|e| StoreError::io("cannot read", &layout.heads(), &e))?;
        let template = Database::builder(&options.dir).cache_size(options.block_cache_bytes).into_config();
        let this = Arc::new(Self {
            installation: root.installation,
            absent: catalog.absent().hmac(),
            catalog,
            root: parking_lot::Mutex::new(root),
            key_work: tokio::sync::Mutex::new(()),
            committer: Committer::default(),
            heads,
            runtime,
            template,
            figures: Figures::new(),
            open_databases: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            unsynced: parking_lot::Mutex::default(),
            uses: AtomicU64::new(0),
            layout: parking_lot::Mutex::new(Some(layout)),
            options,
        });
        keys::finish(&this)?;
        let catalog = Arc::clone(&this.catalog);
        this.runtime.spawn_blocking(move || {
            if let Err(error) = catalog.read_all() {
                tracing::error!(%error, "whoever asks for a vault is told so");
            }
        });
        this.runtime.spawn(keep_heads(Arc::downgrade(&this)));
        Ok(this)
    }

    /// Writes how far vaults have come. Blocks.
    pub(crate) fn write_heads(&self) -> Result<(), StoreError> {
        if !self.heads.has_news() {
            return Ok(());
        }
        let key = self.catalog.heads();
        self.heads
            .write(&key)
            .map_err(|e| StoreError::Io { what: "cannot write `heads`".into(), reason: e.to_string() })
    }

    /// A number that grows with each use of a vault.
    pub(crate) fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// A vault's part of the write buffer, in bytes.
    pub(crate) fn memtable_bytes(&self) -> u64 {
        let open = self.open_databases.load(Ordering::Relaxed).max(1) as u64;
        self.options.write_buffer_bytes / open
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Lets another process have the directory.
    pub(crate) fn unlock(&self) {
        self.layout.lock().take();
    }
}

/// Writes heads now and then, for as long as the store is there.
async fn keep_heads(node: Weak<Node>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(HEADS_WRITE_MS));
    loop {
        ticks.tick().await;
        let Some(node) = node.upgrade() else { return };
        if node.is_closing() {
            return;
        }
        let written = tokio::task::spawn_blocking(move || node.write_heads()).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "tried again later");
        }
    }
}

/// What is counted, for `observe` and as metrics. The recorder is the one
/// installed when the store is opened.
pub(crate) struct Figures {
    pub(crate) commits: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) bytes: AtomicU64,
    commits_total: Counter,
    groups_total: Counter,
    bytes_total: Counter,
    group_commits: Histogram,
    commit_seconds: Histogram,
    fsync_seconds: Histogram,
    pub(crate) failed_total: Counter,
    pub(crate) trimmed_total: Counter,
    pub(crate) open_vaults: Gauge,
    pub(crate) quarantined_vaults: Gauge,
}

impl Figures {
    fn new() -> Self {
        use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
        describe_counter!("canopy_store_commits_total", Unit::Count, "Durable commits");
        describe_counter!("canopy_store_groups_total", Unit::Count, "Writes that made commits durable");
        describe_counter!("canopy_store_bytes_total", Unit::Bytes, "Sealed bytes committed, keys included");
        describe_counter!("canopy_store_failed_groups_total", Unit::Count, "Writes that failed");
        describe_counter!(
            "canopy_store_trimmed_entries_total",
            Unit::Count,
            "Feed entries past their retention that went"
        );
        describe_histogram!("canopy_store_group_commits", Unit::Count, "Commits that shared an fsync");
        describe_histogram!(
            "canopy_store_commit_seconds",
            Unit::Seconds,
            "From submitting a group's first commit to its answer"
        );
        describe_histogram!("canopy_store_fsync_seconds", Unit::Seconds, "Writing, syncing and applying a group");
        describe_gauge!("canopy_store_open_vaults", Unit::Count, "Vaults open");
        describe_gauge!("canopy_store_quarantined_vaults", Unit::Count, "Vaults that are damaged and not served");
        Self {
            commits: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            commits_total: counter!("canopy_store_commits_total"),
            groups_total: counter!("canopy_store_groups_total"),
            bytes_total: counter!("canopy_store_bytes_total"),
            group_commits: histogram!("canopy_store_group_commits"),
            commit_seconds: histogram!("canopy_store_commit_seconds"),
            fsync_seconds: histogram!("canopy_store_fsync_seconds"),
            failed_total: counter!("canopy_store_failed_groups_total"),
            trimmed_total: counter!("canopy_store_trimmed_entries_total"),
            open_vaults: gauge!("canopy_store_open_vaults"),
            quarantined_vaults: gauge!("canopy_store_quarantined_vaults"),
        }
    }

    /// Counts a durable group.
    pub(crate) fn group(&self, commits: u64, bytes: u64, commit_seconds: f64, fsync_seconds: f64) {
        self.commits.fetch_add(commits, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.commits_total.increment(commits);
        self.groups_total.increment(1);
        self.bytes_total.increment(bytes);
        self.group_commits.record(commits as f64);
        self.commit_seconds.record(commit_seconds);
        self.fsync_seconds.record(fsync_seconds);
    }
}
