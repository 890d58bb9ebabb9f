//! The org's list of its projects. A project reserves its slug here before it
//! commits, and tells the org of every change by an effect.

use std::collections::BTreeSet;

use canopy_domain::{
    Address, Code, Context, Draft, Id, Order, PageRequest, Refusal, Role, Span, State, Table, Wire, Words, decode,
};
use canopy_proto::org::v1::{Grant, ListProjectsRequest, ListProjectsResponse, Project, SearchProjectsRequest};
use canopy_proto::system::v1::{
    RecordProjectRequest, RecordProjectResponse, Reservation, ReserveProjectRequest, ReserveProjectResponse,
};

use crate::grants::{self, GRANTS};
use crate::org::{tell_member, the_org};
use crate::quota;

/// By project id.
pub const PROJECTS: Table<Project> = Table::new(3, "projects", 1);
/// Who holds a slug, by its keyed digest.
const SLUGS: Table<Reservation> = Table::new(4, "project_slugs", 1);

/// As long as the directory's.
const UNCONFIRMED_MS: i64 = 600_000;

/// Projects looked through for one page.
const SEARCHED_MAX: usize = 2_000;

/// Projects looked through at once.
const PROJECTS_MAX: usize = 100_000;

/// Grants on one project, removed with it at once.
const GRANTS_MAX: usize = 100_000;

/// The id of the project that a slug names, or named until a while ago.
///
/// # Errors
/// The store failed.
pub fn project_by_slug(state: &State<'_>, slug: &str, now_ms: i64) -> Result<Option<Id>, Refusal> {
    let Some(held) = state.read(&SLUGS, &state.digest(slug))? else { return Ok(None) };
    let leads_on = !held.confirmed && held.former_expire_time_ms > now_ms;
    let holder = if leads_on { held.former_holder } else { held.holder };
    let holder = (held.confirmed || leads_on).then_some(holder);
    Ok(holder.and_then(|holder| Address::parse(&holder).ok()).and_then(|address| address.id()))
}

