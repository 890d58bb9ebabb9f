//! The root key and the ways to it. `keys/root.slots` holds slots like LUKS:
//! each wraps the same root key for another secret, with a commitment to the
//! secret's key, so that a wrong secret is told from a damaged file.

use std::fs;
use std::io;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use canopy_domain::{Id, Secret};
use prost::Message;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::key::{Key, random};
use crate::layout::{self, Layout};
use crate::{StoreError, Unlock};

const MAGIC: &[u8] = b"canopy keys 1\n";
const CHECKSUM_BYTES: usize = 32;

/// RFC 9106 §4, second recommended option: 64 MiB, 3 passes, 4 lanes.
const ARGON2_MEMORY_KIB: u32 = 64 * 1024;
const ARGON2_PASSES: u32 = 3;
const ARGON2_LANES: u32 = 4;
/// More memory than this in a slot is damage, not a choice.
const ARGON2_MEMORY_KIB_MAX: u32 = 4 << 20;

#[derive(Clone, PartialEq, Message)]
struct Slots {
    #[prost(bytes = "vec", tag = "1")]
    installation: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    slots: Vec<Slot>,
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
    #[prost(bytes = "vec", tag = "7")]
    wrapped: Vec<u8>,
}

const KIND_PASSPHRASE: u32 = 1;
const KIND_KEY: u32 = 2;

/// What unlocks everything else.
pub(crate) struct Root {
    pub(crate) installation: Id,
    pub(crate) key: Key,
}

impl Root {
    /// Opens the root key, or makes it where the directory has none.
    pub(crate) fn open(layout: &Layout, unlock: &Unlock) -> Result<Self, StoreError> {
        let path = layout.root_slots();
        match fs::read(&path) {
            Ok(bytes) => Self::unlock(&path, &bytes, unlock),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Made after VERSION and before any vault: without it, vaults
                // cannot be read, and a new root key would hide that.
                if layout.vault_index().exists() || layout.org_keys().exists() {
                    let reason = "it is missing, and there are vaults".into();
                    return Err(StoreError::CorruptFile { path, reason });
                }
                Self::create(&path, unlock)
            }
            Err(e) => Err(StoreError::io("cannot read", &path, &e)),
        }
    }

    fn create(path: &Path, unlock: &Unlock) -> Result<Self, StoreError> {
        let root = Self { installation: Id::from_bytes(random()), key: Key::random() };
        let mut slot = Slot { salt: random::<16>().to_vec(), ..Slot::default() };
        match unlock {
            Unlock::Passphrase(_) => {
                slot.kind = KIND_PASSPHRASE;
                slot.memory_kib = ARGON2_MEMORY_KIB;
                slot.passes = ARGON2_PASSES;
                slot.lanes = ARGON2_LANES;
            }
            Unlock::KeyFile(_) | Unlock::Key(_) => slot.kind = KIND_KEY,
        }
        let secret = Material::of(unlock, true)?;
        let outer = secret.stretch(&slot, path)?;
        slot.commitment = outer.derive("canopy slot commitment").expose().to_vec();
        let context = root.installation.as_bytes();
        slot.wrapped = outer.derive("canopy slot wrap").wrap(context, &root.key);
        let slots = Slots { installation: context.to_vec(), slots: vec![slot] };
        let body = slots.encode_to_vec();
        let bytes = [MAGIC, Sha256::digest(&body).as_slice(), &body].concat();
        layout::write_whole(path, &bytes).map_err(|e| StoreError::io("cannot write", path, &e))?;
        Ok(root)
    }

    fn unlock(path: &Path, bytes: &[u8], unlock: &Unlock) -> Result<Self, StoreError> {
        let damaged = |reason: &str| StoreError::CorruptFile { path: path.into(), reason: reason.into() };
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it has no known header"))?;
        let (sum, body) = rest.split_at_checked(CHECKSUM_BYTES).ok_or_else(|| damaged("it is too short"))?;
        if sum != Sha256::digest(body).as_slice() {
            return Err(damaged("it fails its checksum"));
        }
        let slots = Slots::decode(body).map_err(|e| damaged(&e.to_string()))?;
        let installation: [u8; 16] =
            slots.installation.as_slice().try_into().map_err(|_| damaged("it has no installation id"))?;
        let (kind, name) = match unlock {
            Unlock::Passphrase(_) => (KIND_PASSPHRASE, "passphrase"),
            Unlock::KeyFile(_) => (KIND_KEY, "key file"),
            Unlock::Key(_) => (KIND_KEY, "key"),
        };
        let secret = Material::of(unlock, false)?;
        for slot in slots.slots.iter().filter(|slot| slot.kind == kind) {
            let outer = secret.stretch(slot, path)?;
            let commitment = outer.derive("canopy slot commitment");
            if bool::from(commitment.expose().as_slice().ct_eq(&slot.commitment)) {
                let key = outer
                    .derive("canopy slot wrap")
                    .unwrap(&installation, &slot.wrapped)
                    .ok_or_else(|| damaged("the root key fails its authentication tag"))?;
                return Ok(Self { installation: Id::from_bytes(installation), key });
            }
        }
        Err(StoreError::WrongKey(name))
    }
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
