//! The root key and the ways to it. `keys/root.slots` holds slots like LUKS:
//! each wraps the same root key for another secret, with a commitment to the
//! secret's key, so that a wrong secret is told from a damaged file.
//!
//! Each slot's own key is kept too, sealed under the root key, so that a new
//! root key can be put into all slots without asking for their secrets. Until
//! everything is under it, slots hold it as the `next` one: whoever opens the
//! directory meanwhile finishes the work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use canopy_domain::{Id, Secret};
use prost::Message;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::key::{Key, random};
use crate::layout::{self, Layout};
use crate::{StoreError, Unlock};

const MAGIC: &[u8] = b"canopy keys 2\n";
/// Of format 1: one slot, whose own key is not kept.
const MAGIC_BEFORE: &[u8] = b"canopy keys 1\n";
const CHECKSUM_BYTES: usize = 32;

/// Ways to one root key: opening tries them in turn, and each passphrase costs
/// most of a second.
pub(crate) const SLOTS_MAX: usize = 16;

/// RFC 9106 §4, second recommended option: 64 MiB, 3 passes, 4 lanes.
const ARGON2_MEMORY_KIB: u32 = 64 * 1024;
const ARGON2_PASSES: u32 = 3;
const ARGON2_LANES: u32 = 4;
/// More memory than this in a slot is damage, not a choice.
const ARGON2_MEMORY_KIB_MAX: u32 = 4 << 20;

#[derive(Clone, PartialEq, Message)]
struct SlotsFile {
    #[prost(bytes = "vec", tag = "1")]
    installation: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    slots: Vec<Slot>,
    /// Of the root key; 0 in format 1 stands for 1.
    #[prost(uint32, tag = "3")]
    version: u32,
    #[prost(int64, tag = "4")]
    created_ms: i64,
    /// Of the next root key.
    #[prost(int64, tag = "5")]
    next_created_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Slot {
    /// 1: passphrase by Argon2id; 2: 256 bits by HKDF.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    salt: Vec<u8>,
    #[prost(uint32, tag = "3")]
    memory_kib: u32,
    #[prost(uint32, tag = "4")]
    passes: u32,
    #[prost(uint32, tag = "5")]
    lanes: u32,
    #[prost(bytes = "vec", tag = "6")]
    commitment: Vec<u8>,
    /// The root key, under the slot's key.
    #[prost(bytes = "vec", tag = "7")]
    wrapped: Vec<u8>,
    /// The slot's key, under the root key.
    #[prost(bytes = "vec", tag = "8")]
    held: Vec<u8>,
    /// The next root key, under the slot's key.
    #[prost(bytes = "vec", tag = "9")]
    next: Vec<u8>,
    /// Counts from 1, and is not used again while a larger one is there.
    #[prost(uint32, tag = "10")]
    id: u32,
    #[prost(int64, tag = "11")]
    created_ms: i64,
}

const KIND_PASSPHRASE: u32 = 1;
const KIND_KEY: u32 = 2;

/// A way to the root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// Counts from 1.
    pub id: u32,
    /// `passphrase`, or `key` for a key file or an environment variable.
    pub kind: &'static str,
    /// When it was made, in milliseconds since 1970; 0 where unknown.
    pub created_ms: i64,
    /// Whether this process came in by it.
    pub is_own: bool,
}

/// What unlocks everything else.
pub(crate) struct Root {
    pub(crate) installation: Id,
    pub(crate) key: Key,
    /// A rotation to this key was under way.
    pub(crate) next: Option<Key>,
    path: PathBuf,
    file: SlotsFile,
    /// Id of the slot that the key came from.
    own: u32,
}

