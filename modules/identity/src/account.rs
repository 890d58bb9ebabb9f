//! An account: the person, and the orgs they belong to.

use canopy_domain::{
    Address, Code, Context, Draft, Id, Mask, Module, Name, PageRequest, Prepared, Principal, Refusal, Secret, State,
    Step, Table, Wire, Words, decode,
};
use canopy_proto::identity::v1::{Account, GetAccountRequest, RegisterRequest, UpdateAccountRequest};
use canopy_proto::methods::{
    account_admin, account_deletions, account_effects, account_emails, accounts, api_keys as api_key_methods,
    directory, identity, installation_grants, invitation_checks, orgs, security as security_methods, security_effects,
    verification,
};
use canopy_proto::org::v1::{ListOrgsRequest, ListOrgsResponse, Org, SearchOrgsRequest};
use canopy_proto::system::v1::{
    CheckInvitationRequest, ClaimSysAdminRequest, ConfirmRequest, RecordMembershipRequest, RecordMembershipResponse,
    ReserveRequest,
};
use prost::Message;

use crate::proof::{self, Purpose};
use crate::{
    access, api_keys, block, deletion, email, guessable, life, passkeys, password, reset, second_factor, security,
    sessions, verify,
};

/// The one row, under [`SELF`].
pub(crate) const ACCOUNT: Table<Account> = Table::new(1, "account", 1);
/// Orgs that the account holds a grant in, by org id.
pub const MEMBERSHIPS: Table<Org> = Table::new(4, "memberships", 1);

/// Orgs looked through for one page.
const SEARCHED_MAX: usize = 2_000;

/// Key of a table's only row.
pub(crate) const SELF: [u8; 1] = [0];

/// The module of `account/<id>`.
pub fn account() -> Module {
    let module = Module::new("account")
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
        .query(orgs::SEARCH_ORGS, search_orgs)
        .command(account_effects::RECORD_SESSION, sessions::record_session)
        .command(account_effects::RECORD_MEMBERSHIP, record_membership)
        .command(account_effects::UPGRADE_VERIFIER, password::upgrade_verifier)
        .query(account_effects::GET_VERIFIER, password::get_verifier)
        .command(security_effects::RECORD_SECURITY_EVENT, security::record)
        .query(security_methods::LIST_SECURITY_EVENTS, security::list)
        .command(account_emails::SETTLE_EMAIL, verify::settle_email)
        .command(account_emails::BEGIN_PROOF, verify::begin_proof)
        .command(verification::VERIFY_EMAIL, verify::verify_email)
        .prepared_command(verification::RESET_PASSWORD, reset::prepare_reset, reset::reset_password)
        .prepared_command(verification::CHANGE_EMAIL, email::prepare_change, email::change_email)
        .prepared_command(verification::CONFIRM_EMAIL, email::prepare_confirm, email::confirm_email)
        .command(verification::UNDO_CHANGE_EMAIL, email::undo_change)
        .command(accounts::DISABLE_ACCOUNT, access::disable)
        .command(account_admin::SUSPEND_ACCOUNT, access::suspend)
        .command(account_admin::ENABLE_ACCOUNT, access::enable)
        .command(account_admin::FORGET_FACTORS, access::forget_factors)
        .prepared_command(accounts::DELETE_ACCOUNT, deletion::prepare_delete, deletion::delete)
        .command(account_deletions::RESTORE_ACCOUNT, deletion::restore)
        .query(accounts::EXPORT_ACCOUNT, block::export)
        .command(accounts::BLOCK_ACCOUNT, block::block)
        .command(accounts::UNBLOCK_ACCOUNT, block::unblock)
        .query(accounts::LIST_BLOCKED, block::list)
        .query(account_emails::CHECK_SENDER, block::check_sender)
        .on_wake(life::woken);
    passkeys::methods(second_factor::methods(module))
}

/// Whether somebody may sign up: by the installation's token, which is told,
/// or an invitation. And the steps that come after those that found it out.
fn admit<'c>(request: &RegisterRequest, cx: &Context<'c>) -> Result<Result<(bool, &'c [Prepared]), Step>, Refusal> {
    let refusal = match cx.issuer.admit_sign_up(&request.sign_up_token) {
        Ok(by_installation) => return Ok(Ok((by_installation, cx.prepared))),
        Err(refusal) => refusal,
    };
    let token = request.sign_up_token.as_str();
    let org = Name::parse(token).and_then(|name| name.owner("org")).and_then(Address::parse);
    let target = org.ok().filter(|org| org.id().is_some()).ok_or(refusal)?;
    match cx.prepared {
        [Prepared::Answer(answer), rest @ ..] => answer.clone().map(|_| Ok((false, rest))),
        _ => {
            let check = CheckInvitationRequest {
                org: target.to_string(),
                token: token.to_owned(),
                email: requested(request)?.email,
            };
            let request = check.encode_to_vec().into();
            Ok(Err(Step::Ask { target, method: invitation_checks::CHECK_INVITATION.path, request }))
        }
    }
}

