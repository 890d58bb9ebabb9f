//! A project: its own row. Its org keeps its slug and its grants.

use canopy_domain::{Address, Code, Context, Draft, Mask, Module, Prepared, Refusal, State, Step, Table, Wire, decode};
use canopy_proto::methods::{environments as environment_methods, org_effects, projects as methods};
use canopy_proto::org::v1::{CreateProjectRequest, GetProjectRequest, Project, UpdateProjectRequest};
use canopy_proto::system::v1::{RecordProjectRequest, ReserveProjectRequest};
use prost::Message;

use crate::{environments, project_end, slugs};

/// The one row, under [`SELF`].
pub(crate) const PROJECT: Table<Project> = Table::new(1, "project", 1);

/// Key of a table's only row.
pub(crate) const SELF: [u8; 1] = [0];

/// The module of `org/<id>/project/<id>`.
pub fn project() -> Module {
    Module::new("project")
        .prepared_command(methods::CREATE_PROJECT, prepare_create, create)
        .query(methods::GET_PROJECT, get)
        .prepared_command(methods::UPDATE_PROJECT, prepare_update, update)
        .command(environment_methods::CREATE_ENVIRONMENT, environments::create)
        .query(environment_methods::GET_ENVIRONMENT, environments::get)
        .query(environment_methods::LIST_ENVIRONMENTS, environments::list)
        .command(environment_methods::UPDATE_ENVIRONMENT, environments::update)
        .command(environment_methods::DELETE_ENVIRONMENT, environments::delete)
        .command(methods::ARCHIVE_PROJECT, project_end::archive)
        .command(methods::UNARCHIVE_PROJECT, project_end::unarchive)
        .command(methods::DELETE_PROJECT, project_end::delete)
        .command(methods::UNDELETE_PROJECT, project_end::undelete)
        .command(methods::PURGE_PROJECT, project_end::purge)
        .on_wake(project_end::woken)
}

fn sent(project: Option<&Wire<Project>>) -> Result<Project, Refusal> {
    let project = project.ok_or_else(|| Refusal::invalid("project", "is required"))?;
    project.decode().map_err(|e| Refusal::invalid("project", e.to_string()))
}

fn org_of(cx: &Context<'_>) -> Result<Address, Refusal> {
    cx.address.org_address().ok_or_else(|| Refusal::new(Code::Internal, "a project stands outside of any org"))
}

fn reserve_slug(cx: &Context<'_>, slug: String) -> Result<Step, Refusal> {
    let target = org_of(cx)?;
    let reserve = ReserveProjectRequest {
        org: target.to_string(),
        project: cx.address.to_string(),
        slug,
        request_id: String::new(),
    };
    let request = reserve.encode_to_vec().into();
    Ok(Step::Ask { target, method: org_effects::RESERVE_PROJECT.path, request })
}

