//! A vault's `keyring`, outside fjall: an LSM tree keeps deleted keys on
//! disk. It holds the vault's key, wrapped by its org's; and wrapped by that
//! one, the vault's identity, the keys of its partitions, and of the subjects
//! in them that can be shredded alone. A key's record is durable before the
//! batch that needs it.
//!
//! Keys are added at the end. Whatever takes keys away or wraps them anew
//! writes the whole file, which is there whole or not at all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::key::Key;
use crate::orgs::{KeyVersion, OrgKeys};
use crate::records::{RecordError, RecordFile};

/// A partition's keyed name: the start of all its keys.
pub(crate) type PartitionName = [u8; 16];

/// What can be shredded alone within a partition: the id that its rows' keys
/// start with.
pub(crate) type SubjectId = [u8; 16];

/// A version of the vault's key, wrapped by the org's.
const KIND_VAULT: u32 = 1;
/// A version of a partition's key.
const KIND_PARTITION: u32 = 2;
/// What must survive rotation of the vault's key: the names of partitions and
/// the head. In format 1, the vault's key was it.
const KIND_IDENTITY: u32 = 3;
/// A version of a subject's key.
const KIND_SUBJECT: u32 = 4;
/// A partition or subject is shredded by the group whose number stands there.
const KIND_INTENT: u32 = 5;
/// A partition or subject was shredded.
const KIND_SHREDDED: u32 = 6;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// Of the key: what sealed values call it by.
    #[prost(uint32, tag = "2")]
    version: u32,
    /// The partition's name; for the vault its own name, sealed by an
    /// installation key, which rebuilds a lost index.
    #[prost(bytes = "vec", tag = "3")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    wrapped: Vec<u8>,
    /// For a vault's key the version of the org's that wraps it; for others
    /// that of the vault's when they were made. 0 in format 1 stands for 1.
    #[prost(uint32, tag = "5")]
    outer_version: u32,
    #[prost(int64, tag = "6")]
    created_ms: i64,
    #[prost(bytes = "vec", tag = "7")]
    subject: Vec<u8>,
    /// Of an intent.
    #[prost(uint64, tag = "8")]
    group: u64,
    /// Numbers of the keys that were destroyed.
    #[prost(uint32, repeated, tag = "9")]
    versions: Vec<u32>,
    /// And their fingerprints.
    #[prost(bytes = "vec", repeated, tag = "10")]
    fingerprints: Vec<Vec<u8>>,
    /// Of the vault's key: how many records its file was written whole with.
    #[prost(uint64, tag = "11")]
    whole: u64,
    /// And how many had been appended before, over all its files.
    #[prost(uint64, tag = "12")]
    appended: u64,
}

impl Record {
    fn is_about(&self, name: &PartitionName, subject: Option<&SubjectId>) -> bool {
        self.name == name && subject.is_none_or(|subject| self.subject == subject)
    }
}

/// A key that a batch needs, to be wrapped when it is appended.
#[derive(Clone)]
pub(crate) struct NewKey {
    pub(crate) partition: PartitionName,
    pub(crate) subject: Option<SubjectId>,
    pub(crate) version: u32,
    /// Of the vault's key when this one was made.
    pub(crate) outer_version: u32,
    pub(crate) key: Key,
    pub(crate) created_ms: i64,
}

impl NewKey {
    /// A fresh key of a partition, in a vault whose own has `version`.
    pub(crate) fn of_partition(partition: PartitionName, version: u32, created_ms: i64) -> Self {
        Self { partition, subject: None, version, outer_version: version, key: Key::random(), created_ms }
    }
}

/// An unwrapped key of a partition or subject.
pub(crate) struct OpenedKey {
    pub(crate) version: u32,
    pub(crate) outer_version: u32,
    pub(crate) key: Key,
}

/// A partition's records, still wrapped, and encoded: an open vault holds those
/// of all its partitions, which may be very many.
#[derive(Default, Clone)]
pub(crate) struct PartitionRecords(Vec<u8>);