impl Root {
    /// Opens the root key, or makes it where the directory has none.
    pub(crate) fn open(layout: &Layout, unlock: &Unlock, now_ms: i64) -> Result<Self, StoreError> {
        let path = layout.root_slots();
        match fs::read(&path) {
            Ok(bytes) => Self::unlock(path, &bytes, unlock),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Made after VERSION and before any vault: without it, vaults
                // cannot be read, and a new root key would hide that.
                if layout.vault_index().exists() || layout.org_keys().exists() {
                    let reason = "it is missing, and there are vaults".into();
                    return Err(StoreError::CorruptFile { path, reason });
                }
                Self::create(path, unlock, now_ms)
            }
            Err(e) => Err(StoreError::io("cannot read", &path, &e)),
        }
    }

    fn create(path: PathBuf, unlock: &Unlock, now_ms: i64) -> Result<Self, StoreError> {
        let installation: [u8; 16] = random();
        let file =
            SlotsFile { installation: installation.to_vec(), version: 1, created_ms: now_ms, ..SlotsFile::default() };
        let (key, own) = (Key::random(), 0);
        let mut root = Self { installation: Id::from_bytes(installation), key, next: None, path, file, own };
        root.own = root.push_slot(&Material::of(unlock, true)?, now_ms)?;
        root.write()?;
        Ok(root)
    }

    fn unlock(path: PathBuf, bytes: &[u8], unlock: &Unlock) -> Result<Self, StoreError> {
        let (mut file, is_current) = parse(&path, bytes)?;
        let damaged = |reason: &str| StoreError::CorruptFile { path: path.clone(), reason: reason.into() };
        let installation: [u8; 16] =
            file.installation.as_slice().try_into().map_err(|_| damaged("it has no installation id"))?;
        if !is_current {
            file.version = 1;
            for (id, slot) in (1u32..).zip(&mut file.slots) {
                slot.id = id;
            }
        }
        let (kind, name) = match unlock {
            Unlock::Passphrase(_) => (KIND_PASSPHRASE, "passphrase"),
            Unlock::KeyFile(_) => (KIND_KEY, "key file"),
            Unlock::Key(_) => (KIND_KEY, "key"),
        };
        let secret = Material::of(unlock, false)?;
        let found = file.slots.iter().filter(|slot| slot.kind == kind).find_map(|slot| {
            let opened = secret.stretch(slot, &path).map(|outer| slot.wrap_key(&outer));
            opened.map(|wrap| wrap.map(|wrap| (slot.clone(), wrap))).transpose()
        });
        let (slot, wrap) = found.transpose()?.ok_or(StoreError::WrongKey(name))?;
        let failed = || damaged("the root key fails its authentication tag");
        let key = wrap.unwrap(&installation, &slot.wrapped).ok_or_else(failed)?;
        let next = match slot.next.as_slice() {
            [] => None,
            next => Some(wrap.unwrap(&next_context(&installation), next).ok_or_else(failed)?),
        };
        let mut root = Self { installation: Id::from_bytes(installation), key, next, path, file, own: slot.id };
        if slot.held.is_empty() {
            let held = root.held(&root.key, slot.id, &wrap);
            if let Some(slot) = root.file.slots.iter_mut().find(|other| other.id == slot.id) {
                slot.held = held;
            }
            root.write()?;
        }
        Ok(root)
    }

    /// Of the root key.
    pub(crate) fn version(&self) -> u32 {
        self.file.version
    }

    /// When the root key was made.
    pub(crate) fn created_ms(&self) -> i64 {
        self.file.created_ms
    }

    /// The ways to it.
    pub(crate) fn slots(&self) -> Vec<KeySlot> {
        let shown = |slot: &Slot| KeySlot {
            id: slot.id,
            kind: if slot.kind == KIND_PASSPHRASE { "passphrase" } else { "key" },
            created_ms: slot.created_ms,
            is_own: slot.id == self.own,
        };
        self.file.slots.iter().map(shown).collect()
    }

    /// Adds a way to it; gives its id. Slow for a passphrase.
    pub(crate) fn add_slot(&mut self, unlock: &Unlock, now_ms: i64) -> Result<u32, StoreError> {
        if self.file.slots.len() >= SLOTS_MAX {
            let message = format!("there are {SLOTS_MAX} key slots, which is the limit: remove one first");
            return Err(StoreError::Slot(message));
        }
        let before = self.file.clone();
        let id = self.push_slot(&Material::of(unlock, true)?, now_ms)?;
        self.write_or_restore(before)?;
        Ok(id)
    }

    /// Takes a way to it. What it wrapped is overwritten on the disk; only a
    /// new root key shuts out who has a copy of the old file.
    pub(crate) fn remove_slot(&mut self, id: u32) -> Result<(), StoreError> {
        let before = self.file.clone();
        self.file.slots.retain(|slot| slot.id != id);
        if self.file.slots.len() == before.slots.len() {
            self.file = before;
            return Err(StoreError::Slot(format!("there is no key slot {id}")));
        }
        if self.file.slots.is_empty() {
            self.file = before;
            let message = "it is the only key slot, and nothing could be opened without it: add another one first";
            return Err(StoreError::Slot(message.into()));
        }
        self.write_or_restore(before)
    }

    /// Puts a fresh root key beside the present one into all slots.
    pub(crate) fn begin_rotation(&mut self, now_ms: i64) -> Result<Key, StoreError> {
        if let Some(next) = &self.next {
            return Ok(next.clone());
        }
        let next = Key::random();
        let before = self.file.clone();
        self.file.next_created_ms = now_ms;
        for n in 0..self.file.slots.len() {
            let (_, wrap) = self.slot_key(n)?;
            let wrapped = wrap.wrap(&next_context(self.installation.as_bytes()), &next);
            if let Some(slot) = self.file.slots.get_mut(n) {
                slot.next = wrapped;
            }
        }
        self.write_or_restore(before)?;
        self.next = Some(next.clone());
        Ok(next)
    }

    /// Makes the next root key the only one, once everything is under it.
    pub(crate) fn finish_rotation(&mut self) -> Result<(), StoreError> {
        let Some(next) = self.next.clone() else { return Ok(()) };
        let before = self.file.clone();
        for n in 0..self.file.slots.len() {
            let (id, wrap) = self.slot_key(n)?;
            let wrapped = wrap.wrap(self.installation.as_bytes(), &next);
            let held = self.held(&next, id, &wrap);
            if let Some(slot) = self.file.slots.get_mut(n) {
                (slot.wrapped, slot.held) = (wrapped, held);
                slot.next.clear();
            }
        }
        self.file.version += 1;
        self.file.created_ms = std::mem::take(&mut self.file.next_created_ms);
        self.write_or_restore(before)?;
        self.key = next;
        self.next = None;
        Ok(())
    }

    /// The id and own key of the `n`-th slot.
    fn slot_key(&self, n: usize) -> Result<(u32, Key), StoreError> {
        let damaged = |reason: &str| StoreError::CorruptFile { path: self.path.clone(), reason: reason.into() };
        let slot = self.file.slots.get(n).ok_or_else(|| damaged("a slot is missing"))?;
        let context = held_context(self.installation.as_bytes(), slot.id);
        let key = self.key.derive("canopy slot keys").unwrap(&context, &slot.held);
        Ok((slot.id, key.ok_or_else(|| damaged("a slot's key fails its authentication tag"))?))
    }

    fn held(&self, root: &Key, id: u32, wrap: &Key) -> Vec<u8> {
        root.derive("canopy slot keys").wrap(&held_context(self.installation.as_bytes(), id), wrap)
    }

    fn push_slot(&mut self, secret: &Material<'_>, now_ms: i64) -> Result<u32, StoreError> {
        let id = self.file.slots.iter().map(|slot| slot.id).max().unwrap_or(0) + 1;
        let mut slot = Slot { id, created_ms: now_ms, salt: random::<16>().to_vec(), ..Slot::default() };
        match secret {
            Material::Passphrase(_) => {
                slot.kind = KIND_PASSPHRASE;
                slot.memory_kib = ARGON2_MEMORY_KIB;
                slot.passes = ARGON2_PASSES;
                slot.lanes = ARGON2_LANES;
            }
            Material::Key(_) => slot.kind = KIND_KEY,
        }
        let outer = secret.stretch(&slot, &self.path)?;
        slot.commitment = outer.derive("canopy slot commitment").expose().to_vec();
        let wrap = outer.derive("canopy slot wrap");
        let installation = self.installation.as_bytes();
        slot.wrapped = wrap.wrap(installation, &self.key);
        slot.held = self.held(&self.key, id, &wrap);
        if let Some(next) = &self.next {
            slot.next = wrap.wrap(&next_context(installation), next);
        }
        self.file.slots.push(slot);
        Ok(id)
    }

    fn write(&self) -> Result<(), StoreError> {
        let body = self.file.encode_to_vec();
        let bytes = [MAGIC, Sha256::digest(&body).as_slice(), &body].concat();
        layout::replace_keys(&self.path, &bytes).map_err(|e| StoreError::io("cannot write", &self.path, &e))
    }

    fn write_or_restore(&mut self, before: SlotsFile) -> Result<(), StoreError> {
        let written = self.write();
        if written.is_err() {
            self.file = before;
        }
        written
    }
}

