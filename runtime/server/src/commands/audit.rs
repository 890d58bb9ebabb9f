//! `canopy local audit`: what an audit says, and whether it is whole, without a
//! server.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};

use canopy_actors::{is_attested, now_ms};
use canopy_domain::{Address, Context, Id, Origin, Principal, Secret, Settings, State, TokenIssuer, Wire};
use canopy_org::audit_chain::{self, Chain};
use canopy_proto::org::v1::export_audit_response::Line;
use canopy_proto::org::v1::{AuditEntry, AuditHead, ExportAuditResponse};
use canopy_store::Snapshot;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};

use super::recovery::{open_existing, print};
use crate::boot;
use crate::cli::Terminal;
use crate::cli::output::{Format, Style, event};
use crate::cli::request::from_json;

/// Longest line that is read, in bytes: an entry has a few short texts.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Entries read at once.
const ENTRIES_MAX: usize = 1_000;

pub(super) fn command() -> Command {
    Command::new("audit")
        .about("Verifies an audit, in a data directory or as it was exported")
        .long_about(
            "Without --file, checks the audit in the data directory of a server that is stopped, feed and entries, and \
             prints it as `canopy org export-audit -o json` does. With --file, checks that exports are gapless, \
             chained and signed, and that the data directory still holds the same; with --key, for those who have no \
             data directory, that they are signed by that key. Exits with 1 where something is wrong.",
        )
        .arg(
            Arg::new("org")
                .long("org")
                .value_name("ORG")
                .help("Whose audit: org/<id>; the installation's own where it is left out"),
        )
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help("What `canopy org export-audit -o json` printed; may be given several times"),
        )
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("BASE64")
                .requires("file")
                .help("The installation's attestation_key, as `canopy ops get-installation` shows it"),
        )
        .args(super::config_args())
}

/// An export that is whole.
struct Export {
    head: AuditHead,
    entries: Vec<AuditEntry>,
}

pub(super) async fn run(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let files: Vec<PathBuf> = matches.get_many("file").into_iter().flatten().cloned().collect();
    let exports = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let org = matches.get_one::<String>("org").map(|org| audit_of(org)).transpose()?;
    if let Some(org) = &org
        && let Some(other) = exports.iter().find(|export| export.head.audit != org.as_str())
    {
        return Err(format!("`{}` was exported, and not `{org}`", other.head.audit));
    }
    if let Some(key) = matches.get_one::<String>("key") {
        let key = decoded_key(key)?;
        return exports.iter().try_for_each(|export| {
            signed_by(export, &key)?;
            print(terminal, &summary(export))
        });
    }
    let store = open_existing(matches, terminal).await?;
    let done = in_directory(matches, &store, &exports, org, terminal).await;
    store.close().await.map_err(|e| e.to_string())?;
    done
}

async fn in_directory(
    matches: &ArgMatches,
    store: &canopy_store::Store,
    exports: &[Export],
    org: Option<Address>,
    terminal: &mut Terminal,
) -> Result<(), String> {
    let config = super::load_config(matches, terminal, false).map_err(|e| e.to_string())?.config;
    let tokens = boot::tokens(&config, store, Secret::new("")).map_err(|e| e.to_string())?;
    let open = async |audit: &Address| -> Result<Snapshot, String> {
        let reader = store.reader(audit).await.map_err(|e| e.to_string())?;
        let snapshot = reader.snapshot().await.map_err(|e| e.to_string())?;
        snapshot.check_feed().map_err(|e| e.to_string())?;
        Ok(snapshot)
    };
    for export in exports {
        signed_by(export, &tokens.attestation_key())?;
        let audit = Address::parse(&export.head.audit).map_err(|e| e.to_string())?;
        compare(export, &open(&audit).await?)?;
        print(terminal, &summary(export))?;
    }
    if !exports.is_empty() {
        return Ok(());
    }
    let audit = org.unwrap_or_else(|| Address::system("audit"));
    let snapshot = open(&audit).await?;
    let cx = Context {
        now_ms: now_ms(),
        entropy: [0; 32],
        address: &audit,
        principal: &Principal::Nobody,
        origin: &Origin::default(),
        role: None,
        seq: 0,
        prepared: &[],
        issuer: &tokens,
        settings: Settings::default(),
    };
    let head = canopy_org::audit_head(&State(&snapshot), 0, &cx).map_err(|e| e.to_string())?;
    let mut followed = Followed::before(&head)?;
    write_line(terminal, Line::Head(head.clone()))?;
    each(&snapshot, |entry| {
        followed.entry(&entry)?;
        write_line(terminal, Line::Entry(Wire::new(&entry)))
    })?;
    terminal.stdout.flush().map_err(|e| e.to_string())?;
    followed.ends_as(&head)
}

