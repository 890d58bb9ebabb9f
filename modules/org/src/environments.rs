//! Environments of a project: named stages, which flags and API keys refer to.

use canopy_domain::{Code, Context, Draft, Id, Mask, Order, Refusal, Span, State, Table, Wire, decode};
use canopy_proto::org::v1::{
    CreateEnvironmentRequest, DeleteEnvironmentRequest, DeleteEnvironmentResponse, Environment, GetEnvironmentRequest,
    ListEnvironmentsRequest, ListEnvironmentsResponse, UpdateEnvironmentRequest,
};

use crate::project::the_project;

/// By the environment's id.
const ENVIRONMENTS: Table<Environment> = Table::new(2, "environments", 1);

/// Environments of a project: a list that fits one page.
const ENVIRONMENTS_MAX: usize = 50;

/// What every project has from the start.
const FIRST_SLUG: &str = "production";

const CHANGEABLE: [&str; 4] = ["slug", "title", "order", "protected"];
const FIXED: [&str; 4] = ["name", "create_time_ms", "update_time_ms", "etag"];

/// The environment that a project begins with. It has the project's own id, so
/// that one made before there were environments has the same, unwritten.
fn first(cx: &Context<'_>, create_time_ms: i64) -> Result<(Id, Environment), Refusal> {
    let id = cx.address.id().ok_or_else(|| Refusal::new(Code::Internal, "a project's address holds no id"))?;
    let environment = Environment {
        name: format!("{}/environment/{id}", cx.address),
        slug: FIRST_SLUG.into(),
        title: "Production".into(),
        order: 0,
        protected: true,
        create_time_ms,
        update_time_ms: create_time_ms,
        etag: "0".into(),
    };
    Ok((id, environment))
}

/// Writes it with a new project.
pub(crate) fn begin(cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let (id, environment) = first(cx, cx.now_ms)?;
    draft.insert(&ENVIRONMENTS, *id.as_bytes(), &Wire::new(&environment));
    Ok(())
}

/// An environment, and whether its row is written.
struct Found {
    id: Id,
    row: Wire<Environment>,
    environment: Environment,
    is_written: bool,
}

/// All of them, in their order.
fn all(state: &State<'_>, cx: &Context<'_>) -> Result<Vec<Found>, Refusal> {
    let project = decode(&the_project(state, cx)?)?;
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: ENVIRONMENTS_MAX };
    let mut found = Vec::new();
    for (key, row) in state.scan(&ENVIRONMENTS, span)? {
        let id = <[u8; 16]>::try_from(&key[..]).map(Id::from_bytes);
        let id = id.map_err(|_| Refusal::new(Code::Internal, "an environment's key is no id"))?;
        let environment = decode(&row)?;
        found.push(Found { id, row, environment, is_written: true });
    }
    if found.is_empty() {
        let (id, environment) = first(cx, project.create_time_ms)?;
        found.push(Found { id, row: Wire::new(&environment), environment, is_written: false });
    }
    found.sort_by_key(|found| (found.environment.order, found.id));
    Ok(found)
}

/// The one that a name holds the id or slug of, among all.
fn find(found: Vec<Found>, field: &str, name: &str, cx: &Context<'_>) -> Result<Found, Refusal> {
    let [wanted] = cx.address.held(field, name, ["environment"])?;
    let id = Id::parse(wanted);
    let is_it = |found: &Found| id.map_or(found.environment.slug == wanted, |id| found.id == id);
    found.into_iter().find(is_it).ok_or_else(|| Refusal::not_found(name))
}

fn check_slug(others: &[Found], slug: &str, except: Option<Id>) -> Result<(), Refusal> {
    if others.iter().any(|other| other.environment.slug == slug && Some(other.id) != except) {
        let message = format!("the slug `{slug}` is taken in this project");
        return Err(Refusal::new(Code::AlreadyExists, message).hint("choose another one"));
    }
    Ok(())
}

