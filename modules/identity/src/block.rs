//! Whom somebody blocks, and what the server keeps of somebody.

use canopy_domain::{Address, Code, Context, Draft, Id, Kind, Order, PageRequest, Refusal, Span, State, Table, Wire};
use canopy_proto::identity::v1::{
    AccountEvent, Block, BlockAccountRequest, ExportAccountRequest, ExportAccountResponse, ListBlockedRequest,
    ListBlockedResponse, UnblockAccountRequest, UnblockAccountResponse,
};
use canopy_proto::system::v1::{CheckSenderRequest, CheckSenderResponse};

use crate::account::{MEMBERSHIPS, the_account};
use crate::api_keys::API_KEYS;
use crate::passkeys::PASSKEYS;
use crate::sessions::SESSIONS;

/// By the blocked account's id.
const BLOCKS: Table<Block> = Table::new(32, "blocks", 1);

/// People whom somebody blocks.
const BLOCKS_MAX: usize = 1_000;
/// Rows of a kind that an export shows.
const EXPORT_MAX: usize = 100_000;
/// Transactions that an export shows.
const EVENTS_MAX: u64 = 1_000;

fn id_of(name: &str) -> Result<Id, Refusal> {
    let address = Address::parse(name).ok().filter(|address| address.kind() == Some(Kind::Account));
    address
        .and_then(|address| address.id())
        .ok_or_else(|| Refusal::invalid("blocked", format!("`{name}` is not of the form `account/<id>`")))
}

pub(crate) fn block(
    state: &State<'_>,
    request: BlockAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Block>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    the_account(state, cx)?;
    let id = id_of(&request.blocked)?;
    if Some(id) == cx.address.id() {
        return Err(Refusal::invalid("blocked", "is the caller"));
    }
    if let Some(row) = state.get(&BLOCKS, id.as_bytes())? {
        return Ok(row);
    }
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: BLOCKS_MAX };
    if state.scan(&BLOCKS, span)?.len() >= BLOCKS_MAX {
        return Err(Refusal::new(Code::ResourceExhausted, format!("{BLOCKS_MAX} people are blocked already"))
            .hint("end some blocks with `canopy identity unblock-account`"));
    }
    let row = Wire::new(&Block { account: request.blocked, create_time_ms: cx.now_ms });
    draft.insert(&BLOCKS, *id.as_bytes(), &row);
    Ok(row)
}

pub(crate) fn unblock(
    state: &State<'_>,
    request: UnblockAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<UnblockAccountResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let id = id_of(&request.blocked)?;
    if let Some(row) = state.get(&BLOCKS, id.as_bytes())? {
        draft.delete(&BLOCKS, *id.as_bytes(), &row);
    }
    Ok(UnblockAccountResponse {})
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListBlockedRequest,
    cx: &Context<'_>,
) -> Result<ListBlockedResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, BLOCKS.id, &[], Order::Ascending)?;
    let blocked = rows.into_iter().map(|(_, row)| BLOCKS.row(row)).collect();
    Ok(ListBlockedResponse { blocked, next_page_token })
}

/// Whether the account wants letters from somebody.
pub(crate) fn check_sender(
    state: &State<'_>,
    request: CheckSenderRequest,
    _: &Context<'_>,
) -> Result<CheckSenderResponse, Refusal> {
    let sender = Address::parse(&request.sender).ok().and_then(|address| address.id());
    let blocked = match sender {
        Some(id) => state.get(&BLOCKS, id.as_bytes())?.is_some(),
        None => false,
    };
    Ok(CheckSenderResponse { blocked })
}

/// All that the partition holds of the person, but for what proves who they
/// are.
pub(crate) fn export(
    state: &State<'_>,
    request: ExportAccountRequest,
    cx: &Context<'_>,
) -> Result<ExportAccountResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let all = Span { prefix: &[], after: None, order: Order::Ascending, limit: EXPORT_MAX };
    let mut events = Vec::new();
    let last = state.seq()?;
    for seq in (last.saturating_sub(EVENTS_MAX) + 1..=last).rev() {
        let Some(transaction) = state.0.transaction(seq)? else { break };
        let origin = transaction.origin.unwrap_or_default();
        events.push(AccountEvent {
            time_ms: transaction.time_ms,
            method: transaction.method,
            principal: transaction.principal,
            peer: origin.peer,
            client: origin.client,
        });
    }
    Ok(ExportAccountResponse {
        account: Some(the_account(state, cx)?),
        sessions: state.scan(&SESSIONS, all)?.into_iter().map(|(_, row)| row).collect(),
        orgs: state.scan(&MEMBERSHIPS, all)?.into_iter().map(|(_, row)| row).collect(),
        api_keys: state.scan(&API_KEYS, all)?.into_iter().map(|(_, row)| row).collect(),
        passkeys: state.scan(&PASSKEYS, all)?.into_iter().map(|(_, row)| row).collect(),
        blocked: state.scan(&BLOCKS, all)?.into_iter().map(|(_, row)| row).collect(),
        events,
    })
}
