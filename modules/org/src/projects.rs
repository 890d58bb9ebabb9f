//! The org's list of its projects. A project reserves its slug here before it
//! commits, and tells the org of every change by an effect.

use std::collections::BTreeSet;

use bytes::Bytes;
use canopy_domain::{
    Address, Code, Context, Draft, Id, Order, PageRequest, Refusal, Role, Span, State, Table, Wire, decode,
};
use canopy_proto::org::v1::{Grant, ListProjectsRequest, ListProjectsResponse, Project};
use canopy_proto::system::v1::{
    RecordProjectRequest, RecordProjectResponse, Reservation, ReserveProjectRequest, ReserveProjectResponse,
};

use crate::grants::{self, GRANTS};
use crate::org::{tell_member, the_org};

/// By project id.
pub const PROJECTS: Table<Project> = Table::new(3, "projects", 1);
/// Who holds a slug, by its keyed digest.
const SLUGS: Table<Reservation> = Table::new(4, "project_slugs", 1);

/// As long as the directory's.
const UNCONFIRMED_MS: i64 = 600_000;

/// Grants on one project, removed with it at once.
const GRANTS_MAX: usize = 100_000;

/// The id of the project that a slug names.
///
/// # Errors
/// The store failed.
pub fn project_by_slug(state: &State<'_>, slug: &str) -> Result<Option<Id>, Refusal> {
    let held = state.read(&SLUGS, &state.digest(slug))?.filter(|held| held.confirmed);
    Ok(held.and_then(|held| Address::parse(&held.holder).ok()).and_then(|address| address.id()))
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
    let reservation = Reservation {
        space: "project".into(),
        holder: request.project,
        confirmed: false,
        expire_time_ms: cx.now_ms + UNCONFIRMED_MS,
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
    let slug_key = state.digest(&project.slug);
    let slug_before = state.get(&SLUGS, &slug_key)?;
    // The project's answer waits for the org's, and so for its members.
    draft.settle();
    if project.delete_time_ms > 0 {
        if let Some(before) = &before {
            draft.delete(&PROJECTS, *id.as_bytes(), before);
        }
        if let Some(held) = &slug_before
            && decode(held)?.holder == project.name
        {
            draft.delete(&SLUGS, slug_key, held);
        }
        let span = Span { prefix: id.as_bytes(), after: None, order: Order::Ascending, limit: GRANTS_MAX };
        let gone = state.scan(&GRANTS, span)?;
        if !gone.is_empty() {
            tell_who_leaves(state, cx, &gone, draft)?;
        }
        for (key, grant) in &gone {
            draft.delete(&GRANTS, key.to_vec(), grant);
        }
        return Ok(RecordProjectResponse {});
    }
    draft.put(&PROJECTS, *id.as_bytes(), before.as_ref(), &row);
    if before.is_none() {
        let held =
            Reservation { space: "project".into(), holder: project.name.clone(), confirmed: true, expire_time_ms: 0 };
        draft.put(&SLUGS, slug_key, slug_before.as_ref(), &Wire::new(&held));
        let grant = Grant {
            account: request.creator.clone(),
            on: project.name,
            role: Role::ProjectAdmin.into(),
            create_time_ms: cx.now_ms,
            granted_by: request.creator,
        };
        let key = grants::key(&grant)?;
        if state.get(&GRANTS, &key)?.is_none() {
            draft.insert(&GRANTS, key, &Wire::new(&grant));
            // A sys-admin need not have belonged to the org.
            if let Ok(org) = the_org(state, cx) {
                tell_member(draft, &grant.account, &org, true)?;
            }
        }
    }
    Ok(RecordProjectResponse {})
}

/// Tells those whose grants go, and who hold no other here, that they no
/// longer belong to the org.
fn tell_who_leaves(
    state: &State<'_>,
    cx: &Context<'_>,
    gone: &[(Bytes, Wire<Grant>)],
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let Ok(org) = the_org(state, cx) else { return Ok(()) };
    let keys: BTreeSet<_> = gone.iter().map(|(key, _)| key).collect();
    let all = Span { prefix: &[], after: None, order: Order::Ascending, limit: grants::GRANTS_MAX };
    let mut leaving: BTreeSet<String> =
        gone.iter().map(|(_, row)| Ok(decode(row)?.account)).collect::<Result<_, Refusal>>()?;
    for (_, row) in state.scan(&GRANTS, all)?.iter().filter(|(key, _)| !keys.contains(key)) {
        leaving.remove(&decode(row)?.account);
    }
    for account in leaving {
        tell_member(draft, &account, &org, false)?;
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
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, PROJECTS.id, &[], Order::Ascending)?;
    let projects = rows.into_iter().map(|(_, row)| PROJECTS.row(row)).collect();
    Ok(ListProjectsResponse { projects, next_page_token })
}