/// Visits the entries of a data directory.
fn each(snapshot: &Snapshot, mut visit: impl FnMut(AuditEntry) -> Result<(), String>) -> Result<(), String> {
    let mut after = 0;
    loop {
        let rows = canopy_org::audit_entries(&State(snapshot), after, ENTRIES_MAX).map_err(|e| e.to_string())?;
        let is_last = rows.len() < ENTRIES_MAX;
        for row in rows {
            let entry = row.decode().map_err(|e| e.to_string())?;
            after = entry.seq;
            visit(entry)?;
        }
        if is_last {
            return Ok(());
        }
    }
}

fn audit_of(named: &str) -> Result<Address, String> {
    let id = named.strip_prefix("org/").unwrap_or(named);
    let id = Id::parse(id).ok_or_else(|| format!("`{named}` is not of the form `org/<id>`"))?;
    Ok(Address::org(id).audit())
}

/// A chain as far as it has been followed.
struct Followed {
    seq: u64,
    chain: Chain,
}

impl Followed {
    /// Up to where an audit begins.
    fn root(audit: &str) -> Self {
        Self { seq: 0, chain: audit_chain::root(audit) }
    }

    /// Up to where an export begins.
    fn before(head: &AuditHead) -> Result<Self, String> {
        let chain = Chain::try_from(&head.after_chain[..]).map_err(|_| "the head has no chain to begin with")?;
        if head.after_seq == 0 && chain != audit_chain::root(&head.audit) {
            return Err(format!("the chain does not begin as that of `{}` does", head.audit));
        }
        Ok(Self { seq: head.after_seq, chain })
    }

    fn entry(&mut self, entry: &AuditEntry) -> Result<(), String> {
        if entry.seq != self.seq + 1 {
            return Err(format!("entry {} follows entry {}", entry.seq, self.seq));
        }
        let chain = audit_chain::link(&self.chain, entry);
        if chain[..] != entry.chain[..] {
            return Err(format!("entry {} is not what was recorded, or does not follow the one before", entry.seq));
        }
        (self.seq, self.chain) = (entry.seq, chain);
        Ok(())
    }

    fn ends_as(&self, head: &AuditHead) -> Result<(), String> {
        if self.seq != head.seq {
            return Err(format!("it ends with entry {}, and its head says {}", self.seq, head.seq));
        }
        if self.chain[..] == head.chain[..] {
            Ok(())
        } else {
            Err("the last entry is not the one that the head says".into())
        }
    }
}

/// Reads an export and checks that it is gapless and chained.
fn read(path: &Path) -> Result<Export, String> {
    let in_file = |why: String| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|e| in_file(e.to_string()))?;
    let (mut head, mut entries) = (None::<AuditHead>, Vec::new());
    let mut reader = BufReader::new(file);
    for n in 1.. {
        let mut line = String::new();
        let mut bounded = std::io::Read::take(&mut reader, LINE_BYTES_MAX);
        if bounded.read_line(&mut line).map_err(|e| in_file(e.to_string()))? == 0 {
            break;
        }
        let at_line = |why: String| in_file(format!("line {n}: {why}"));
        match (parse(&line).map_err(at_line)?, &head) {
            (Line::Head(found), None) => head = Some(found),
            (Line::Entry(entry), Some(_)) => entries.push(entry.decode().map_err(|e| at_line(e.to_string()))?),
            (Line::Head(_), Some(_)) => return Err(at_line("a second head".into())),
            (Line::Entry(_), None) => return Err(at_line("an entry before the head".into())),
        }
    }
    let head = head.ok_or_else(|| in_file("it has no head".into()))?;
    let checked = || {
        let mut followed = Followed::before(&head)?;
        entries.iter().try_for_each(|entry| followed.entry(entry))?;
        followed.ends_as(&head)
    };
    checked().map_err(in_file)?;
    Ok(Export { head, entries })
}