/// A partition's keys.
pub(crate) struct PartitionKeys {
    /// By version; the first one is the partition's identity.
    pub(crate) versions: Vec<OpenedKey>,
    pub(crate) subjects: Vec<(SubjectId, OpenedKey)>,
    /// Numbers of the keys that a subject had.
    pub(crate) shredded: Vec<(SubjectId, Vec<u32>)>,
}

impl PartitionRecords {
    fn push(&mut self, record: &Record) {
        // Most have one.
        let bytes = record.encoded_len();
        self.0.reserve_exact(if self.0.is_empty() { bytes + prost::length_delimiter_len(bytes) } else { 0 });
        record.encode_length_delimited(&mut self.0).expect("a vector grows");
    }

    fn records(&self) -> impl Iterator<Item = Record> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || Record::decode_length_delimited(&mut rest).ok())
    }

    /// The fingerprints of the partition's destroyed keys, if it was shredded.
    pub(crate) fn shredded(&self) -> Option<Vec<[u8; 32]>> {
        let gone = self.records().find(|record| record.kind == KIND_SHREDDED && record.subject.is_empty())?;
        Some(gone.fingerprints.iter().filter_map(|fingerprint| fingerprint.as_slice().try_into().ok()).collect())
    }

    /// Unwraps all keys; `None` where one does not.
    pub(crate) fn open(&self, vault: &[u8; 16], vault_key: &Key) -> Option<PartitionKeys> {
        let mut keys = PartitionKeys { versions: Vec::new(), subjects: Vec::new(), shredded: Vec::new() };
        for record in self.records() {
            let opened = || {
                let key = vault_key.unwrap(&context(vault, &record), &record.wrapped)?;
                Some(OpenedKey { version: record.version, outer_version: record.outer_version.max(1), key })
            };
            match record.kind {
                KIND_PARTITION => keys.versions.push(opened()?),
                KIND_SUBJECT => keys.subjects.push((record.subject.as_slice().try_into().ok()?, opened()?)),
                KIND_SHREDDED if !record.subject.is_empty() => {
                    keys.shredded.push((record.subject.as_slice().try_into().ok()?, record.versions.clone()));
                }
                _ => {}
            }
        }
        keys.versions.sort_by_key(|key| key.version);
        Some(keys)
    }
}

/// The open file. Keys stay wrapped until somebody asks for them.
pub(crate) struct Keyring {
    file: RecordFile,
    path: PathBuf,
    vault: [u8; 16],
    /// Records that were ever appended. Each group notes it: whether a record
    /// that cannot be read was torn, or is one that the data needs.
    appended: u64,
}

/// A vault's own keys.
#[derive(Clone)]
pub(crate) struct VaultSecrets {
    /// Wraps what is in the keyring.
    pub(crate) key: KeyVersion,
    /// Names of partitions and the head.
    pub(crate) identity: Key,
}

/// What a keyring file holds.
pub(crate) struct KeyringContent {
    pub(crate) secrets: VaultSecrets,
    /// The version of the org's key that wraps it.
    pub(crate) org_version: u32,
    pub(crate) partitions: HashMap<PartitionName, PartitionRecords>,
    /// Whether a shred was under way.
    pub(crate) has_intents: bool,
}

fn context(vault: &[u8; 16], record: &Record) -> Vec<u8> {
    let mut context = vault.to_vec();
    context.extend_from_slice(&record.kind.to_be_bytes());
    context.extend_from_slice(&record.version.to_be_bytes());
    context.extend_from_slice(&record.name);
    context.extend_from_slice(&record.subject);
    context
}

fn encoded(records: &[Record]) -> Vec<Vec<u8>> {
    records.iter().map(Message::encode_to_vec).collect()
}