fn prepare_create(_: &State<'_>, request: &CreateProjectRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => Ok(Some(reserve_slug(cx, sent(request.project.as_ref())?.slug)?)),
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

/// Tells the org how the project is now.
pub(crate) fn tell_org(draft: &mut Draft, cx: &Context<'_>, project: &Wire<Project>) -> Result<(), Refusal> {
    record(draft, cx, project, RecordProjectRequest::default())
}

/// Tells the org of the project, and what more there is to say.
pub(crate) fn record(
    draft: &mut Draft,
    cx: &Context<'_>,
    project: &Wire<Project>,
    more: RecordProjectRequest,
) -> Result<(), Refusal> {
    let target = org_of(cx)?;
    let record = RecordProjectRequest { org: target.to_string(), project: Some(project.clone()), ..more };
    draft.effect(target, org_effects::RECORD_PROJECT, &record);
    draft.settle();
    Ok(())
}

fn create(
    state: &State<'_>,
    request: CreateProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let creator = cx.caller()?;
    if state.get(&PROJECT, &SELF)?.is_some() {
        return Err(Refusal::new(Code::AlreadyExists, "this project exists already"));
    }
    let wanted = sent(request.project.as_ref())?;
    let project = Project {
        name: cx.address.to_string(),
        slug: wanted.slug,
        title: wanted.title,
        description: wanted.description,
        create_time_ms: cx.now_ms,
        update_time_ms: cx.now_ms,
        etag: cx.etag(),
        ..Project::default()
    };
    let row = request.project.unwrap_or_default().with(&project);
    draft.insert(&PROJECT, SELF, &row);
    environments::begin(cx, draft)?;
    let more = RecordProjectRequest { creator: creator.to_string(), ..RecordProjectRequest::default() };
    record(draft, cx, &row, more)?;
    Ok(row)
}

/// The project, deleted or not.
pub(crate) fn stored_project(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Project>, Refusal> {
    state.get(&PROJECT, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))
}

/// The living project.
pub(crate) fn the_project(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Project>, Refusal> {
    let row = stored_project(state, cx)?;
    match decode(&row)?.delete_time_ms {
        0 => Ok(row),
        _ => Err(Refusal::new(Code::FailedPrecondition, "the project was deleted")
            .hint("undelete it with `canopy org undelete-project`, as long as it is not purged")),
    }
}

fn get(state: &State<'_>, request: GetProjectRequest, cx: &Context<'_>) -> Result<Wire<Project>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    stored_project(state, cx)
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
    request: &'a UpdateProjectRequest,
    cx: &Context<'_>,
) -> Result<(Project, Project, Mask<'a>), Refusal> {
    let current = decode(&the_project(state, cx)?)?;
    let wanted = sent(request.project.as_ref())?;
    let [] = cx.address.held("project.name", &wanted.name, [])?;
    if !wanted.etag.is_empty() && wanted.etag != current.etag {
        return Err(Refusal::stale_etag());
    }
    let has_unknown = request.project.as_ref().is_some_and(Wire::has_unknown);
    let mask = Mask::new(request.update_mask.as_ref(), &["slug", "title", "description"], &FIXED, has_unknown)?;
    Ok((current, wanted, mask))
}

/// The slug that an update asks for, where it is a new one.
fn new_slug(state: &State<'_>, request: &UpdateProjectRequest, cx: &Context<'_>) -> Result<Option<String>, Refusal> {
    let (current, wanted, mask) = asked(state, request, cx)?;
    let named = request.update_mask.as_ref().is_some_and(|mask| !mask.paths.is_empty());
    let changes = mask.includes("slug") && (named || !wanted.slug.is_empty());
    if changes && wanted.slug.is_empty() {
        return Err(Refusal::invalid("project.slug", "must not be empty"));
    }
    Ok(Some(wanted.slug).filter(|slug| changes && *slug != current.slug))
}

fn prepare_update(
    state: &State<'_>,
    request: &UpdateProjectRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => new_slug(state, request, cx)?.map(|slug| reserve_slug(cx, slug)).transpose(),
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

fn update(
    state: &State<'_>,
    request: UpdateProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let slug = new_slug(state, &request, cx)?;
    if slug.is_some() && cx.prepared.is_empty() {
        return Err(Refusal::new(Code::Aborted, "the project's slug changed meanwhile").hint("try again"));
    }
    let before = the_project(state, cx)?;
    let (mut project, wanted, mask) = asked(state, &request, cx)?;
    if let Some(slug) = slug {
        // The org, which keeps the slugs, learns of it with the rest.
        slugs::rename(&mut project.former_slugs, &project.slug, &slug, cx.now_ms);
        project.slug = slug;
        draft.wake_at_ms(slugs::next_wake_ms(project.purge_time_ms, &project.former_slugs));
    }
    if mask.includes("title") {
        project.title = wanted.title;
    }
    if mask.includes("description") {
        project.description = wanted.description;
    }
    project.update_time_ms = cx.now_ms;
    project.etag = cx.etag();
    let after = before.updated(&project, request.project.as_ref().filter(|_| mask.takes_unknown()));
    draft.put(&PROJECT, SELF, Some(&before), &after);
    tell_org(draft, cx, &after)?;
    Ok(after)
}
