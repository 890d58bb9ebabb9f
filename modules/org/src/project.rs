//! A project: its own row. Its org keeps its slug and its grants.

use canopy_domain::{Address, Code, Context, Draft, Mask, Module, Prepared, Refusal, State, Step, Table, Wire, decode};
use canopy_proto::methods::{org_effects, projects as methods};
use canopy_proto::org::v1::{
    CreateProjectRequest, DeleteProjectRequest, GetProjectRequest, Project, UpdateProjectRequest,
};
use canopy_proto::system::v1::{RecordProjectRequest, ReserveProjectRequest};
use prost::Message;

/// The one row, under [`SELF`].
const PROJECT: Table<Project> = Table::new(1, "project", 1);

/// Key of a table's only row.
const SELF: [u8; 1] = [0];

/// The module of `org/<id>/project/<id>`.
pub fn project() -> Module {
    Module::new("project")
        .prepared_command(methods::CREATE_PROJECT, prepare_create, create)
        .query(methods::GET_PROJECT, get)
        .command(methods::UPDATE_PROJECT, update)
        .command(methods::DELETE_PROJECT, delete)
}

fn sent(project: Option<&Wire<Project>>) -> Result<Project, Refusal> {
    let project = project.ok_or_else(|| Refusal::invalid("project", "is required"))?;
    project.decode().map_err(|e| Refusal::invalid("project", e.to_string()))
}

fn org_of(cx: &Context<'_>) -> Result<Address, Refusal> {
    cx.address.org_address().ok_or_else(|| Refusal::new(Code::Internal, "a project stands outside of any org"))
}

fn prepare_create(_: &State<'_>, request: &CreateProjectRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => {
            let target = org_of(cx)?;
            let reserve = ReserveProjectRequest {
                org: target.to_string(),
                project: cx.address.to_string(),
                slug: sent(request.project.as_ref())?.slug,
                request_id: String::new(),
            };
            let request = reserve.encode_to_vec().into();
            Ok(Some(Step::Ask { target, method: org_effects::RESERVE_PROJECT.path, request }))
        }
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

/// Tells the org how the project is now.
fn tell_org(draft: &mut Draft, cx: &Context<'_>, project: &Wire<Project>, creator: &str) -> Result<(), Refusal> {
    let target = org_of(cx)?;
    let record = RecordProjectRequest {
        org: target.to_string(),
        project: Some(project.clone()),
        creator: creator.to_owned(),
        request_id: String::new(),
    };
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
        delete_time_ms: 0,
        etag: cx.etag(),
    };
    let row = request.project.unwrap_or_default().with(&project);
    draft.insert(&PROJECT, SELF, &row);
    tell_org(draft, cx, &row, creator.as_str())?;
    Ok(row)
}

fn the_project(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Project>, Refusal> {
    let row = state.get(&PROJECT, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))?;
    match decode(&row)?.delete_time_ms {
        0 => Ok(row),
        _ => Err(Refusal::not_found(cx.address.as_str())),
    }
}

fn get(state: &State<'_>, request: GetProjectRequest, cx: &Context<'_>) -> Result<Wire<Project>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    the_project(state, cx)
}

fn update(
    state: &State<'_>,
    request: UpdateProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let before = the_project(state, cx)?;
    let sent = request.project.unwrap_or_default();
    let wanted = decode(&sent)?;
    let [] = cx.address.held("project.name", &wanted.name, [])?;
    let mut project = decode(&before)?;
    if !wanted.etag.is_empty() && wanted.etag != project.etag {
        return Err(Refusal::stale_etag());
    }
    let fixed = ["name", "slug", "create_time_ms", "update_time_ms", "delete_time_ms", "etag"];
    let mask = Mask::new(request.update_mask.as_ref(), &["title", "description"], &fixed, sent.has_unknown())?;
    if mask.includes("title") {
        project.title = wanted.title;
    }
    if mask.includes("description") {
        project.description = wanted.description;
    }
    project.update_time_ms = cx.now_ms;
    project.etag = cx.etag();
    let after = before.updated(&project, mask.takes_unknown().then_some(&sent));
    draft.put(&PROJECT, SELF, Some(&before), &after);
    tell_org(draft, cx, &after, "")?;
    Ok(after)
}

fn delete(
    state: &State<'_>,
    request: DeleteProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let before = the_project(state, cx)?;
    let mut project = decode(&before)?;
    if !request.etag.is_empty() && request.etag != project.etag {
        return Err(Refusal::stale_etag());
    }
    project.delete_time_ms = cx.now_ms;
    project.etag = cx.etag();
    let after = before.updated(&project, None);
    draft.put(&PROJECT, SELF, Some(&before), &after);
    tell_org(draft, cx, &after, "")?;
    Ok(after)
}
