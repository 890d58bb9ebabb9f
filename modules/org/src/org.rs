//! An org: its own row, its grants, and the lists of its projects and backups.

use canopy_domain::{
    Address, Code, Context, Draft, Mask, Module, Prepared, Refusal, Role, State, Step, Table, Wire, decode,
};
use canopy_proto::methods::{
    account_effects, backups as backup_methods, directory, invitation_checks, invitations as invitation_methods,
    org_effects, orgs, projects as project_methods,
};
use canopy_proto::org::v1::{CreateOrgRequest, DeleteOrgRequest, GetOrgRequest, Grant, Org, UpdateOrgRequest};
use canopy_proto::system::v1::{ConfirmRequest, RecordMembershipRequest, ReleaseRequest, ReserveRequest};
use prost::Message;

use crate::{backups, grants, invitations, projects};

/// The one row, under [`SELF`].
pub const ORG: Table<Org> = Table::new(1, "org", 1);

/// Key of a table's only row.
pub(crate) const SELF: [u8; 1] = [0];

/// The module of `org/<id>`.
pub fn org() -> Module {
    Module::new("org")
        .prepared_command(orgs::CREATE_ORG, prepare_create, create)
        .query(orgs::GET_ORG, get)
        .prepared_command(orgs::UPDATE_ORG, prepare_update, update)
        .command(orgs::DELETE_ORG, delete)
        .prepared_command(orgs::GRANT_ROLE, grants::prepare, grants::grant)
        .prepared_command(orgs::REVOKE_ROLE, grants::prepare_revoke, grants::revoke)
        .query(orgs::LIST_GRANTS, grants::list)
        .prepared_command(invitation_methods::CREATE_INVITATION, invitations::prepare_create, invitations::create)
        .query(invitation_methods::LIST_INVITATIONS, invitations::list)
        .command(invitation_methods::REVOKE_INVITATION, invitations::revoke)
        .query(invitation_methods::GET_INVITATION, invitations::get)
        .prepared_command(invitation_methods::ACCEPT_INVITATION, invitations::prepare_accept, invitations::accept)
        .query(invitation_checks::CHECK_INVITATION, invitations::check)
        .query(project_methods::LIST_PROJECTS, projects::list)
        .command(org_effects::RESERVE_PROJECT, projects::reserve)
        .command(org_effects::RECORD_PROJECT, projects::record)
        .query(backup_methods::LIST_BACKUPS, backups::list)
        .command(org_effects::RESERVE_BACKUP, backups::reserve)
        .command(org_effects::RECORD_BACKUP, backups::record)
}

/// The living org.
pub(crate) fn the_org(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Org>, Refusal> {
    let row = state.get(&ORG, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))?;
    match decode(&row)?.delete_time_ms {
        0 => Ok(row),
        _ => Err(Refusal::not_found(cx.address.as_str())),
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

fn release_slug(cx: &Context<'_>, draft: &mut Draft, slug: &str) {
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
        create_time_ms: cx.now_ms,
        update_time_ms: cx.now_ms,
        delete_time_ms: 0,
        etag: cx.etag(),
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
    the_org(state, cx)
}

const FIXED: [&str; 5] = ["name", "create_time_ms", "update_time_ms", "delete_time_ms", "etag"];

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
    let mask = Mask::new(request.update_mask.as_ref(), &["slug", "title"], &FIXED, has_unknown)?;
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
    if let Some(slug) = slug {
        confirm_slug(cx, draft, &slug);
        release_slug(cx, draft, &org.slug);
        org.slug = slug;
    }
    org.update_time_ms = cx.now_ms;
    org.etag = cx.etag();
    let after = before.updated(&org, request.org.as_ref().filter(|_| mask.takes_unknown()));
    draft.put(&ORG, SELF, Some(&before), &after);
    for account in grants::accounts(state)? {
        tell_member(draft, &account, &after, true)?;
    }
    draft.settle();
    Ok(after)
}

fn delete(
    state: &State<'_>,
    request: DeleteOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Org>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let before = the_org(state, cx)?;
    let mut org = decode(&before)?;
    if !request.etag.is_empty() && request.etag != org.etag {
        return Err(Refusal::stale_etag());
    }
    org.delete_time_ms = cx.now_ms;
    org.etag = cx.etag();
    let after = before.updated(&org, None);
    draft.put(&ORG, SELF, Some(&before), &after);
    release_slug(cx, draft, &org.slug);
    for account in grants::accounts(state)? {
        tell_member(draft, &account, &after, false)?;
    }
    draft.settle();
    Ok(after)
}
