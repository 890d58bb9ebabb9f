//! The end of a project, and what comes before it: as of an org, which keeps
//! its slug and its grants until the purge.

use canopy_domain::{Context, Draft, Refusal, State, Wire, decode};
use canopy_proto::org::v1::{
    ArchiveProjectRequest, DeleteProjectRequest, Project, PurgeProjectRequest, ShredCertificate,
    UnarchiveProjectRequest, UndeleteProjectRequest,
};
use canopy_proto::system::v1::RecordProjectRequest;

use crate::org_end::{begin_purge, not_deleted};
use crate::project::{PROJECT, SELF, record, stored_project, tell_org, the_project};
use crate::slugs;

/// The living or deleted project that is asked for, as the caller knows it.
fn asked(row: Wire<Project>, name: &str, etag: &str, cx: &Context<'_>) -> Result<(Wire<Project>, Project), Refusal> {
    let [] = cx.address.held("name", name, [])?;
    let project = decode(&row)?;
    if !etag.is_empty() && etag != project.etag {
        return Err(Refusal::stale_etag());
    }
    Ok((row, project))
}

/// Commits the project as it is now, and tells the org.
fn change(
    cx: &Context<'_>,
    draft: &mut Draft,
    before: &Wire<Project>,
    mut project: Project,
) -> Result<Wire<Project>, Refusal> {
    project.etag = cx.etag();
    let after = before.updated(&project, None);
    draft.put(&PROJECT, SELF, Some(before), &after);
    draft.wake_at_ms(slugs::next_wake_ms(project.purge_time_ms, &project.former_slugs));
    tell_org(draft, cx, &after)?;
    Ok(after)
}

pub(crate) fn archive(
    state: &State<'_>,
    request: ArchiveProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let (before, mut project) = asked(the_project(state, cx)?, &request.name, &request.etag, cx)?;
    if project.archive_time_ms > 0 {
        return Ok(before);
    }
    project.archive_time_ms = cx.now_ms;
    change(cx, draft, &before, project)
}

pub(crate) fn unarchive(
    state: &State<'_>,
    request: UnarchiveProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let (before, mut project) = asked(the_project(state, cx)?, &request.name, &request.etag, cx)?;
    if project.archive_time_ms == 0 {
        return Ok(before);
    }
    project.archive_time_ms = 0;
    change(cx, draft, &before, project)
}

pub(crate) fn delete(
    state: &State<'_>,
    request: DeleteProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let (before, mut project) = asked(the_project(state, cx)?, &request.name, &request.etag, cx)?;
    project.delete_time_ms = cx.now_ms;
    project.purge_time_ms = cx.now_ms.saturating_add(cx.settings.delete_grace_ms);
    change(cx, draft, &before, project)
}

pub(crate) fn undelete(
    state: &State<'_>,
    request: UndeleteProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Project>, Refusal> {
    let (before, mut project) = asked(stored_project(state, cx)?, &request.name, &request.etag, cx)?;
    if project.delete_time_ms == 0 {
        return Ok(before);
    }
    project.delete_time_ms = 0;
    project.purge_time_ms = 0;
    change(cx, draft, &before, project)
}

pub(crate) fn purge(
    state: &State<'_>,
    request: PurgeProjectRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<ShredCertificate>, Refusal> {
    let (before, project) = asked(stored_project(state, cx)?, &request.name, &request.etag, cx)?;
    if project.delete_time_ms == 0 {
        return Err(not_deleted("project"));
    }
    let caller = cx.caller()?.to_string();
    end(cx, draft, &before, [caller])
}

/// The org is told first, and last whoever has the keys destroyed.
fn end(
    cx: &Context<'_>,
    draft: &mut Draft,
    before: &Wire<Project>,
    readers: impl IntoIterator<Item = String>,
) -> Result<Wire<ShredCertificate>, Refusal> {
    draft.delete(&PROJECT, SELF, before);
    record(draft, cx, before, RecordProjectRequest { purged: true, ..RecordProjectRequest::default() })?;
    Ok(begin_purge(cx, draft, readers))
}

/// The grace may have run out, or the time of a former slug.
pub(crate) fn woken(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let Some(before) = state.get(&PROJECT, &SELF)? else { return Ok(()) };
    let mut project = decode(&before)?;
    if project.purge_time_ms > 0 && project.purge_time_ms <= cx.now_ms {
        end(cx, draft, &before, [])?;
        return Ok(());
    }
    if !slugs::expire(&mut project.former_slugs, cx.now_ms).is_empty() {
        let after = before.updated(&project, None);
        draft.put(&PROJECT, SELF, Some(&before), &after);
        tell_org(draft, cx, &after)?;
    }
    draft.wake_at_ms(slugs::next_wake_ms(project.purge_time_ms, &project.former_slugs));
    Ok(())
}
