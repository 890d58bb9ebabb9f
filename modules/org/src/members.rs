//! The people of an org: one row for each with all their roles, leaving, and
//! handing the org over.

use std::collections::BTreeMap;

use bytes::Bytes;
use canopy_domain::{
    Address, Change, Code, Context, Draft, Id, Order, PageRequest, Refusal, Role, Source, Span, State, Step, View,
    ViewWrite, Wire, decode,
};
use canopy_proto::org::v1::{
    Grant, LeaveOrgRequest, LeaveOrgResponse, ListMembersRequest, ListMembersResponse, Member,
    TransferOwnershipRequest, TransferOwnershipResponse,
};

use crate::grants::{self, GRANTS, check_not_last};
use crate::org::{tell_member, the_org};
use crate::projects;

/// Grants by account id, then as [`GRANTS`]: the row itself.
pub(crate) const GRANTS_BY_ACCOUNT: View =
    View { id: View::FIRST_ID, name: "grants_by_account", version: 1, source: Source::Rows, apply };

const ID_BYTES: usize = 16;
/// Of a grant's key: two ids and the role.
const KEY_BYTES: usize = 2 * ID_BYTES + 1;

/// Grants of one person, read at once.
const GRANTS_OF_ONE_MAX: usize = 100_000;
/// Grants on one page of members: people with many roles make it shorter.
const GRANTS_ON_PAGE_MAX: usize = 10_000;

/// A grant's key with its two ids exchanged: from one order to the other.
fn exchanged(key: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = key.split_at_checked(ID_BYTES)?;
    let (second, role) = rest.split_at_checked(ID_BYTES)?;
    (key.len() == KEY_BYTES).then(|| [second, first, role].concat())
}

fn apply(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if change.table != GRANTS.id {
        return;
    }
    writes.extend(exchanged(&change.key).map(|key| match &change.after {
        Some(row) => ViewWrite::Put { key, value: row.clone() },
        None => ViewWrite::Delete { key },
    }));
}

/// A grant: its key in [`GRANTS`], and the row.
type Held = (Vec<u8>, Wire<Grant>);

/// All grants of an account.
pub(crate) fn grants_of(state: &State<'_>, account: Id) -> Result<Vec<Held>, Refusal> {
    let span = Span { prefix: account.as_bytes(), after: None, order: Order::Ascending, limit: GRANTS_OF_ONE_MAX };
    let rows = state.0.scan(GRANTS_BY_ACCOUNT.id, span)?;
    Ok(rows.into_iter().filter_map(|(key, row)| Some((exchanged(&key)?, GRANTS.row(row)))).collect())
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListMembersRequest,
    cx: &Context<'_>,
) -> Result<ListMembersResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    the_org(state, cx)?;
    let deleted = projects::deleted(state)?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read_groups(state.0, GRANTS_BY_ACCOUNT.id, ID_BYTES, GRANTS_ON_PAGE_MAX)?;
    let mut members: BTreeMap<Bytes, Member> = BTreeMap::new();
    for (key, row) in rows {
        let on = key.get(ID_BYTES..2 * ID_BYTES).unwrap_or_default();
        if deleted.contains(on) {
            continue;
        }
        let grant = decode(&GRANTS.row(row))?;
        let member = members.entry(key.slice(..ID_BYTES.min(key.len()))).or_default();
        member.account.clone_from(&grant.account);
        if grant.on == cx.address.as_str() {
            // Of several, the highest counts.
            member.org_role = member.org_role.max(grant.role);
        }
        member.grants.push(grant);
    }
    Ok(ListMembersResponse { members: members.into_values().collect(), next_page_token })
}

pub(crate) fn leave(
    state: &State<'_>,
    request: LeaveOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LeaveOrgResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let org = the_org(state, cx)?;
    let account = cx.caller()?;
    let id = account.id().ok_or_else(|| Refusal::new(Code::Internal, "an account's address holds no id"))?;
    let held = grants_of(state, id)?;
    if held.is_empty() {
        return Err(Refusal::new(Code::FailedPrecondition, "you hold no role in this org"));
    }
    let admin = grants::key(&grant_of(account.as_str(), cx, Role::OrgAdmin))?;
    if held.iter().any(|(key, _)| *key == admin) {
        check_not_last(state, cx, account.as_str())?;
    }
    for (key, row) in &held {
        draft.delete(&GRANTS, key.clone(), row);
    }
    tell_member(draft, account.as_str(), &org, false)?;
    draft.settle();
    Ok(LeaveOrgResponse { grants: held.into_iter().map(|(_, row)| row).collect() })
}

fn grant_of(account: &str, cx: &Context<'_>, role: Role) -> Grant {
    Grant {
        account: account.to_owned(),
        on: cx.address.to_string(),
        role: role.into(),
        create_time_ms: cx.now_ms,
        granted_by: cx.principal.as_str().to_owned(),
    }
}

pub(crate) fn prepare_transfer(
    state: &State<'_>,
    request: &TransferOwnershipRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    grants::find_account(state, "account", &request.account, cx)
}

pub(crate) fn transfer(
    state: &State<'_>,
    request: TransferOwnershipRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<TransferOwnershipResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let org = the_org(state, cx)?;
    let heir = grants::found_account(cx)?;
    let caller = cx.caller()?.as_str();
    let kept = Role::try_from(request.keep_role).unwrap_or_default();
    if kept as i32 >= Role::OrgAdmin as i32 {
        return Err(Refusal::invalid("keep_role", "is less than ROLE_ORG_ADMIN, or none to stay org-admin"));
    }
    if heir == caller {
        return Err(Refusal::invalid("account", "is yourself").hint("name whom the org goes to"));
    }
    let heir_id = Address::parse(&heir).ok().and_then(|address| address.id());
    let is_member = heir_id.map(|id| grants_of(state, id)).transpose()?.is_some_and(|held| !held.is_empty());
    if !is_member {
        return Err(Refusal::new(Code::FailedPrecondition, "they hold no role in this org")
            .hint("grant them one first with `canopy org grant-role`"));
    }
    let mut grants = vec![give(state, draft, &grant_of(&heir, cx, Role::OrgAdmin))?];
    tell_member(draft, &heir, &org, true)?;
    if kept != Role::Unspecified {
        let admin = grants::key(&grant_of(caller, cx, Role::OrgAdmin))?;
        let row = state.get(&GRANTS, &admin)?.ok_or_else(|| {
            Refusal::new(
                Code::FailedPrecondition,
                "you are no org-admin by a grant, and have nothing to step down from",
            )
            .hint("leave `keep_role` out")
        })?;
        draft.delete(&GRANTS, admin, &row);
        grants.push(give(state, draft, &grant_of(caller, cx, kept))?);
    }
    draft.settle();
    Ok(TransferOwnershipResponse { grants })
}

/// Grants what is not granted yet.
fn give(state: &State<'_>, draft: &mut Draft, grant: &Grant) -> Result<Wire<Grant>, Refusal> {
    let key = grants::key(grant)?;
    if let Some(row) = state.get(&GRANTS, &key)? {
        return Ok(row);
    }
    let row = Wire::new(grant);
    draft.insert(&GRANTS, key, &row);
    Ok(row)
}