pub(crate) fn reserve(
    state: &State<'_>,
    request: ReserveProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ReserveProjectResponse, Refusal> {
    the_org(state, cx)?;
    let key = state.digest(&request.slug);
    let before = state.get(&SLUGS, &key)?;
    if let Some(held) = state.read(&SLUGS, &key)? {
        let lapsed = !held.confirmed && held.expire_time_ms <= cx.now_ms;
        if held.holder != request.project && !lapsed {
            let message = format!("the slug `{}` is taken in this org", request.slug);
            return Err(Refusal::new(Code::AlreadyExists, message).hint("choose another one"));
        }
        if held.holder == request.project && held.confirmed {
            return Ok(ReserveProjectResponse {});
        }
    }
    let former = state.read(&SLUGS, &key)?.unwrap_or_default();
    let reservation = Reservation {
        space: "project".into(),
        holder: request.project,
        confirmed: false,
        expire_time_ms: cx.now_ms + UNCONFIRMED_MS,
        // Until it is confirmed, it leads where it did.
        former_holder: former.former_holder,
        former_expire_time_ms: former.former_expire_time_ms,
    };
    draft.put(&SLUGS, key, before.as_ref(), &Wire::new(&reservation));
    Ok(ReserveProjectResponse {})
}

pub(crate) fn record(
    state: &State<'_>,
    request: RecordProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordProjectResponse, Refusal> {
    let row = request.project.unwrap_or_default();
    let project = decode(&row)?;
    let address = Address::parse(&project.name).map_err(|e| Refusal::invalid("project.name", e.to_string()))?;
    let id = address.id().ok_or_else(|| Refusal::invalid("project.name", "holds no id"))?;
    if cx.principal.as_str() != address.as_str() || address.org_address().as_ref() != Some(cx.address) {
        return Err(Refusal::new(Code::PermissionDenied, "only a project of this org speaks of itself"));
    }
    let before = state.get(&PROJECTS, id.as_bytes())?;
    // The project's answer waits for the org's, and so for its members.
    draft.settle();
    if request.purged {
        if let Some(before) = &before {
            draft.delete(&PROJECTS, *id.as_bytes(), before);
        }
        for slug in [&project.slug].into_iter().chain(project.former_slugs.iter().map(|former| &former.slug)) {
            release(state, draft, slug, &project.name)?;
        }
        for (key, grant) in &state.scan(&GRANTS, on(&id))? {
            draft.delete(&GRANTS, key.to_vec(), grant);
        }
        return Ok(RecordProjectResponse {});
    }
    let known = before.as_ref().map(decode).transpose()?;
    record_slugs(state, draft, known.as_ref(), &project)?;
    let was_deleted = known.is_some_and(|known| known.delete_time_ms > 0);
    if was_deleted != (project.delete_time_ms > 0) {
        tell_holders(state, cx, &id, was_deleted, draft)?;
    }
    draft.put(&PROJECTS, *id.as_bytes(), before.as_ref(), &row);
    if before.is_none() {
        let grant = Grant {
            account: request.creator.clone(),
            on: project.name,
            role: Role::ProjectAdmin.into(),
            create_time_ms: cx.now_ms,
            granted_by: request.creator,
        };
        let key = grants::key(&grant)?;
        // A sys-admin who made it need not have a place, and needs none: no role adds to theirs.
        if quota::has_place(state, &grant.account, cx)? && state.get(&GRANTS, &key)?.is_none() {
            draft.insert(&GRANTS, key, &Wire::new(&grant));
            // A sys-admin need not have belonged to the org.
            if let Ok(org) = the_org(state, cx) {
                tell_member(draft, &grant.account, &org, true)?;
            }
        }
    }
    Ok(RecordProjectResponse {})
}

/// Gives a slug back that a project holds, or held.
fn release(state: &State<'_>, draft: &mut Draft, slug: &str, holder: &str) -> Result<(), Refusal> {
    let key = state.digest(slug);
    let Some(before) = state.get(&SLUGS, &key)? else { return Ok(()) };
    let held = decode(&before)?;
    if held.holder == holder || held.holder.is_empty() && held.former_holder == holder {
        draft.delete(&SLUGS, key, &before);
    } else if held.former_holder == holder {
        let after = Reservation { former_holder: String::new(), former_expire_time_ms: 0, ..held };
        draft.put(&SLUGS, key, Some(&before), &Wire::new(&after));
    }
    Ok(())
}

/// Takes over which slugs a project has now: the one that it holds, and those
/// that lead on to it.
fn record_slugs(
    state: &State<'_>,
    draft: &mut Draft,
    known: Option<&Project>,
    project: &Project,
) -> Result<(), Refusal> {
    if known.is_some_and(|known| known.slug == project.slug && known.former_slugs == project.former_slugs) {
        return Ok(());
    }
    let put = |draft: &mut Draft, slug: &str, held: Reservation| -> Result<(), Refusal> {
        let key = state.digest(slug);
        draft.put(&SLUGS, key, state.get(&SLUGS, &key)?.as_ref(), &Wire::new(&held));
        Ok(())
    };
    let space = || "project".to_owned();
    if known.is_none_or(|known| known.slug != project.slug) {
        let held =
            Reservation { space: space(), holder: project.name.clone(), confirmed: true, ..Reservation::default() };
        put(draft, &project.slug, held)?;
    }
    let Some(known) = known else { return Ok(()) };
    let is_former = |slug: &str| project.former_slugs.iter().find(|former| former.slug == slug);
    if known.slug != project.slug
        && let Some(former) = is_former(&known.slug)
    {
        let held = Reservation {
            space: space(),
            former_holder: project.name.clone(),
            former_expire_time_ms: former.expire_time_ms,
            ..Reservation::default()
        };
        put(draft, &known.slug, held)?;
    }
    for gone in known.former_slugs.iter().filter(|gone| gone.slug != project.slug && is_former(&gone.slug).is_none()) {
        release(state, draft, &gone.slug, &project.name)?;
    }
    Ok(())
}

/// Grants on one project.
fn on(id: &Id) -> Span<'_> {
    Span { prefix: id.as_bytes(), after: None, order: Order::Ascending, limit: GRANTS_MAX }
}

/// Projects that were deleted and are not purged yet, by the bytes of their
/// ids.
pub(crate) fn deleted(state: &State<'_>) -> Result<BTreeSet<Vec<u8>>, Refusal> {
    let all = Span { prefix: &[], after: None, order: Order::Ascending, limit: PROJECTS_MAX };
    let mut deleted = BTreeSet::new();
    for (key, row) in state.scan(&PROJECTS, all)? {
        if decode(&row)?.delete_time_ms > 0 {
            deleted.insert(key.to_vec());
        }
    }
    Ok(deleted)
}

/// Tells those who hold a role on a project, and none elsewhere in the org,
/// that they belong to it again, or no longer.
fn tell_holders(
    state: &State<'_>,
    cx: &Context<'_>,
    project: &Id,
    back: bool,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let Ok(org) = the_org(state, cx) else { return Ok(()) };
    let rows = state.scan(&GRANTS, on(project))?;
    let holders: BTreeSet<String> =
        rows.iter().map(|(_, row)| Ok(decode(row)?.account)).collect::<Result<_, Refusal>>()?;
    if holders.is_empty() {
        return Ok(());
    }
    // As it was before: without this project where it was deleted, with it
    // where it lived.
    let elsewhere = grants::belonging_apart_from(state, project)?;
    for account in holders.difference(&elsewhere) {
        tell_member(draft, account, &org, back)?;
    }
    Ok(())
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListProjectsRequest,
    cx: &Context<'_>,
) -> Result<ListProjectsResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    the_org(state, cx)?;
    let with_deleted = request.show_deleted && cx.holds(Role::OrgAdmin);
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read_where(state.0, PROJECTS.id, SEARCHED_MAX, |row| {
        Ok(with_deleted || decode(&PROJECTS.row(row.clone()))?.delete_time_ms == 0)
    })?;
    let projects = rows.into_iter().map(|row| PROJECTS.row(row)).collect();
    Ok(ListProjectsResponse { projects, next_page_token })
}

pub(crate) fn search(
    state: &State<'_>,
    request: SearchProjectsRequest,
    cx: &Context<'_>,
) -> Result<ListProjectsResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    the_org(state, cx)?;
    let wanted = Words::new(&request.query);
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read_where(state.0, PROJECTS.id, SEARCHED_MAX, |row| {
        let project = decode(&PROJECTS.row(row.clone()))?;
        let texts = [project.title.as_str(), &project.slug, &project.description];
        Ok(project.delete_time_ms == 0 && wanted.are_in(&texts))
    })?;
    let projects = rows.into_iter().map(|row| PROJECTS.row(row)).collect();
    Ok(ListProjectsResponse { projects, next_page_token })
}
