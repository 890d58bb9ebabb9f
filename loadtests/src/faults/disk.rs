//! A disk as it would be after lost power, made from the shim's log: what was not synced is gone, or
//! there in part, in any order.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use super::dice::Dice;
use super::tree;

/// What a disk writes at once, in bytes: a page of the cache.
const PAGE: usize = 4096;
/// What it may tear a page into.
const SECTOR: usize = 512;

/// Syncs that a store may have forgotten, for tests that must then see a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    Nothing,
    Journals,
    Keyrings,
    Directories,
}

/// What is on the disk of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// None of it.
    Gone,
    /// All of it, as after kill -9.
    Kept,
    /// Some pages, sectors and names, and not others.
    Torn,
}

/// A call that the shim saw.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: u8,
    pub failed: bool,
    fd: i32,
    offset: u64,
    bytes: Arc<[u8]>,
}

impl Record {
    /// Whether it made a file: opened with O_CREAT what was not there.
    pub fn creates(&self) -> bool {
        self.kind == b'C' && self.offset & 5 == 1
    }

    /// What the process said, where it said something.
    pub fn said(&self) -> Option<&str> {
        (self.kind == b'O').then(|| std::str::from_utf8(&self.bytes).unwrap_or_default())
    }
}

/// Reads the shim's log; a last record that is cut short was never made.
///
/// # Errors
/// The log cannot be read.
pub fn records(log: &Path) -> io::Result<Vec<Record>> {
    let bytes = fs::read(log)?;
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<22>() {
        let [kind, failed, a, b, c, d, place @ ..] = *head;
        let Some((offset, len)) = place.split_first_chunk::<8>() else { break };
        let len = len.first_chunk::<8>().map_or(0, |len| u64::from_ne_bytes(*len));
        let Some((text, after)) = usize::try_from(len).ok().and_then(|len| after.split_at_checked(len)) else {
            break;
        };
        found.push(Record {
            kind,
            failed: failed != 0,
            fd: i32::from_ne_bytes([a, b, c, d]),
            offset: u64::from_ne_bytes(*offset),
            bytes: text.into(),
        });
        rest = after;
    }
    Ok(found)
}

/// A file's bytes; what was never written is a hole.
#[derive(Clone, Debug, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

/// A change of a file's content that is not on the disk yet.
#[derive(Clone, Debug)]
enum Change {
    Bytes(u64, Arc<[u8]>),
    Len(u64),
}

