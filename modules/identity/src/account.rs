//! An account: the person, the verifier of their password, their sessions,
//! and the orgs they belong to.

use canopy_domain::{
    Address, Code, Context, Draft, Id, Mask, Module, Order, PageRequest, Prepared, Refusal, Secret, State, Step, Table,
    Wire, decode,
};
use canopy_proto::identity::v1::{
    Account, GetAccountRequest, ListSessionsRequest, ListSessionsResponse, RegisterRequest, Session,
    UpdateAccountRequest,
};
use canopy_proto::methods::{account_effects, directory, identity, installation_grants, orgs};
use canopy_proto::org::v1::{ListOrgsRequest, ListOrgsResponse, Org};
use canopy_proto::system::v1::{
    ClaimSysAdminRequest, ConfirmRequest, GetVerifierRequest, GetVerifierResponse, PasswordVerifier,
    RecordMembershipRequest, RecordMembershipResponse, RecordSessionRequest, RecordSessionResponse, ReserveRequest,
};
use prost::Message;

/// The one row, under [`SELF`].
const ACCOUNT: Table<Account> = Table::new(1, "account", 1);
/// The one row, under [`SELF`].
const VERIFIER: Table<PasswordVerifier> = Table::new(2, "verifier", 1);
/// By session id.
const SESSIONS: Table<Session> = Table::new(3, "sessions", 1);
/// Orgs that the account holds a grant in, by org id.
pub const MEMBERSHIPS: Table<Org> = Table::new(4, "memberships", 1);

/// Key of a table's only row.
const SELF: [u8; 1] = [0];

/// The module of `account/<id>`.
pub fn account() -> Module {
    Module::new("account")
        .prepared_command(identity::REGISTER, prepare_register, register)
        .query(identity::GET_ACCOUNT, get_account)
        .command(identity::UPDATE_ACCOUNT, update_account)
        .query(identity::LIST_SESSIONS, list_sessions)
        .query(orgs::LIST_ORGS, list_orgs)
        .command(account_effects::RECORD_SESSION, record_session)
        .command(account_effects::RECORD_MEMBERSHIP, record_membership)
        .query(account_effects::GET_VERIFIER, get_verifier)
}

fn prepare_register(_: &State<'_>, request: &RegisterRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => {
            cx.issuer.admit_sign_up(&request.sign_up_token)?;
            let reserve = ReserveRequest {
                space: "email".into(),
                key: requested(request)?.email,
                holder: cx.address.to_string(),
                request_id: String::new(),
            };
            Ok(Some(Step::Ask {
                target: Address::system("directory"),
                method: directory::RESERVE.path,
                request: reserve.encode_to_vec().into(),
            }))
        }
        [Prepared::Answer(answer)] => {
            answer.clone()?;
            Ok(Some(Step::HashPassword(Secret::new(request.password.as_str()))))
        }
        _ => Ok(None),
    }
}

fn requested(request: &RegisterRequest) -> Result<Account, Refusal> {
    let account = request.account.as_ref().ok_or_else(|| Refusal::invalid("account", "is required"))?;
    account.decode().map_err(|e| Refusal::invalid("account", e.to_string()))
}

fn register(
    state: &State<'_>,
    request: RegisterRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let [_, Prepared::PasswordHash(phc)] = cx.prepared else {
        return Err(Refusal::new(Code::Internal, "a sign-up came without its prepared steps"));
    };
    if state.get(&ACCOUNT, &SELF)?.is_some() {
        return Err(Refusal::new(Code::AlreadyExists, "this account exists already"));
    }
    let wanted = requested(&request)?;
    let account = Account {
        name: cx.address.to_string(),
        email: wanted.email.clone(),
        display_name: wanted.display_name,
        create_time_ms: cx.now_ms,
        update_time_ms: cx.now_ms,
        etag: cx.etag(),
    };
    let account = request.account.unwrap_or_default().with(&account);
    draft.insert(&ACCOUNT, SELF, &account);
    draft.insert(&VERIFIER, SELF, &Wire::new(&PasswordVerifier { phc: phc.expose().to_owned() }));
    let confirm = ConfirmRequest {
        space: "email".into(),
        key: wanted.email,
        holder: cx.address.to_string(),
        request_id: String::new(),
    };
    draft.effect(Address::system("directory"), directory::CONFIRM, &confirm);
    if cx.issuer.admit_sign_up(&request.sign_up_token)? {
        let claim = ClaimSysAdminRequest { account: cx.address.to_string(), request_id: String::new() };
        draft.effect(Address::system("installation"), installation_grants::CLAIM_SYS_ADMIN, &claim);
    }
    draft.settle();
    Ok(account)
}

