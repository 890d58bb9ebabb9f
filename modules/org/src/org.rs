//! An org: its own row, its grants, and the lists of its projects and backups.

use canopy_domain::{
    Address, Code, Context, Draft, Mask, Module, Prepared, Refusal, Role, State, Step, Table, Wire, decode,
};
use canopy_proto::methods::{
    account_effects, backups as backup_methods, departures as departure_methods, directory, invitation_checks,
    invitations as invitation_methods, org_effects, orgs, projects as project_methods, quota_leases, quotas,
};
use canopy_proto::org::v1::{CreateOrgRequest, GetOrgRequest, Grant, Org, UpdateOrgRequest};
use canopy_proto::system::v1::{
    ConfirmRequest, RecordMembershipRequest, ReleaseRequest, ReserveRequest, RetireRequest,
};
use prost::Message;

use crate::{access, backups, departures, grants, invitations, members, org_end, projects, quota, slugs};

/// The one row, under [`SELF`].
pub const ORG: Table<Org> = Table::new(1, "org", 1);

/// Key of a table's only row.
pub(crate) const SELF: [u8; 1] = [0];

/// The module of `org/<id>`.
pub fn org() -> Module {
    Module::new("org")
        .view(members::GRANTS_BY_ACCOUNT)
        .prepared_command(orgs::CREATE_ORG, prepare_create, create)
        .query(orgs::GET_ORG, get)
        .prepared_command(orgs::UPDATE_ORG, prepare_update, update)
        .command(orgs::ARCHIVE_ORG, org_end::archive)
        .command(orgs::UNARCHIVE_ORG, org_end::unarchive)
        .command(orgs::DELETE_ORG, org_end::delete)
        .command(orgs::UNDELETE_ORG, org_end::undelete)
        .command(orgs::PURGE_ORG, org_end::purge)
        .prepared_command(orgs::GRANT_ROLE, grants::prepare, grants::grant)
        .prepared_command(orgs::REVOKE_ROLE, grants::prepare_revoke, grants::revoke)
        .query(orgs::LIST_GRANTS, grants::list)
        .prepared_command(invitation_methods::CREATE_INVITATION, invitations::prepare_create, invitations::create)
        .query(invitation_methods::LIST_INVITATIONS, invitations::list)
        .command(invitation_methods::REVOKE_INVITATION, invitations::revoke)
        .query(invitation_methods::GET_INVITATION, invitations::get)
        .prepared_command(invitation_methods::ACCEPT_INVITATION, invitations::prepare_accept, invitations::accept)
        .query(invitation_checks::CHECK_INVITATION, invitations::check)
        .query(orgs::LIST_MEMBERS, members::list)
        .command(orgs::LEAVE_ORG, members::leave)
        .prepared_command(orgs::TRANSFER_OWNERSHIP, members::prepare_transfer, members::transfer)
        .query(orgs::EXPLAIN_ACCESS, access::explain)
        .query(project_methods::LIST_PROJECTS, projects::list)
        .query(project_methods::SEARCH_PROJECTS, projects::search)
        .command(org_effects::RESERVE_PROJECT, projects::reserve)
        .command(org_effects::RECORD_PROJECT, projects::record)
        .query(backup_methods::LIST_BACKUPS, backups::list)
        .command(org_effects::RESERVE_BACKUP, backups::reserve)
        .command(org_effects::RECORD_BACKUP, backups::record)
        .command(departure_methods::RESERVE_DEPARTURE, departures::reserve)
        .command(departure_methods::SETTLE_DEPARTURE, departures::settle)
        .command(departure_methods::FORGET_MEMBER, departures::forget)
        .query(quotas::GET_QUOTA, quota::get)
        .command(quotas::SET_QUOTA, quota::set)
        .query(quota_leases::READ_BYTES_MAX, quota::read_bytes_max)
        .command(quota_leases::LEASE_BYTES, quota::lease_bytes)
        .on_wake(org_end::woken)
}

/// The org, deleted or not.
pub(crate) fn stored_org(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Org>, Refusal> {
    state.get(&ORG, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))
}