impl Content {
    fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        self.len = self.len.max(at + bytes.len() as u64);
        while !bytes.is_empty() {
            let start = within(at, PAGE);
            let (now, later) = bytes.split_at(bytes.len().min(PAGE - start));
            let page = Arc::make_mut(self.pages.entry(at / PAGE as u64).or_insert_with(|| Arc::new([0; PAGE])));
            if let Some(to) = page.get_mut(start..start + now.len()) {
                to.copy_from_slice(now);
            }
            at += now.len() as u64;
            bytes = later;
        }
    }

    fn truncate(&mut self, len: u64) {
        if len < self.len {
            let start = within(len, PAGE);
            self.pages.split_off(&len.div_ceil(PAGE as u64));
            if let Some(rest) = self.pages.get_mut(&(len / PAGE as u64)).map(Arc::make_mut)
                && let Some(rest) = rest.get_mut(start..)
            {
                rest.fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, write: &Change) {
        match write {
            Change::Bytes(at, bytes) => self.write(*at, bytes),
            Change::Len(len) => self.truncate(*len),
        }
    }

    /// As [`Content::apply`], of some parts only.
    fn apply_torn(&mut self, write: &Change, dice: &mut Dice) {
        let Change::Bytes(at, bytes) = write else {
            if dice.percent(50) {
                self.apply(write);
            }
            return;
        };
        let part = if dice.percent(30) { SECTOR } else { PAGE };
        let mut at = *at;
        let mut bytes: &[u8] = bytes;
        while !bytes.is_empty() {
            let start = within(at, part);
            let (now, later) = bytes.split_at(bytes.len().min(part - start));
            if dice.percent(50) {
                self.write(at, now);
            }
            at += now.len() as u64;
            bytes = later;
        }
    }

    fn store(&self, path: &Path) -> io::Result<()> {
        let mut file = fs::File::create(path)?;
        file.set_len(self.len)?;
        for (n, page) in &self.pages {
            let at = n * PAGE as u64;
            file.seek(SeekFrom::Start(at))?;
            let len = usize::try_from(self.len.saturating_sub(at)).unwrap_or(PAGE).min(PAGE);
            file.write_all(page.get(..len).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Where in its page or sector a byte is.
fn within(at: u64, part: usize) -> usize {
    usize::try_from(at % part as u64).unwrap_or(0)
}

type NodeId = usize;

/// A change of a directory that is not on the disk yet.
#[derive(Clone, Debug)]
enum Entry {
    Add(String, NodeId),
    Remove(String),
    Move(String, String, NodeId),
}

fn enter(entries: &mut BTreeMap<String, NodeId>, entry: &Entry) {
    match entry {
        Entry::Add(name, node) => drop(entries.insert(name.clone(), *node).is_some()),
        Entry::Remove(name) => drop(entries.remove(name).is_some()),
        Entry::Move(from, to, node) => {
            entries.remove(from);
            entries.insert(to.clone(), *node);
        }
    }
}

#[derive(Clone, Debug)]
enum Node {
    File { durable: Content, pending: Vec<Change> },
    Dir { durable: BTreeMap<String, NodeId>, now: BTreeMap<String, NodeId>, pending: Vec<Entry> },
}

/// The disk below one directory.
#[derive(Debug)]
pub struct Disk {
    root: String,
    nodes: Vec<Node>,
    /// Names by which files are told apart.
    names: HashMap<NodeId, String>,
    fds: HashMap<i32, NodeId>,
    forgotten: Forgotten,
}

impl Disk {
    /// The disk with the directory `dir` as it is, all of it synced. An absent one is empty.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn of(dir: &Path, forgotten: Forgotten) -> io::Result<Self> {
        let root = dir.to_str().unwrap_or_default().to_owned();
        let mut disk = Self { root, nodes: Vec::new(), names: HashMap::new(), fds: HashMap::new(), forgotten };
        disk.load(dir)?;
        Ok(disk)
    }

    fn load(&mut self, dir: &Path) -> io::Result<NodeId> {
        let id = self.nodes.len();
        self.nodes.push(Node::Dir { durable: BTreeMap::new(), now: BTreeMap::new(), pending: Vec::new() });
        let mut entries = BTreeMap::new();
        for entry in if dir.is_dir() { fs::read_dir(dir)?.collect::<Result<_, _>>()? } else { Vec::new() } {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let node = if path.is_dir() {
                self.load(&path)?
            } else {
                let mut durable = Content::default();
                for (at, bytes) in tree::read_extents(&path)? {
                    durable.write(at, &bytes);
                }
                durable.len = fs::metadata(&path)?.len();
                self.names.insert(self.nodes.len(), name.clone());
                self.nodes.push(Node::File { durable, pending: Vec::new() });
                self.nodes.len() - 1
            };
            entries.insert(name, node);
        }
        if let Some(Node::Dir { durable, now, .. }) = self.nodes.get_mut(id) {
            *durable = entries.clone();
            *now = entries;
        }
        Ok(id)
    }

    /// The directory of a path, and the last name in it.
    fn place(&self, path: &str) -> Option<(NodeId, String)> {
        let mut names: Vec<&str> =
            path.strip_prefix(&self.root)?.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
        let last = names.pop()?;
        let mut at = 0;
        for name in names {
            at = self.child(at, name)?;
        }
        Some((at, last.to_owned()))
    }

    fn child(&self, dir: NodeId, name: &str) -> Option<NodeId> {
        match self.nodes.get(dir)? {
            Node::Dir { now, .. } => now.get(name).copied(),
            Node::File { .. } => None,
        }
    }

    fn node_at(&self, path: &str) -> Option<NodeId> {
        match self.place(path) {
            Some((dir, name)) => self.child(dir, &name),
            None => Some(0),
        }
    }

    fn change(&mut self, dir: NodeId, entry: Entry) {
        if let Some(Node::Dir { now, pending, .. }) = self.nodes.get_mut(dir) {
            enter(now, &entry);
            pending.push(entry);
        }
    }

    /// Does what a process did.
    ///
    /// # Errors
    /// A call that this does not know, or on what is not there: then the log proves nothing.
    pub fn replay(&mut self, record: &Record) -> io::Result<()> {
        let text = String::from_utf8_lossy(&record.bytes).into_owned();
        let lost = || io::Error::other(format!("a call on what is not there: {} {text}", char::from(record.kind)));
        match record.kind {
            b'C' => self.open(record, &text).ok_or_else(lost)?,
            b'K' => drop(self.fds.remove(&record.fd).is_some()),
            b'D' => {
                let node = self.fds.get(&record.fd).copied().ok_or_else(lost)?;
                self.fds.insert(i32::try_from(record.offset).map_err(io::Error::other)?, node);
            }
            b'W' => self.write(record.fd, Change::Bytes(record.offset, record.bytes.clone())).ok_or_else(lost)?,
            b'T' => self.write(record.fd, Change::Len(record.offset)).ok_or_else(lost)?,
            b'S' => {
                let node = self.fds.get(&record.fd).copied().ok_or_else(lost)?;
                self.sync(node, record.failed);
            }
            b'R' => {
                let (from, to) = text.split_once('\0').ok_or_else(lost)?;
                let ((from_dir, from), (to_dir, to)) = self.place(from).zip(self.place(to)).ok_or_else(lost)?;
                let node = self.child(from_dir, &from).ok_or_else(lost)?;
                self.names.insert(node, to.clone());
                if from_dir == to_dir {
                    self.change(to_dir, Entry::Move(from, to, node));
                } else {
                    self.change(from_dir, Entry::Remove(from));
                    self.change(to_dir, Entry::Add(to, node));
                }
            }
            b'U' => {
                let (dir, name) = self.place(&text).ok_or_else(lost)?;
                self.change(dir, Entry::Remove(name));
            }
            // The root itself, where it is new.
            b'M' if self.place(&text).is_none() => {}
            b'M' => {
                let (dir, name) = self.place(&text).ok_or_else(lost)?;
                self.nodes.push(Node::Dir { durable: BTreeMap::new(), now: BTreeMap::new(), pending: Vec::new() });
                self.change(dir, Entry::Add(name, self.nodes.len() - 1));
            }
            b'O' => {}
            _ => return Err(io::Error::other(format!("a call that the replay does not know: {text}"))),
        }
        Ok(())
    }

    fn open(&mut self, record: &Record, path: &str) -> Option<()> {
        const TRUNCATE: u64 = 2;
        let node = match self.node_at(path) {
            Some(node) => node,
            None => {
                let (dir, name) = self.place(path)?;
                let node = self.nodes.len();
                self.nodes.push(Node::File { durable: Content::default(), pending: Vec::new() });
                self.names.insert(node, name.clone());
                self.change(dir, Entry::Add(name, node));
                node
            }
        };
        self.fds.insert(record.fd, node);
        if record.offset & TRUNCATE != 0 {
            self.write(record.fd, Change::Len(0))?;
        }
        Some(())
    }

    fn write(&mut self, fd: i32, write: Change) -> Option<()> {
        match self.nodes.get_mut(*self.fds.get(&fd)?)? {
            Node::File { pending, .. } => pending.push(write),
            Node::Dir { .. } => return None,
        }
        Some(())
    }

    fn sync(&mut self, id: NodeId, failed: bool) {
        let name = self.names.get(&id).map_or("", String::as_str);
        let is_forgotten = match self.forgotten {
            Forgotten::Nothing => false,
            Forgotten::Journals => name.ends_with(".jnl"),
            Forgotten::Keyrings => name.starts_with("keyring"),
            Forgotten::Directories => matches!(self.nodes.get(id), Some(Node::Dir { .. })),
        };
        if is_forgotten {
            return;
        }
        match self.nodes.get_mut(id) {
            Some(Node::File { durable, pending }) => {
                // The kernel says once that it failed, and takes the pages for clean: no later sync
                // writes them.
                for write in pending.drain(..).filter(|write| !failed || matches!(write, Change::Len(_))) {
                    durable.apply(&write);
                }
            }
            Some(Node::Dir { durable, pending, .. }) if !failed => {
                for entry in pending.drain(..) {
                    enter(durable, &entry);
                }
            }
            _ => {}
        }
    }

    /// Writes the directory as it would be found.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn lose_power(&self, to: &Path, unsynced: Unsynced, dice: &mut Dice) -> io::Result<()> {
        match fs::remove_dir_all(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.store(0, to, unsynced, dice),
        }
    }

    fn store(&self, id: NodeId, path: &Path, unsynced: Unsynced, dice: &mut Dice) -> io::Result<()> {
        match self.nodes.get(id) {
            Some(Node::File { durable, pending }) => {
                let mut content = durable.clone();
                for write in pending {
                    match unsynced {
                        Unsynced::Gone => {}
                        Unsynced::Kept => content.apply(write),
                        Unsynced::Torn => content.apply_torn(write, dice),
                    }
                }
                content.store(path)
            }
            Some(Node::Dir { durable, pending, .. }) => {
                fs::create_dir_all(path)?;
                let mut entries = durable.clone();
                for entry in pending {
                    if unsynced == Unsynced::Kept || unsynced == Unsynced::Torn && dice.percent(50) {
                        enter(&mut entries, entry);
                    }
                }
                for (name, node) in entries {
                    self.store(node, &path.join(name), unsynced, dice)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}
