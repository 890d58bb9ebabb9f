//! An account: the person, and the orgs they belong to.

use canopy_domain::{
    Address, Code, Context, Draft, Id, Mask, Module, Order, PageRequest, Prepared, Refusal, Secret, State, Step, Table,
    Wire, decode,
};
use canopy_proto::identity::v1::{Account, GetAccountRequest, RegisterRequest, UpdateAccountRequest};
use canopy_proto::methods::{
    account_effects, api_keys as api_key_methods, directory, identity, installation_grants, orgs,
};
use canopy_proto::org::v1::{ListOrgsRequest, ListOrgsResponse, Org};
use canopy_proto::system::v1::{
    ClaimSysAdminRequest, ConfirmRequest, RecordMembershipRequest, RecordMembershipResponse, ReserveRequest,
};
use prost::Message;

use crate::{api_keys, password, sessions};

/// The one row, under [`SELF`].
const ACCOUNT: Table<Account> = Table::new(1, "account", 1);
/// Orgs that the account holds a grant in, by org id.
pub const MEMBERSHIPS: Table<Org> = Table::new(4, "memberships", 1);

/// Key of a table's only row.
pub(crate) const SELF: [u8; 1] = [0];

/// The module of `account/<id>`.
pub fn account() -> Module {
    Module::new("account")
        .prepared_command(identity::REGISTER, prepare_register, register)
        .query(identity::GET_ACCOUNT, get_account)
        .command(identity::UPDATE_ACCOUNT, update_account)
        .prepared_query(identity::LIST_SESSIONS, sessions::prepare_list, sessions::list_sessions)
        .command(identity::END_SESSION, sessions::end_session)
        .command(identity::LOG_OUT_EVERYWHERE, sessions::log_out_everywhere)
        .prepared_command(identity::CHANGE_PASSWORD, password::prepare_change, password::change_password)
        .command(api_key_methods::CREATE_API_KEY, api_keys::create)
        .query(api_key_methods::LIST_API_KEYS, api_keys::list)
        .command(api_key_methods::REVOKE_API_KEY, api_keys::revoke)
        .command(account_effects::RECORD_KEY_USE, api_keys::record_use)
        .query(orgs::LIST_ORGS, list_orgs)
        .command(account_effects::RECORD_SESSION, sessions::record_session)
        .command(account_effects::RECORD_MEMBERSHIP, record_membership)
        .command(account_effects::UPGRADE_VERIFIER, password::upgrade_verifier)
        .query(account_effects::GET_VERIFIER, password::get_verifier)
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
    password::replace(state, draft, phc)?;
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

pub(crate) fn the_account(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Account>, Refusal> {
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

fn list_orgs(state: &State<'_>, request: ListOrgsRequest, _: &Context<'_>) -> Result<ListOrgsResponse, Refusal> {
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, MEMBERSHIPS.id, &[], Order::Ascending)?;
    let orgs = rows.into_iter().map(|(_, row)| MEMBERSHIPS.row(row)).collect();
    Ok(ListOrgsResponse { orgs, next_page_token })
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

pub(crate) fn id_of(name: &str) -> Result<Id, Refusal> {
    let address = Address::parse(name).map_err(|e| Refusal::invalid("name", e.to_string()))?;
    address.id().ok_or_else(|| Refusal::invalid("name", "holds no id"))
}
