//! An audit: what was done in an org, or in the installation itself, by those
//! who administer it, and what was refused. Each entry is a transaction of its
//! own, so that entry and feed count alike, and nothing changes or removes one.

use bytes::Bytes;
use canopy_domain::{
    Change, Code, Context, Draft, Module, Order, PageRequest, Refusal, Source, Span, State, Subscription, Table, View,
    ViewWrite, Watch, WatchEnd, Wire, decode,
};
use canopy_proto::methods::{audit as methods, audit_effects};
use canopy_proto::org::v1::export_audit_response::Line;
use canopy_proto::org::v1::{
    AuditEntry, AuditHead, ExportAuditRequest, ExportAuditResponse, ListAuditEntriesRequest, ListAuditEntriesResponse,
};
use canopy_proto::system::v1::{RecordEntryRequest, RecordEntryResponse};
use prost::Message;

use crate::audit_chain::{self, Chain};

/// By seq.
const AUDIT_ENTRIES: Table<AuditEntry> = Table::new(1, "audit_entries", 1);

/// Seq and n: the keys say all. What an export reads along.
const AUDIT_FEED: View = View { id: View::FIRST_ID, name: "audit_feed", version: 1, source: Source::Changes, apply };

/// Entries looked at for one page: with filters, few of them may fit.
const LOOKED_AT_MAX: usize = 10_000;

/// The module of `org/<id>/audit` and `system/audit`.
pub fn audit() -> Module {
    // Its entries stay, and an export may begin with the first.
    Module::new("audit")
        .keep_feed()
        .view(AUDIT_FEED)
        .command(audit_effects::RECORD_ENTRY, record)
        .query(methods::LIST_AUDIT_ENTRIES, list)
        .subscription(methods::EXPORT_AUDIT, Subscription { open, opened, expiring: |_| Bytes::new(), show })
}

fn apply(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if change.table == AUDIT_ENTRIES.id {
        let key = [&seq.to_be_bytes()[..], &n.to_be_bytes()].concat();
        writes.push(ViewWrite::Put { key, value: Bytes::new() });
    }
}