fn descriptor() -> MessageDescriptor {
    let name = "canopy.org.v1.ExportAuditResponse";
    canopy_proto::pool().get_message_by_name(name).expect("the pool was compiled with this program")
}

fn parse(line: &str) -> Result<Line, String> {
    let message = from_json(descriptor(), line).map_err(|e| e.to_string())?;
    let response = ExportAuditResponse::decode(&message.encode_to_vec()[..]).map_err(|e| e.to_string())?;
    response.line.ok_or_else(|| "neither a head nor an entry".into())
}

fn write_line(terminal: &mut Terminal, line: Line) -> Result<(), String> {
    let bytes = ExportAuditResponse { line: Some(line) }.encode_to_vec();
    let message = DynamicMessage::decode(descriptor(), &bytes[..]).map_err(|e| e.to_string())?;
    let style = Style { format: Format::Json, show_secrets: false };
    let text = event(&message, style).map_err(|e| e.to_string())?;
    terminal.stdout.write_all(text.as_bytes()).map_err(|e| e.to_string())
}

fn decoded_key(text: &str) -> Result<Vec<u8>, String> {
    let json = serde_json::json!({ "attestation_key": text }).to_string();
    let installation = canopy_proto::pool().get_message_by_name("canopy.ops.v1.Installation");
    let installation = installation.ok_or("no installation is known")?;
    let message = from_json(installation, &json).map_err(|_| format!("`{text}` is no base64"))?;
    let decoded = canopy_proto::ops::v1::Installation::decode(&message.encode_to_vec()[..]);
    Ok(decoded.map_err(|e| e.to_string())?.attestation_key.to_vec())
}

fn signed_by(export: &Export, key: &[u8]) -> Result<(), String> {
    let head = &export.head;
    if head.public_key[..] != *key {
        return Err(format!("the export of `{}` is signed by another key than the installation's", head.audit));
    }
    if is_attested(key, &audit_chain::statement(head), &head.signature) {
        Ok(())
    } else {
        Err(format!("the head of the export of `{}` is not what was signed", head.audit))
    }
}

/// Whether a data directory still holds what was exported from it.
fn compare(export: &Export, snapshot: &Snapshot) -> Result<(), String> {
    let head = &export.head;
    let mut exported = export.entries.iter();
    let mut own = Followed::root(&head.audit);
    each(snapshot, |entry| {
        if own.seq == head.after_seq && own.chain[..] != head.after_chain[..] {
            return Err(format!("entry {} is another one in the data directory", own.seq));
        }
        own.entry(&entry).map_err(|why| format!("in the data directory, {why}"))?;
        if entry.seq > head.after_seq && exported.next().is_some_and(|other| other.chain != entry.chain) {
            return Err(format!("entry {} is another one in the data directory", entry.seq));
        }
        Ok(())
    })?;
    match exported.next() {
        Some(entry) => Err(format!("entry {} was exported, and is not in the data directory any more", entry.seq)),
        None => Ok(()),
    }
}

fn summary(export: &Export) -> serde_json::Value {
    let Export { head, entries } = export;
    serde_json::json!({
        "audit": head.audit,
        "installation": head.installation,
        "entries": entries.len(),
        "after_seq": head.after_seq,
        "seq": head.seq,
        "time_ms": head.time_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use canopy_domain::Kind;

    #[test]
    fn audits_are_named_by_their_org() {
        let id = "01arz3ndektsv4rrffq69g5fav";
        for named in [id.to_owned(), format!("org/{id}")] {
            let audit = audit_of(&named).unwrap();
            assert_eq!(audit.kind(), Some(Kind::Audit));
            assert_eq!(audit.as_str(), format!("org/{id}/audit"));
        }
        for wrong in ["acme", "org/acme", "project/x", ""] {
            assert!(audit_of(wrong).is_err(), "{wrong}");
        }
    }
}