/// The living org.
pub(crate) fn the_org(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Org>, Refusal> {
    let row = stored_org(state, cx)?;
    match decode(&row)?.delete_time_ms {
        0 => Ok(row),
        _ => Err(Refusal::new(Code::FailedPrecondition, "the org was deleted")
            .hint("undelete it with `canopy org undelete-org`, as long as it is not purged")),
    }
}

fn reserve_slug(cx: &Context<'_>, slug: &str) -> Step {
    let reserve = ReserveRequest {
        space: "org".into(),
        key: slug.to_owned(),
        holder: cx.address.to_string(),
        request_id: String::new(),
    };
    Step::Ask {
        target: Address::system("directory"),
        method: directory::RESERVE.path,
        request: reserve.encode_to_vec().into(),
    }
}

fn confirm_slug(cx: &Context<'_>, draft: &mut Draft, slug: &str) {
    let confirm = ConfirmRequest {
        space: "org".into(),
        key: slug.to_owned(),
        holder: cx.address.to_string(),
        request_id: String::new(),
    };
    draft.effect(Address::system("directory"), directory::CONFIRM, &confirm);
}

/// The slug leads on to this org for a while.
fn retire_slug(cx: &Context<'_>, draft: &mut Draft, slug: &str) {
    let retire = RetireRequest {
        space: "org".into(),
        key: slug.to_owned(),
        holder: cx.address.to_string(),
        expire_time_ms: cx.now_ms.saturating_add(slugs::FORMER_SLUG_MS),
        request_id: String::new(),
    };
    draft.effect(Address::system("directory"), directory::RETIRE, &retire);
}

pub(crate) fn release_slug(cx: &Context<'_>, draft: &mut Draft, slug: &str) {
    let release = ReleaseRequest {
        space: "org".into(),
        key: slug.to_owned(),
        holder: cx.address.to_string(),
        request_id: String::new(),
    };
    draft.effect(Address::system("directory"), directory::RELEASE, &release);
}

/// Tells an account that it belongs to this org, or no longer does.
pub(crate) fn tell_member(draft: &mut Draft, account: &str, org: &Wire<Org>, member: bool) -> Result<(), Refusal> {
    let target = Address::parse(account).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
    let record = RecordMembershipRequest {
        account: account.to_owned(),
        org: Some(org.clone()),
        member,
        request_id: String::new(),
    };
    draft.effect(target, account_effects::RECORD_MEMBERSHIP, &record);
    Ok(())
}

/// Tells everybody who belongs to this org how it is now. One that was deleted
/// is there for its org-admins alone.
pub(crate) fn tell_members(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
    org: &Wire<Org>,
) -> Result<(), Refusal> {
    let admins = match decode(org)?.delete_time_ms {
        0 => None,
        _ => Some(grants::org_admins(state, cx)?),
    };
    for account in grants::belonging(state)? {
        let member = admins.as_ref().is_none_or(|admins| admins.contains(&account));
        tell_member(draft, &account, org, member)?;
    }
    Ok(())
}

fn sent_org(org: Option<&Wire<Org>>) -> Result<Org, Refusal> {
    let org = org.ok_or_else(|| Refusal::invalid("org", "is required"))?;
    org.decode().map_err(|e| Refusal::invalid("org", e.to_string()))
}

fn prepare_create(_: &State<'_>, request: &CreateOrgRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => Ok(Some(reserve_slug(cx, &sent_org(request.org.as_ref())?.slug))),
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

fn create(
    state: &State<'_>,
    request: CreateOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Org>, Refusal> {
    let creator = cx.caller()?;
    if state.get(&ORG, &SELF)?.is_some() {
        return Err(Refusal::new(Code::AlreadyExists, "this org exists already"));
    }
    let wanted = sent_org(request.org.as_ref())?;
    let org = Org {
        name: cx.address.to_string(),
        slug: wanted.slug,
        title: wanted.title,
        require_second_factor: wanted.require_second_factor,
        create_time_ms: cx.now_ms,
        update_time_ms: cx.now_ms,
        etag: cx.etag(),
        ..Org::default()
    };
    let row = request.org.unwrap_or_default().with(&org);
    draft.insert(&ORG, SELF, &row);
    let grant = Grant {
        account: creator.to_string(),
        on: cx.address.to_string(),
        role: Role::OrgAdmin.into(),
        create_time_ms: cx.now_ms,
        granted_by: creator.to_string(),
    };
    draft.insert(&grants::GRANTS, grants::key(&grant)?, &Wire::new(&grant));
    confirm_slug(cx, draft, &org.slug);
    tell_member(draft, creator.as_str(), &row, true)?;
    draft.settle();
    Ok(row)
}

fn get(state: &State<'_>, request: GetOrgRequest, cx: &Context<'_>) -> Result<Wire<Org>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    stored_org(state, cx)
}

const FIXED: [&str; 8] = [
    "name",
    "create_time_ms",
    "update_time_ms",
    "delete_time_ms",
    "etag",
    "purge_time_ms",
    "archive_time_ms",
    "former_slugs",
];

/// What an update says, where nothing but a slug that is taken stands against
/// it. Asked before the slug is reserved, so that a refused update holds none.
fn asked<'a>(
    state: &State<'_>,
    request: &'a UpdateOrgRequest,
    cx: &Context<'_>,
) -> Result<(Org, Org, Mask<'a>), Refusal> {
    let current = decode(&the_org(state, cx)?)?;
    let wanted = sent_org(request.org.as_ref())?;
    let [] = cx.address.held("org.name", &wanted.name, [])?;
    if !wanted.etag.is_empty() && wanted.etag != current.etag {
        return Err(Refusal::stale_etag());
    }
    let has_unknown = request.org.as_ref().is_some_and(Wire::has_unknown);
    let mask =
        Mask::new(request.update_mask.as_ref(), &["slug", "title", "require_second_factor"], &FIXED, has_unknown)?;
    Ok((current, wanted, mask))
}

/// The slug that an update asks for, where it is a new one.
fn new_slug(state: &State<'_>, request: &UpdateOrgRequest, cx: &Context<'_>) -> Result<Option<String>, Refusal> {
    let (current, wanted, mask) = asked(state, request, cx)?;
    let named = request.update_mask.as_ref().is_some_and(|mask| !mask.paths.is_empty());
    let changes = mask.includes("slug") && (named || !wanted.slug.is_empty());
    if changes && wanted.slug.is_empty() {
        return Err(Refusal::invalid("org.slug", "must not be empty"));
    }
    Ok(Some(wanted.slug).filter(|slug| changes && *slug != current.slug))
}

fn prepare_update(state: &State<'_>, request: &UpdateOrgRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => Ok(new_slug(state, request, cx)?.map(|slug| reserve_slug(cx, &slug))),
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

fn update(
    state: &State<'_>,
    request: UpdateOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Org>, Refusal> {
    let slug = new_slug(state, &request, cx)?;
    if slug.is_some() && cx.prepared.is_empty() {
        return Err(Refusal::new(Code::Aborted, "the org's slug changed meanwhile").hint("try again"));
    }
    let before = the_org(state, cx)?;
    let (mut org, wanted, mask) = asked(state, &request, cx)?;
    if mask.includes("title") {
        org.title = wanted.title;
    }
    // A client that does not know it, and names no fields, takes nothing back.
    let names = request.update_mask.as_ref().is_some_and(|mask| !mask.paths.is_empty());
    if mask.includes("require_second_factor") && (names || wanted.require_second_factor.is_some()) {
        org.require_second_factor = wanted.require_second_factor.filter(|required| *required);
    }
    if let Some(slug) = slug {
        confirm_slug(cx, draft, &slug);
        retire_slug(cx, draft, &org.slug);
        let gone = slugs::rename(&mut org.former_slugs, &org.slug, &slug, cx.now_ms);
        gone.iter().for_each(|gone| release_slug(cx, draft, gone));
        org.slug = slug;
        draft.wake_at_ms(org_end::next_wake_ms(&org));
    }
    org.update_time_ms = cx.now_ms;
    org.etag = cx.etag();
    let after = before.updated(&org, request.org.as_ref().filter(|_| mask.takes_unknown()));
    draft.put(&ORG, SELF, Some(&before), &after);
    tell_members(state, cx, draft, &after)?;
    draft.settle();
    Ok(after)
}