impl Keyring {
    /// Makes the file of a new vault.
    pub(crate) fn create(
        path: &Path,
        vault: &[u8; 16],
        sealed_name: Vec<u8>,
        secrets: &VaultSecrets,
        org_key: &KeyVersion,
    ) -> std::io::Result<Self> {
        let own = vault_record(vault, sealed_name, &secrets.key, org_key);
        let identity = identity_record(vault, secrets);
        let records = [Record { whole: 2, ..own }, identity];
        let file = RecordFile::create(path, encoded(&records).iter().map(Vec::as_slice))?;
        Ok(Self { file, path: path.into(), vault: *vault, appended: 0 })
    }

    /// Opens the file, up to its tail.
    pub(crate) fn open(
        path: &Path,
        vault: &[u8; 16],
        org_keys: &OrgKeys,
    ) -> Result<(Self, KeyringContent), RecordError> {
        let (file, payloads) = RecordFile::open(path)?;
        let records = decoded(&payloads)?;
        let (whole, before) = records.first().map_or((0, 0), |own| (own.whole, own.appended));
        let since = (records.len() as u64).checked_sub(whole);
        let since = since.ok_or(RecordError::Damaged("a record fails its checksum"))?;
        let content = content(vault, records, org_keys)?;
        Ok((Self { file, path: path.into(), vault: *vault, appended: before + since }, content))
    }

    /// Records that were ever appended.
    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    /// Whether the file goes on behind its last whole record.
    pub(crate) fn has_tail(&self) -> bool {
        self.file.has_tail()
    }

    /// Cuts off what was torn: the data needs nothing of it.
    pub(crate) fn cut_tail(&mut self) -> std::io::Result<()> {
        self.file.cut_tail()
    }

    /// The sealed name of the vault that a keyring belongs to, and which
    /// version of its org's key wraps it.
    pub(crate) fn sealed_name(path: &Path) -> Result<(Vec<u8>, u32), RecordError> {
        let (_, payloads) = RecordFile::open(path)?;
        let first = payloads.first().ok_or(RecordError::Damaged("it is empty"))?;
        let own = decode(first)?;
        Ok((own.name, own.outer_version.max(1)))
    }

