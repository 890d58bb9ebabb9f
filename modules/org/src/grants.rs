//! Grants: rows of the org's partition, which every edge keeps a snapshot of.

use std::collections::BTreeSet;

use bytes::Bytes;
use canopy_domain::{
    Address, Code, Context, Draft, Id, Kind, Order, PageRequest, Prepared, Refusal, Role, Span, State, Step, Table,
    Wire,
};
use canopy_proto::identity::v1::GetAccountRequest;
use canopy_proto::methods::{directory, identity};
use canopy_proto::org::v1::{
    Grant, GrantRoleRequest, ListGrantsRequest, ListGrantsResponse, RevokeRoleRequest, RevokeRoleResponse,
};
use canopy_proto::system::v1::{Reservation, ResolveRequest};
use prost::Message;

use crate::org::{tell_member, the_org};
use crate::{departures, members, projects, quota};

/// By id of the org or project, account id, and role (one byte).
pub const GRANTS: Table<Grant> = Table::new(2, "grants", 1);

/// Grants read at once where all are needed.
pub(crate) const GRANTS_MAX: usize = 1_000_000;

pub(crate) fn key(grant: &Grant) -> Result<Vec<u8>, Refusal> {
    let id = |field: &str, name: &str| {
        let address = Address::parse(name).map_err(|e| Refusal::invalid(field, e.to_string()))?;
        address.id().ok_or_else(|| Refusal::invalid(field, format!("`{name}` holds no id")))
    };
    let mut key = id("grant.on", &grant.on)?.as_bytes().to_vec();
    key.extend(id("grant.account", &grant.account)?.as_bytes());
    key.push(u8::try_from(grant.role).unwrap_or_default());
    Ok(key)
}

/// The account and the role that a grant's key tells of.
pub(crate) fn holder(key: &[u8]) -> Option<(Id, u8)> {
    let (account, role) = key.get(16..)?.split_first_chunk::<16>()?;
    Some((Id::from_bytes(*account), *role.first()?))
}

fn all(prefix: &[u8]) -> Span<'_> {
    Span { prefix, after: None, order: Order::Ascending, limit: GRANTS_MAX }
}

/// Everybody who belongs to this org: by a grant on it, or on a project that
/// was not deleted.
pub(crate) fn belonging(state: &State<'_>) -> Result<BTreeSet<String>, Refusal> {
    belonging_without(state, &[])
}

/// The same, were it not for grants on one project.
pub(crate) fn belonging_apart_from(state: &State<'_>, project: &Id) -> Result<BTreeSet<String>, Refusal> {
    belonging_without(state, project.as_bytes())
}

/// The same, were it not for grants whose keys start so.
fn belonging_without(state: &State<'_>, gone: &[u8]) -> Result<BTreeSet<String>, Refusal> {
    let deleted = projects::deleted(state)?;
    let is_gone = |key: &[u8]| !gone.is_empty() && key.starts_with(gone);
    let here = |key: &[u8]| !is_gone(key) && !key.get(..16).is_some_and(|on| deleted.contains(on));
    let rows = state.scan(&GRANTS, all(&[]))?;
    let held = rows.iter().filter(|(key, _)| here(key)).filter_map(|(key, _)| holder(key));
    Ok(held.map(|(account, _)| Address::account(account).to_string()).collect())
}

/// Those who run this org.
pub(crate) fn org_admins(state: &State<'_>, cx: &Context<'_>) -> Result<BTreeSet<String>, Refusal> {
    let org = cx.address.id().ok_or_else(|| Refusal::new(Code::Internal, "an org's address holds no id"))?;
    let rows = state.scan(&GRANTS, all(org.as_bytes()))?;
    let held = rows.iter().filter_map(|(key, _)| holder(key));
    let admins = held.filter(|(_, role)| i32::from(*role) == Role::OrgAdmin as i32);
    Ok(admins.map(|(account, _)| Address::account(account).to_string()).collect())
}

/// That somebody else runs this org, whose account is not being deleted.
pub(crate) fn check_not_last(state: &State<'_>, cx: &Context<'_>, account: &str) -> Result<(), Refusal> {
    for admin in org_admins(state, cx)?.iter().filter(|admin| *admin != account) {
        if !departures::is_leaving(state, admin, cx)? {
            return Ok(());
        }
    }
    Err(Refusal::new(Code::FailedPrecondition, "this is the org's last org-admin")
        .hint("grant ROLE_ORG_ADMIN to somebody else first"))
}

