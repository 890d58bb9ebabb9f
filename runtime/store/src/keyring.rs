//! A vault's `keyring`, outside fjall: an LSM tree keeps deleted keys on
//! disk. The first record is the vault's own key, wrapped by its org's key;
//! the others are the partitions' keys, wrapped by the vault's. A partition's
//! record is durable before the batch that needs it.

use std::collections::HashMap;
use std::path::Path;

use prost::Message;

use crate::key::Key;
use crate::records::{RecordError, RecordFile};

/// A partition's keyed name: the start of all its keys.
pub(crate) type PartitionName = [u8; 16];

const KIND_VAULT: u32 = 1;
const KIND_PARTITION: u32 = 2;

/// Of vault and partition keys until there is rotation.
pub(crate) const KEY_VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "2")]
    version: u32,
    /// The partition's name; for the vault its own name, sealed by an
    /// installation key, which rebuilds a lost index.
    #[prost(bytes = "vec", tag = "3")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    wrapped: Vec<u8>,
}

/// The open file. Keys stay wrapped until somebody asks for them.
pub(crate) struct Keyring {
    file: RecordFile,
}

/// What a keyring file holds.
pub(crate) struct KeyringContent {
    pub(crate) keyring: Keyring,
    pub(crate) vault_key: Key,
    pub(crate) partitions: HashMap<PartitionName, Vec<u8>>,
}

fn context(vault: &[u8; 16], record: &Record) -> Vec<u8> {
    let mut context = vault.to_vec();
    context.extend_from_slice(&record.kind.to_be_bytes());
    context.extend_from_slice(&record.version.to_be_bytes());
    context.extend_from_slice(&record.name);
    context
}

impl Keyring {
    /// Makes the file of a new vault.
    pub(crate) fn create(
        path: &Path,
        vault: &[u8; 16],
        sealed_name: Vec<u8>,
        vault_key: &Key,
        org_key: &Key,
    ) -> std::io::Result<Self> {
        let mut record = Record { kind: KIND_VAULT, version: KEY_VERSION, name: sealed_name, wrapped: Vec::new() };
        record.wrapped = org_key.wrap(&context(vault, &record), vault_key);
        let mut file = RecordFile::create(path)?;
        file.append([record.encode_to_vec().as_slice()])?;
        Ok(Self { file })
    }

    /// Opens the file.
    pub(crate) fn open(path: &Path, vault: &[u8; 16], org_key: &Key) -> Result<KeyringContent, RecordError> {
        let (file, payloads) = RecordFile::open(path)?;
        let mut vault_key = None;
        let mut partitions = HashMap::new();
        for payload in &payloads {
            let record = decode(payload)?;
            match record.kind {
                KIND_VAULT => {
                    let key = org_key.unwrap(&context(vault, &record), &record.wrapped);
                    vault_key = Some(key.ok_or(RecordError::Damaged("the vault's key does not unwrap"))?);
                }
                KIND_PARTITION => {
                    let name: PartitionName = record
                        .name
                        .as_slice()
                        .try_into()
                        .map_err(|_| RecordError::Damaged("a partition's name is damaged"))?;
                    partitions.insert(name, record.wrapped);
                }
                _ => return Err(RecordError::Damaged("a record is of an unknown kind")),
            }
        }
        let vault_key = vault_key.ok_or(RecordError::Damaged("the vault's key is missing"))?;
        Ok(KeyringContent { keyring: Self { file }, vault_key, partitions })
    }

    /// The sealed name of the vault that a keyring belongs to.
    pub(crate) fn sealed_name(path: &Path) -> Result<Vec<u8>, RecordError> {
        let (_, payloads) = RecordFile::open(path)?;
        let first = payloads.first().ok_or(RecordError::Damaged("it is empty"))?;
        Ok(decode(first)?.name)
    }

    /// Appends partitions' records durably.
    pub(crate) fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> std::io::Result<()> {
        self.file.append(records)
    }
}

fn decode(payload: &[u8]) -> Result<Record, RecordError> {
    Record::decode(payload).map_err(|_| RecordError::Damaged("a record cannot be read"))
}

/// The record that brings a partition's key into the keyring.
pub(crate) fn partition_record(vault: &[u8; 16], name: &PartitionName, key: &Key, vault_key: &Key) -> Vec<u8> {
    let mut record = Record { kind: KIND_PARTITION, version: KEY_VERSION, name: name.to_vec(), wrapped: Vec::new() };
    record.wrapped = vault_key.wrap(&context(vault, &record), key);
    record.encode_to_vec()
}

/// Unwraps a partition's key.
pub(crate) fn unwrap_partition(vault: &[u8; 16], name: &PartitionName, wrapped: &[u8], vault_key: &Key) -> Option<Key> {
    let record = Record { kind: KIND_PARTITION, version: KEY_VERSION, name: name.to_vec(), wrapped: Vec::new() };
    vault_key.unwrap(&context(vault, &record), wrapped)
}