fn prepare_register(_: &State<'_>, request: &RegisterRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    let prepared = match admit(request, cx)? {
        Ok((_, prepared)) => prepared,
        Err(step) => return Ok(Some(step)),
    };
    let prepared = match prepared {
        [] => {
            guessable::check("password", &request.password, &requested(request)?)?;
            return Ok(Some(guessable::look_up(&request.password)));
        }
        [Prepared::Breached(is_breached), rest @ ..] => {
            guessable::check_breached("password", *is_breached)?;
            rest
        }
        rest => rest,
    };
    match prepared {
        // Whether the address is free is found out later: neither the answer
        // nor its time tells.
        [] if cx.issuer.policy().verification => Ok(Some(hash(request))),
        [] => {
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
            Ok(Some(hash(request)))
        }
        _ => Ok(None),
    }
}

fn hash(request: &RegisterRequest) -> Step {
    Step::HashPassword(Secret::new(request.password.as_str()))
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
    let Ok((by_installation, _)) = admit(&request, cx)? else {
        return Err(Refusal::new(Code::Internal, "a sign-up came without its prepared steps"));
    };
    let policy = cx.issuer.policy();
    let Some(Prepared::PasswordHash(phc)) = cx.prepared.last() else {
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
        ..Account::default()
    };
    let (row, account) = (request.account.unwrap_or_default().with(&account), account);
    draft.insert(&ACCOUNT, SELF, &row);
    password::replace(state, draft, phc)?;
    if policy.verification {
        verify::claim(&account, by_installation, cx, draft);
        return Ok(row);
    }
    let confirm = ConfirmRequest {
        space: "email".into(),
        key: wanted.email,
        holder: cx.address.to_string(),
        request_id: String::new(),
    };
    draft.effect(Address::system("directory"), directory::CONFIRM, &confirm);
    if by_installation {
        let claim = ClaimSysAdminRequest { account: cx.address.to_string(), request_id: String::new() };
        draft.effect(Address::system("installation"), installation_grants::CLAIM_SYS_ADMIN, &claim);
    }
    if policy.mails {
        proof::issue(state, (Purpose::Verification, &account.email, &account.email), cx, draft)?;
    }
    draft.settle();
    Ok(row)
}

pub(crate) fn the_account(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Account>, Refusal> {
    state.get(&ACCOUNT, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))
}

fn get_account(state: &State<'_>, request: GetAccountRequest, cx: &Context<'_>) -> Result<Wire<Account>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    match cx.principal {
        // Who gives it a role, say.
        Principal::Actor(_) => verify::the_open_account(state, cx),
        _ => the_account(state, cx),
    }
}

const FIXED: [&str; 9] = [
    "name",
    "email",
    "create_time_ms",
    "update_time_ms",
    "etag",
    "email_verify_time_ms",
    "disable_time_ms",
    "delete_time_ms",
    "purge_time_ms",
];

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
    let mask = Mask::new(request.update_mask.as_ref(), &["display_name"], &FIXED, sent.has_unknown())?;
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
    orgs_where(state, page, |org| request.show_deleted || org.delete_time_ms == 0)
}

fn search_orgs(state: &State<'_>, request: SearchOrgsRequest, _: &Context<'_>) -> Result<ListOrgsResponse, Refusal> {
    let wanted = Words::new(&request.query);
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    orgs_where(state, page, |org| org.delete_time_ms == 0 && wanted.are_in(&[&org.title, &org.slug]))
}

/// A page of the account's orgs that are wanted.
fn orgs_where(
    state: &State<'_>,
    page: PageRequest<'_>,
    is_wanted: impl Fn(&Org) -> bool,
) -> Result<ListOrgsResponse, Refusal> {
    let (rows, next_page_token) = page.read_where(state.0, MEMBERSHIPS.id, SEARCHED_MAX, |row| {
        Ok(is_wanted(&decode(&MEMBERSHIPS.row(row.clone()))?))
    })?;
    let orgs = rows.into_iter().map(|row| MEMBERSHIPS.row(row)).collect();
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