fn sent(grant: Option<&Wire<Grant>>) -> Result<Grant, Refusal> {
    let grant = grant.ok_or_else(|| Refusal::invalid("grant", "is required"))?;
    grant.decode().map_err(|e| Refusal::invalid("grant", e.to_string()))
}

/// The e-mail address in `account/<e-mail>`.
fn alias(named: &str) -> Option<&str> {
    named.strip_prefix("account/").filter(|rest| rest.contains('@'))
}

fn resolve(email: &str) -> Step {
    let resolve = ResolveRequest { space: "email".into(), key: email.to_owned() };
    let (method, request) = (directory::RESOLVE.path, resolve.encode_to_vec().into());
    Step::Ask { target: Address::system("directory"), method, request }
}

/// Who has an e-mail address, by the directory's answer. But for sys-admins,
/// that is told of who belongs to the org already: whether anybody else has an
/// account is nobody's business.
fn holder_of(
    state: &State<'_>,
    field: &str,
    email: &str,
    answer: &Result<Bytes, Refusal>,
    cx: &Context<'_>,
) -> Result<Address, Refusal> {
    if cx.role == Some(Role::SysAdmin) {
        let holder = Reservation::decode(answer.clone()?).unwrap_or_default().holder;
        return account_address(field, &holder);
    }
    let found = answer.as_ref().ok().and_then(|answer| Reservation::decode(answer.clone()).ok());
    let found = found.and_then(|found| account_address(field, &found.holder).ok());
    match found {
        Some(account) if belongs(state, &account)? => Ok(account),
        _ => Err(Refusal::new(Code::NotFound, format!("nobody in this org has the address `{email}`"))
            .hint("invite them with `canopy org create-invitation`, or name the account by its id")),
    }
}

fn belongs(state: &State<'_>, account: &Address) -> Result<bool, Refusal> {
    account.id().map_or(Ok(false), |id| Ok(!members::grants_of(state, id)?.is_empty()))
}

/// The person named by `account/<id>` or `account/<e-mail>`: found in the
/// directory, then seen to exist.
pub(crate) fn find_account(
    state: &State<'_>,
    field: &str,
    named: &str,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let ask = |target: Address| {
        let request = GetAccountRequest { name: target.to_string() }.encode_to_vec().into();
        Ok(Some(Step::Ask { target, method: identity::GET_ACCOUNT.path, request }))
    };
    match (alias(named), cx.prepared) {
        (Some(email), []) => Ok(Some(resolve(email))),
        (Some(email), [Prepared::Answer(answer)]) => ask(holder_of(state, field, email, answer, cx)?),
        (None, []) => ask(account_address(field, named)?),
        _ => match cx.prepared.last() {
            Some(Prepared::Answer(Err(refusal))) => Err(refusal.clone()),
            _ => Ok(None),
        },
    }
}

fn account_address(field: &str, name: &str) -> Result<Address, Refusal> {
    let wrong = || Refusal::invalid(field, format!("`{name}` names no account"));
    let address = Address::parse(name).map_err(|_| wrong())?;
    if address.kind() == Some(Kind::Account) && address.id().is_some() { Ok(address) } else { Err(wrong()) }
}

/// The account that the steps found.
pub(crate) fn found_account(cx: &Context<'_>) -> Result<String, Refusal> {
    match cx.prepared.last() {
        Some(Prepared::Answer(Ok(account))) => {
            let account = canopy_proto::identity::v1::Account::decode(account.clone());
            Ok(account.unwrap_or_default().name)
        }
        _ => Err(unprepared()),
    }
}

fn unprepared() -> Refusal {
    Refusal::new(Code::Internal, "a grant came without its prepared steps")
}

pub(crate) fn prepare(
    state: &State<'_>,
    request: &GrantRoleRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    find_account(state, "grant.account", &sent(request.grant.as_ref())?.account, cx)
}

/// What somebody held can be taken back whatever became of their account.
pub(crate) fn prepare_revoke(
    _: &State<'_>,
    request: &RevokeRoleRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let named = sent(request.grant.as_ref())?.account;
    Ok(alias(&named).filter(|_| cx.prepared.is_empty()).map(resolve))
}