pub(crate) fn create(
    state: &State<'_>,
    request: CreateEnvironmentRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Environment>, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let others = all(state, cx)?;
    let sent = request.environment.unwrap_or_default();
    let wanted = sent.decode().map_err(|e| Refusal::invalid("environment", e.to_string()))?;
    check_slug(&others, &wanted.slug, None)?;
    if others.len() >= ENVIRONMENTS_MAX {
        let message = format!("the project has {ENVIRONMENTS_MAX} environments, which is its limit");
        return Err(Refusal::new(Code::ResourceExhausted, message).hint("delete one that is not needed any more"));
    }
    // With a second one, the first is not to be taken for missing.
    for other in others.iter().filter(|other| !other.is_written) {
        draft.insert(&ENVIRONMENTS, *other.id.as_bytes(), &other.row);
    }
    let id = cx.fresh_id(0);
    let environment = Environment {
        name: format!("{}/environment/{id}", cx.address),
        create_time_ms: cx.now_ms,
        update_time_ms: cx.now_ms,
        etag: cx.etag(),
        ..wanted
    };
    let row = sent.with(&environment);
    draft.insert(&ENVIRONMENTS, *id.as_bytes(), &row);
    Ok(row)
}

pub(crate) fn get(
    state: &State<'_>,
    request: GetEnvironmentRequest,
    cx: &Context<'_>,
) -> Result<Wire<Environment>, Refusal> {
    Ok(find(all(state, cx)?, "name", &request.name, cx)?.row)
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListEnvironmentsRequest,
    cx: &Context<'_>,
) -> Result<ListEnvironmentsResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    Ok(ListEnvironmentsResponse { environments: all(state, cx)?.into_iter().map(|found| found.row).collect() })
}

pub(crate) fn update(
    state: &State<'_>,
    request: UpdateEnvironmentRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Environment>, Refusal> {
    let sent = request.environment.unwrap_or_default();
    let wanted = sent.decode().map_err(|e| Refusal::invalid("environment", e.to_string()))?;
    let found = find(all(state, cx)?, "environment.name", &wanted.name, cx)?;
    let mut environment = found.environment;
    if !wanted.etag.is_empty() && wanted.etag != environment.etag {
        return Err(Refusal::stale_etag());
    }
    let mask = Mask::new(request.update_mask.as_ref(), &CHANGEABLE, &FIXED, sent.has_unknown())?;
    let named = request.update_mask.as_ref().is_some_and(|mask| !mask.paths.is_empty());
    if mask.includes("slug") && (named || !wanted.slug.is_empty()) {
        if wanted.slug.is_empty() {
            return Err(Refusal::invalid("environment.slug", "must not be empty"));
        }
        check_slug(&all(state, cx)?, &wanted.slug, Some(found.id))?;
        environment.slug = wanted.slug;
    }
    if mask.includes("title") {
        environment.title = wanted.title;
    }
    if mask.includes("order") {
        environment.order = wanted.order;
    }
    if mask.includes("protected") {
        environment.protected = wanted.protected;
    }
    environment.update_time_ms = cx.now_ms;
    environment.etag = cx.etag();
    let after = found.row.updated(&environment, mask.takes_unknown().then_some(&sent));
    draft.put(&ENVIRONMENTS, *found.id.as_bytes(), found.is_written.then_some(&found.row), &after);
    Ok(after)
}

pub(crate) fn delete(
    state: &State<'_>,
    request: DeleteEnvironmentRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<DeleteEnvironmentResponse, Refusal> {
    let found = all(state, cx)?;
    let is_last = found.len() == 1;
    let found = find(found, "name", &request.name, cx)?;
    if !request.etag.is_empty() && request.etag != found.environment.etag {
        return Err(Refusal::stale_etag());
    }
    let refused = |message: &str, hint: &str| Err(Refusal::new(Code::FailedPrecondition, message).hint(hint));
    if found.environment.protected {
        return refused("the environment is protected", "set `protected` to false first");
    }
    if is_last {
        return refused("this is the project's last environment", "create another one first");
    }
    draft.delete(&ENVIRONMENTS, *found.id.as_bytes(), &found.row);
    Ok(DeleteEnvironmentResponse {})
}