    /// Appends keys durably, wrapped by the vault's.
    pub(crate) fn append<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a NewKey>,
        vault_key: &Key,
    ) -> std::io::Result<()> {
        let record = |new: &NewKey| {
            let mut record = Record {
                kind: if new.subject.is_some() { KIND_SUBJECT } else { KIND_PARTITION },
                version: new.version,
                name: new.partition.to_vec(),
                outer_version: new.outer_version,
                created_ms: new.created_ms,
                subject: new.subject.map(|subject| subject.to_vec()).unwrap_or_default(),
                ..Record::default()
            };
            record.wrapped = vault_key.wrap(&context(&self.vault, &record), &new.key);
            record.encode_to_vec()
        };
        let payloads: Vec<Vec<u8>> = keys.into_iter().map(record).collect();
        self.append_records(&payloads)
    }

    fn append_records(&mut self, payloads: &[Vec<u8>]) -> std::io::Result<()> {
        self.file.append(payloads.iter().map(Vec::as_slice))?;
        self.appended += payloads.len() as u64;
        Ok(())
    }

    /// Notes durably that group `group` shreds these.
    pub(crate) fn intend(&mut self, doomed: &[(PartitionName, SubjectId)], group: u64) -> std::io::Result<()> {
        let intent = |(name, subject): &(PartitionName, SubjectId)| Record {
            kind: KIND_INTENT,
            name: name.to_vec(),
            subject: subject.to_vec(),
            group,
            ..Record::default()
        };
        self.append_records(&encoded(&doomed.iter().map(intent).collect::<Vec<_>>()))
    }

    /// Does what was intended by groups up to `group`, and forgets what later
    /// ones intended: they never became durable.
    pub(crate) fn settle(&mut self, group: u64, vault_key: &Key, now_ms: i64) -> Result<(), RecordError> {
        let mut records = self.records()?;
        let intents: Vec<Record> = records.extract_if(.., |record| record.kind == KIND_INTENT).collect();
        for intent in intents.iter().filter(|intent| intent.group <= group) {
            let name = name_of(intent)?;
            let subject = subject_of(intent)?;
            destroy(&self.vault, &mut records, &name, Some(&subject), vault_key, now_ms)?;
        }
        self.write(&mut records)
    }

    /// Destroys the keys of a partition with all its subjects; gives their
    /// fingerprints.
    pub(crate) fn shred_partition(
        &mut self,
        name: &PartitionName,
        vault_key: &Key,
        now_ms: i64,
    ) -> Result<Vec<[u8; 32]>, RecordError> {
        let mut records = self.records()?;
        let fingerprints = destroy(&self.vault, &mut records, name, None, vault_key, now_ms)?;
        self.write(&mut records)?;
        Ok(fingerprints)
    }

    /// Wraps the vault's key by another version of its org's.
    pub(crate) fn rewrap(&mut self, secrets: &VaultSecrets, org_key: &KeyVersion) -> Result<(), RecordError> {
        let mut records = self.records()?;
        for record in records.iter_mut().filter(|record| record.kind == KIND_VAULT) {
            *record = vault_record(&self.vault, std::mem::take(&mut record.name), &secrets.key, org_key);
        }
        self.write(&mut records)
    }

    /// Gives the vault another key, and wraps everything by it.
    pub(crate) fn rotate(
        &mut self,
        before: &VaultSecrets,
        after: &KeyVersion,
        org_key: &KeyVersion,
    ) -> Result<VaultSecrets, RecordError> {
        let mut records = self.records()?;
        let secrets = VaultSecrets { key: after.clone(), identity: before.identity.clone() };
        records.retain(|record| record.kind != KIND_IDENTITY);
        for record in &mut records {
            match record.kind {
                KIND_VAULT => {
                    *record = vault_record(&self.vault, std::mem::take(&mut record.name), after, org_key);
                }
                KIND_PARTITION | KIND_SUBJECT => {
                    let context = context(&self.vault, record);
                    let key = before.key.key.unwrap(&context, &record.wrapped);
                    let key = key.ok_or(RecordError::Damaged("a key does not unwrap"))?;
                    record.wrapped = after.key.wrap(&context, &key);
                }
                _ => {}
            }
        }
        records.insert(1.min(records.len()), identity_record(&self.vault, &secrets));
        self.write(&mut records)?;
        Ok(secrets)
    }

    /// What the file holds now.
    pub(crate) fn content(&mut self, org_keys: &OrgKeys) -> Result<KeyringContent, RecordError> {
        content(&self.vault, self.records()?, org_keys)
    }

    /// All records, to be written anew: not while some cannot be read.
    fn records(&self) -> Result<Vec<Record>, RecordError> {
        let (file, payloads) = RecordFile::open(&self.path)?;
        if file.has_tail() {
            return Err(RecordError::Damaged("its last record cannot be read: see whether the vault opens"));
        }
        decoded(&payloads)
    }

    fn write(&mut self, records: &mut [Record]) -> Result<(), RecordError> {
        let count = records.len() as u64;
        if let Some(own) = records.first_mut() {
            (own.whole, own.appended) = (count, self.appended);
        }
        let payloads = encoded(records);
        self.file = RecordFile::create(&self.path, payloads.iter().map(Vec::as_slice))?;
        Ok(())
    }
}