/// Nobody hands out, or takes away, more than they hold; and a role fits where
/// it is granted.
pub(crate) fn check(grant: &Grant, cx: &Context<'_>) -> Result<Role, Refusal> {
    let role = Role::try_from(grant.role).unwrap_or_default();
    let on = Address::parse(&grant.on).map_err(|e| Refusal::invalid("grant.on", e.to_string()))?;
    let highest = match on.kind() {
        Some(Kind::Org) => Role::OrgAdmin,
        Some(Kind::Project) => Role::ProjectAdmin,
        _ => return Err(Refusal::invalid("grant.on", "roles are granted on an org or a project")),
    };
    if role == Role::Unspecified || role as i32 > highest as i32 {
        return Err(Refusal::invalid("grant.role", format!("{} cannot be granted here", role.as_str_name()))
            .hint("an org takes roles up to ROLE_ORG_ADMIN, a project up to ROLE_PROJECT_ADMIN"));
    }
    if !cx.holds(role) {
        return Err(Refusal::new(Code::PermissionDenied, format!("{} is more than you hold here", role.as_str_name()))
            .hint("ask an org-admin"));
    }
    Ok(role)
}

/// What the audit says of a grant.
fn say(grant: &Grant, draft: &mut Draft) {
    draft.detail("account", &grant.account);
    draft.detail("on", &grant.on);
    draft.detail("role", Role::try_from(grant.role).unwrap_or_default().as_str_name());
}

pub(crate) fn grant(
    state: &State<'_>,
    request: GrantRoleRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Grant>, Refusal> {
    let org = the_org(state, cx)?;
    let mut grant = sent(request.grant.as_ref())?;
    check(&grant, cx)?;
    grant.account = found_account(cx)?;
    grant.create_time_ms = cx.now_ms;
    grant.granted_by = cx.principal.as_str().to_owned();
    let key = key(&grant)?;
    if let Some(row) = state.get(&GRANTS, &key)? {
        return Ok(row);
    }
    quota::check_place(state, &grant.account, cx)?;
    let row = request.grant.unwrap_or_default().with(&grant);
    draft.insert(&GRANTS, key, &row);
    say(&grant, draft);
    tell_member(draft, &grant.account, &org, true)?;
    draft.settle();
    Ok(row)
}

pub(crate) fn revoke(
    state: &State<'_>,
    request: RevokeRoleRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RevokeRoleResponse, Refusal> {
    let org = the_org(state, cx)?;
    let mut grant = sent(request.grant.as_ref())?;
    let role = check(&grant, cx)?;
    let field = "grant.account";
    let account = match (alias(&grant.account), cx.prepared) {
        (None, _) => account_address(field, &grant.account)?,
        (Some(email), [Prepared::Answer(answer)]) => holder_of(state, field, email, answer, cx)?,
        _ => return Err(unprepared()),
    };
    grant.account = account.to_string();
    let key = key(&grant)?;
    let row = state
        .get(&GRANTS, &key)?
        .ok_or_else(|| Refusal::new(Code::NotFound, "there is no such grant").hint("see `canopy org list-grants`"))?;
    if role == Role::OrgAdmin {
        check_not_last(state, cx, &grant.account)?;
    }
    let stays = belonging_without(state, &key)?.contains(&grant.account);
    draft.delete(&GRANTS, key, &row);
    say(&grant, draft);
    tell_member(draft, &grant.account, &org, stays)?;
    draft.settle();
    Ok(RevokeRoleResponse { grant: Some(row) })
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListGrantsRequest,
    cx: &Context<'_>,
) -> Result<ListGrantsResponse, Refusal> {
    the_org(state, cx)?;
    let parent = Address::parse(&request.parent).map_err(|e| Refusal::invalid("parent", e.to_string()))?;
    let prefix = match (parent.kind(), parent.id()) {
        (Some(Kind::Project), Some(id)) => id.as_bytes().to_vec(),
        (Some(Kind::Org), _) => Vec::new(),
        // What stands below a project would show what the project may not.
        _ => return Err(Refusal::invalid("parent", "grants are listed of an org or a project")),
    };
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, GRANTS.id, &prefix, Order::Ascending)?;
    let grants = rows.into_iter().map(|(_, row)| GRANTS.row(row)).collect();
    Ok(ListGrantsResponse { grants, next_page_token })
}