impl Slot {
    /// The slot's own key, if `outer` is what it was made with.
    fn wrap_key(&self, outer: &Key) -> Option<Key> {
        let commitment = outer.derive("canopy slot commitment");
        let is_ours = bool::from(commitment.expose().as_slice().ct_eq(&self.commitment));
        is_ours.then(|| outer.derive("canopy slot wrap"))
    }
}

fn next_context(installation: &[u8; 16]) -> Vec<u8> {
    [installation.as_slice(), b"next"].concat()
}

fn held_context(installation: &[u8; 16], slot: u32) -> Vec<u8> {
    [installation.as_slice(), b"slot", &slot.to_be_bytes()].concat()
}

/// The file's content, and whether it has this release's format.
fn parse(path: &Path, bytes: &[u8]) -> Result<(SlotsFile, bool), StoreError> {
    let damaged = |reason: &str| StoreError::CorruptFile { path: path.into(), reason: reason.into() };
    let current = bytes.strip_prefix(MAGIC);
    let rest = current.or_else(|| bytes.strip_prefix(MAGIC_BEFORE));
    let rest = rest.ok_or_else(|| damaged("it has no known header"))?;
    let (sum, body) = rest.split_at_checked(CHECKSUM_BYTES).ok_or_else(|| damaged("it is too short"))?;
    if sum != Sha256::digest(body).as_slice() {
        return Err(damaged("it fails its checksum"));
    }
    Ok((SlotsFile::decode(body).map_err(|e| damaged(&e.to_string()))?, current.is_some()))
}