fn content(vault: &[u8; 16], records: Vec<Record>, org_keys: &OrgKeys) -> Result<KeyringContent, RecordError> {
    let mut own = None;
    let mut identity = None;
    let mut has_intents = false;
    let mut partitions: HashMap<PartitionName, PartitionRecords> = HashMap::new();
    for record in records {
        match record.kind {
            KIND_VAULT => {
                let org_version = record.outer_version.max(1);
                let org_key = org_keys
                    .version(org_version)
                    .ok_or(RecordError::Damaged("the version of the org's key that wraps it is gone"))?;
                let key = org_key
                    .unwrap(&context(vault, &record), &record.wrapped)
                    .ok_or(RecordError::Damaged("the vault's key does not unwrap"))?;
                let (version, created_ms) = (record.version, record.created_ms);
                own = Some((KeyVersion { version, key, created_ms }, org_version));
            }
            KIND_IDENTITY => {
                let (key, _) = own.as_ref().ok_or(RecordError::Damaged("the vault's key is missing"))?;
                let key = key.key.unwrap(&context(vault, &record), &record.wrapped);
                identity = Some(key.ok_or(RecordError::Damaged("the vault's identity does not unwrap"))?);
            }
            KIND_PARTITION | KIND_SUBJECT | KIND_SHREDDED => {
                partitions.entry(name_of(&record)?).or_default().push(&record);
            }
            KIND_INTENT => has_intents = true,
            _ => return Err(RecordError::Damaged("a record is of an unknown kind")),
        }
    }
    let (key, org_version) = own.ok_or(RecordError::Damaged("the vault's key is missing"))?;
    let identity = identity.unwrap_or_else(|| key.key.clone());
    Ok(KeyringContent { secrets: VaultSecrets { key, identity }, org_version, partitions, has_intents })
}

fn vault_record(vault: &[u8; 16], sealed_name: Vec<u8>, key: &KeyVersion, org_key: &KeyVersion) -> Record {
    let mut record = Record {
        kind: KIND_VAULT,
        version: key.version,
        name: sealed_name,
        outer_version: org_key.version,
        created_ms: key.created_ms,
        ..Record::default()
    };
    record.wrapped = org_key.key.wrap(&context(vault, &record), &key.key);
    record
}

fn identity_record(vault: &[u8; 16], secrets: &VaultSecrets) -> Record {
    let mut record = Record { kind: KIND_IDENTITY, version: 1, ..Record::default() };
    record.wrapped = secrets.key.key.wrap(&context(vault, &record), &secrets.identity);
    record
}

/// Takes the keys of a partition, or of one subject in it, out of the records,
/// and leaves a mark that they were there.
fn destroy(
    vault: &[u8; 16],
    records: &mut Vec<Record>,
    name: &PartitionName,
    subject: Option<&SubjectId>,
    vault_key: &Key,
    now_ms: i64,
) -> Result<Vec<[u8; 32]>, RecordError> {
    let mut mark = Record {
        kind: KIND_SHREDDED,
        name: name.to_vec(),
        subject: subject.map(|subject| subject.to_vec()).unwrap_or_default(),
        created_ms: now_ms,
        ..Record::default()
    };
    for record in records.extract_if(.., |record| record.is_about(name, subject)) {
        match record.kind {
            KIND_PARTITION | KIND_SUBJECT => {
                let key = vault_key.unwrap(&context(vault, &record), &record.wrapped);
                let key = key.ok_or(RecordError::Damaged("a key does not unwrap"))?;
                mark.versions.push(record.version);
                mark.fingerprints.push(key.fingerprint().to_vec());
            }
            // Done before, in whole or in part.
            _ => {
                mark.versions.extend(record.versions);
                mark.fingerprints.extend(record.fingerprints);
            }
        }
    }
    let fingerprints = mark.fingerprints.iter().filter_map(|fingerprint| fingerprint.as_slice().try_into().ok());
    let fingerprints = fingerprints.collect();
    records.push(mark);
    Ok(fingerprints)
}

fn name_of(record: &Record) -> Result<PartitionName, RecordError> {
    record.name.as_slice().try_into().map_err(|_| RecordError::Damaged("a partition's name is damaged"))
}

fn subject_of(record: &Record) -> Result<SubjectId, RecordError> {
    record.subject.as_slice().try_into().map_err(|_| RecordError::Damaged("a subject's id is damaged"))
}

fn decoded(payloads: &[Vec<u8>]) -> Result<Vec<Record>, RecordError> {
    payloads.iter().map(|payload| decode(payload)).collect()
}

fn decode(payload: &[u8]) -> Result<Record, RecordError> {
    Record::decode(payload).map_err(|_| RecordError::Damaged("a record cannot be read"))
}