fn the_account(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Account>, Refusal> {
    state.get(&ACCOUNT, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))
}

fn get_account(state: &State<'_>, request: GetAccountRequest, cx: &Context<'_>) -> Result<Wire<Account>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    the_account(state, cx)
}

fn update_account(
    state: &State<'_>,
    request: UpdateAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let before = the_account(state, cx)?;
    let sent = request.account.unwrap_or_default();
    let wanted = decode(&sent)?;
    let [] = cx.address.held("account.name", &wanted.name, [])?;
    let mut account = decode(&before)?;
    if !wanted.etag.is_empty() && wanted.etag != account.etag {
        return Err(Refusal::stale_etag());
    }
    let fixed = ["name", "email", "create_time_ms", "update_time_ms", "etag"];
    let mask = Mask::new(request.update_mask.as_ref(), &["display_name"], &fixed, sent.has_unknown())?;
    if mask.includes("display_name") {
        account.display_name = wanted.display_name;
    }
    account.update_time_ms = cx.now_ms;
    account.etag = cx.etag();
    let after = before.updated(&account, mask.takes_unknown().then_some(&sent));
    draft.put(&ACCOUNT, SELF, Some(&before), &after);
    Ok(after)
}

fn list_sessions(
    state: &State<'_>,
    request: ListSessionsRequest,
    cx: &Context<'_>,
) -> Result<ListSessionsResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, SESSIONS.id, &[], Order::Descending)?;
    let sessions = rows.into_iter().map(|(_, row)| SESSIONS.row(row)).collect();
    Ok(ListSessionsResponse { sessions, next_page_token })
}

fn list_orgs(state: &State<'_>, request: ListOrgsRequest, _: &Context<'_>) -> Result<ListOrgsResponse, Refusal> {
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, MEMBERSHIPS.id, &[], Order::Ascending)?;
    let orgs = rows.into_iter().map(|(_, row)| MEMBERSHIPS.row(row)).collect();
    Ok(ListOrgsResponse { orgs, next_page_token })
}

fn record_session(
    state: &State<'_>,
    request: RecordSessionRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordSessionResponse, Refusal> {
    the_account(state, cx)?;
    let row = request.session.unwrap_or_default();
    let id = id_of(&decode(&row)?.name)?;
    let before = state.get(&SESSIONS, id.as_bytes())?;
    draft.put(&SESSIONS, *id.as_bytes(), before.as_ref(), &row);
    Ok(RecordSessionResponse {})
}

fn record_membership(
    state: &State<'_>,
    request: RecordMembershipRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordMembershipResponse, Refusal> {
    the_account(state, cx)?;
    let row = request.org.unwrap_or_default();
    let id = id_of(&decode(&row)?.name)?;
    let before = state.get(&MEMBERSHIPS, id.as_bytes())?;
    if request.member {
        draft.put(&MEMBERSHIPS, *id.as_bytes(), before.as_ref(), &row);
    } else if let Some(before) = before {
        draft.delete(&MEMBERSHIPS, *id.as_bytes(), &before);
    }
    Ok(RecordMembershipResponse {})
}

fn id_of(name: &str) -> Result<Id, Refusal> {
    let address = Address::parse(name).map_err(|e| Refusal::invalid("name", e.to_string()))?;
    address.id().ok_or_else(|| Refusal::invalid("name", "holds no id"))
}

fn get_verifier(state: &State<'_>, _: GetVerifierRequest, cx: &Context<'_>) -> Result<GetVerifierResponse, Refusal> {
    let account = the_account(state, cx)?;
    let verifier = state.read(&VERIFIER, &SELF)?;
    Ok(GetVerifierResponse { account: Some(account), verifier })
}