/// What the operator gave.
enum Material<'a> {
    Passphrase(&'a Secret),
    Key(Key),
}

impl<'a> Material<'a> {
    fn of(unlock: &'a Unlock, first_run: bool) -> Result<Self, StoreError> {
        Ok(match unlock {
            Unlock::Passphrase(text) if text.expose().is_empty() => {
                return Err(StoreError::MalformedKey("the passphrase is empty: give one".into()));
            }
            Unlock::Passphrase(text) => Self::Passphrase(text),
            Unlock::Key(text) => Self::Key(parse_hex(text.expose()).ok_or_else(|| {
                StoreError::MalformedKey("the key is not 64 hex digits: `openssl rand -hex 32` makes one".into())
            })?),
            Unlock::KeyFile(path) => Self::Key(key_file(path, first_run)?),
        })
    }

    fn stretch(&self, slot: &Slot, path: &Path) -> Result<Key, StoreError> {
        let damaged = |reason: String| StoreError::CorruptFile { path: path.into(), reason };
        match self {
            Self::Key(key) => {
                let (_, hkdf) = hkdf::Hkdf::<Sha256>::extract(Some(&slot.salt), key.expose());
                let mut bytes = Zeroizing::new([0u8; 32]);
                hkdf.expand(b"canopy slot", bytes.as_mut_slice()).expect("32 bytes are within HKDF's bound");
                Ok(Key::from_bytes(*bytes))
            }
            Self::Passphrase(text) => {
                if slot.memory_kib > ARGON2_MEMORY_KIB_MAX {
                    return Err(damaged("a slot asks for too much memory".into()));
                }
                let params = Params::new(slot.memory_kib, slot.passes, slot.lanes, Some(32))
                    .map_err(|e| damaged(e.to_string()))?;
                let mut bytes = Zeroizing::new([0u8; 32]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(text.expose().as_bytes(), &slot.salt, bytes.as_mut_slice())
                    .map_err(|e| damaged(e.to_string()))?;
                Ok(Key::from_bytes(*bytes))
            }
        }
    }
}

/// Reads the key file; on first run, makes it where it is missing.
fn key_file(path: &Path, first_run: bool) -> Result<Key, StoreError> {
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => parse_hex(text.trim())
            .ok_or_else(|| StoreError::MalformedKey(format!("`{}` does not hold 64 hex digits", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound && first_run => {
            let key = Key::random();
            let mut text: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
            text.push('\n');
            let written = layout::write_whole(path, text.as_bytes());
            text.zeroize();
            written.map_err(|e| StoreError::io("cannot write the key file", path, &e))?;
            Ok(key)
        }
        Err(e) => Err(StoreError::io("cannot read the key file", path, &e)),
    }
}

fn parse_hex(text: &str) -> Option<Key> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = Zeroizing::new([0u8; 32]);
    for (to, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let text = std::str::from_utf8(pair).ok().filter(|t| !t.starts_with('+'))?;
        *to = u8::from_str_radix(text, 16).ok()?;
    }
    Some(Key::from_bytes(*bytes))
}