/// The seq of the last entry. The feed's own is the same, but where the vault
/// was salvaged and several transactions became one.
fn last_seq(state: &State<'_>) -> Result<u64, Refusal> {
    let newest = Span { prefix: &[], after: None, order: Order::Descending, limit: 1 };
    let rows = state.scan(&AUDIT_ENTRIES, newest)?;
    Ok(rows.first().and_then(|(key, _)| key[..].try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// The chain as it stands after an entry.
fn chain_at(state: &State<'_>, seq: u64, cx: &Context<'_>) -> Result<Chain, Refusal> {
    if seq == 0 {
        return Ok(audit_chain::root(cx.address.as_str()));
    }
    let entry = state.read(&AUDIT_ENTRIES, &seq.to_be_bytes())?;
    let chain = entry.and_then(|entry| Chain::try_from(&entry.chain[..]).ok());
    chain.ok_or_else(|| Refusal::new(Code::Internal, format!("entry {seq} of `{}` is not there", cx.address)))
}

fn record(
    state: &State<'_>,
    request: RecordEntryRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordEntryResponse, Refusal> {
    let entry = request.entry.ok_or_else(|| Refusal::invalid("entry", "is required"))?;
    let mut entry = decode(&entry)?;
    let last = last_seq(state)?;
    entry.seq = last + 1;
    entry.chain = audit_chain::link(&chain_at(state, last, cx)?, &entry).to_vec().into();
    draft.insert(&AUDIT_ENTRIES, entry.seq.to_be_bytes(), &Wire::new(&entry));
    Ok(RecordEntryResponse {})
}

fn fits(entry: &AuditEntry, request: &ListAuditEntriesRequest) -> bool {
    let method = request.method.as_str();
    (request.principal.is_empty() || entry.principal == request.principal)
        && (method.is_empty() || entry.method == method || (method.ends_with('/') && entry.method.starts_with(method)))
        && (request.outcome == 0 || entry.outcome == request.outcome)
        && entry.last_time_ms >= request.from_time_ms
        && (request.until_time_ms == 0 || entry.time_ms < request.until_time_ms)
}

fn list(
    state: &State<'_>,
    request: ListAuditEntriesRequest,
    cx: &Context<'_>,
) -> Result<ListAuditEntriesResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let size = PageRequest { size: request.page_size, token: "" }.rows();
    let (mut entries, mut next_page_token) = (Vec::new(), request.page_token.clone());
    let mut looked_at = 0;
    while entries.len() < size && looked_at < LOOKED_AT_MAX {
        let wanted = i32::try_from(size - entries.len()).unwrap_or(i32::MAX);
        let page = PageRequest { size: wanted, token: &next_page_token };
        let (rows, next) = page.read(state.0, AUDIT_ENTRIES.id, &[], Order::Descending)?;
        looked_at += rows.len();
        for (_, row) in rows {
            let row = AUDIT_ENTRIES.row(row);
            if fits(&decode(&row)?, &request) {
                entries.push(row);
            }
        }
        next_page_token = next;
        if next_page_token.is_empty() {
            break;
        }
    }
    Ok(ListAuditEntriesResponse { entries, next_page_token })
}

/// Not asked for: an export says in its head how far it goes, and ends by itself.
fn opened(_: &str, _: u64) -> Bytes {
    Bytes::new()
}

fn open(state: &State<'_>, request: &Bytes, cx: &Context<'_>) -> Result<Vec<Watch>, Refusal> {
    let request =
        ExportAuditRequest::decode(request.clone()).map_err(|e| Refusal::new(Code::InvalidArgument, e.to_string()))?;
    let [] = cx.address.held("parent", &request.parent, [])?;
    let last = last_seq(state)?;
    let cursor = state.seq()?;
    if request.after_seq > 0 && cursor != last {
        return Err(Refusal::new(Code::FailedPrecondition, "this audit was salvaged, and is exported as a whole")
            .hint("export it without `after_seq`"));
    }
    if request.after_seq > last {
        return Err(Refusal::new(Code::OutOfRange, format!("the audit ends with entry {last}"))
            .hint("export what comes after the `seq` of an earlier export of the same audit"));
    }
    let head = head(state, request.after_seq, cx)?;
    let opened = ExportAuditResponse { line: Some(Line::Head(head)) }.encode_to_vec().into();
    Ok(vec![Watch {
        view: AUDIT_FEED.id,
        prefix: Vec::new(),
        label: cx.address.to_string(),
        cursor: Some(request.after_seq),
        end: Some(WatchEnd { seq: cursor, opened }),
    }])
}

/// How far the audit goes, signed.
///
/// # Errors
/// The store failed.
pub fn head(state: &State<'_>, after_seq: u64, cx: &Context<'_>) -> Result<AuditHead, Refusal> {
    let last = last_seq(state)?;
    let mut head = AuditHead {
        audit: cx.address.to_string(),
        installation: cx.issuer.installation().to_owned(),
        after_seq,
        after_chain: chain_at(state, after_seq, cx)?.to_vec().into(),
        seq: last,
        chain: chain_at(state, last, cx)?.to_vec().into(),
        time_ms: cx.now_ms,
        public_key: cx.issuer.attestation_key().to_vec().into(),
        signature: Bytes::new(),
    };
    head.signature = cx.issuer.attest(&audit_chain::statement(&head)).to_vec().into();
    Ok(head)
}

/// Entries after a seq, oldest first.
///
/// # Errors
/// The store failed.
pub fn entries(state: &State<'_>, after_seq: u64, limit: usize) -> Result<Vec<Wire<AuditEntry>>, Refusal> {
    let after = after_seq.to_be_bytes();
    let span = Span { prefix: &[], after: Some(&after), order: Order::Ascending, limit };
    Ok(state.scan(&AUDIT_ENTRIES, span)?.into_iter().map(|(_, row)| row).collect())
}

fn show(_: &str, _: u64, change: &Change) -> Option<Bytes> {
    let entry = AUDIT_ENTRIES.row(change.after.clone()?);
    Some(ExportAuditResponse { line: Some(Line::Entry(entry)) }.encode_to_vec().into())
}
