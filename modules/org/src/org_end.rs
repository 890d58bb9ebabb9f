//! The end of an org, and what comes before it: archived it is read-only;
//! deleted it is hidden until somebody undeletes it, or its purge destroys it.

use canopy_domain::{Address, Code, Context, Draft, Refusal, State, Wire, decode};
use canopy_proto::methods::purges;
use canopy_proto::org::v1::{
    ArchiveOrgRequest, DeleteOrgRequest, Org, PurgeOrgRequest, ShredCertificate, UnarchiveOrgRequest,
    UndeleteOrgRequest,
};
use canopy_proto::system::v1::{BeginPurgeRequest, Purge};

use crate::org::{ORG, SELF, release_slug, stored_org, tell_member, tell_members, the_org};
use crate::{grants, slugs};

/// Accounts that may see the certificate of an org's purge afterwards.
const READERS_MAX: usize = 100;

/// When the org has something to do by itself; zero for never.
pub(crate) fn next_wake_ms(org: &Org) -> i64 {
    slugs::next_wake_ms(org.purge_time_ms, &org.former_slugs)
}

fn check_etag(sent: &str, current: &str) -> Result<(), Refusal> {
    if sent.is_empty() || sent == current { Ok(()) } else { Err(Refusal::stale_etag()) }
}

/// The living or deleted org that is asked for, as the caller knows it.
fn asked(row: Wire<Org>, name: &str, etag: &str, cx: &Context<'_>) -> Result<(Wire<Org>, Org), Refusal> {
    let [] = cx.address.held("name", name, [])?;
    let org = decode(&row)?;
    check_etag(etag, &org.etag)?;
    Ok((row, org))
}

/// Commits the org as it is now, and tells its members.
fn change(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
    before: &Wire<Org>,
    mut org: Org,
) -> Result<Wire<Org>, Refusal> {
    org.etag = cx.etag();
    let after = before.updated(&org, None);
    draft.put(&ORG, SELF, Some(before), &after);
    draft.wake_at_ms(next_wake_ms(&org));
    tell_members(state, cx, draft, &after)?;
    draft.settle();
    Ok(after)
}

pub(crate) fn archive(
    state: &State<'_>,
    request: ArchiveOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Org>, Refusal> {
    let (before, mut org) = asked(the_org(state, cx)?, &request.name, &request.etag, cx)?;
    if org.archive_time_ms > 0 {
        return Ok(before);
    }
    org.archive_time_ms = cx.now_ms;
    change(state, cx, draft, &before, org)
}

pub(crate) fn unarchive(
    state: &State<'_>,
    request: UnarchiveOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Org>, Refusal> {
    let (before, mut org) = asked(the_org(state, cx)?, &request.name, &request.etag, cx)?;
    if org.archive_time_ms == 0 {
        return Ok(before);
    }
    org.archive_time_ms = 0;
    change(state, cx, draft, &before, org)
}

pub(crate) fn delete(
    state: &State<'_>,
    request: DeleteOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Org>, Refusal> {
    let (before, mut org) = asked(the_org(state, cx)?, &request.name, &request.etag, cx)?;
    org.delete_time_ms = cx.now_ms;
    org.purge_time_ms = cx.now_ms.saturating_add(cx.settings.delete_grace_ms);
    change(state, cx, draft, &before, org)
}

pub(crate) fn undelete(
    state: &State<'_>,
    request: UndeleteOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Org>, Refusal> {
    let (before, mut org) = asked(stored_org(state, cx)?, &request.name, &request.etag, cx)?;
    if org.delete_time_ms == 0 {
        return Ok(before);
    }
    org.delete_time_ms = 0;
    org.purge_time_ms = 0;
    change(state, cx, draft, &before, org)
}

pub(crate) fn purge(
    state: &State<'_>,
    request: PurgeOrgRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<ShredCertificate>, Refusal> {
    let (before, org) = asked(stored_org(state, cx)?, &request.name, &request.etag, cx)?;
    if org.delete_time_ms == 0 {
        return Err(not_deleted("org"));
    }
    end(state, cx, draft, &before, &org)
}

pub(crate) fn not_deleted(what: &str) -> Refusal {
    Refusal::new(Code::FailedPrecondition, format!("the {what} lives: only what was deleted is purged"))
        .hint(format!("delete it first with `canopy org delete-{what}`"))
}

/// Everybody is told first, and last whoever has the keys destroyed: effects
/// go out in order, and none after that one.
fn end(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
    before: &Wire<Org>,
    org: &Org,
) -> Result<Wire<ShredCertificate>, Refusal> {
    draft.delete(&ORG, SELF, before);
    for slug in [&org.slug].into_iter().chain(org.former_slugs.iter().map(|former| &former.slug)) {
        release_slug(cx, draft, slug);
    }
    let admins = grants::org_admins(state, cx)?;
    for admin in &admins {
        tell_member(draft, admin, before, false)?;
    }
    Ok(begin_purge(cx, draft, admins))
}

/// Has the keys of this org or project destroyed, once all other effects are
/// delivered; gives the certificate as it is until then.
pub(crate) fn begin_purge(
    cx: &Context<'_>,
    draft: &mut Draft,
    readers: impl IntoIterator<Item = String>,
) -> Wire<ShredCertificate> {
    let purge = Purge {
        address: cx.address.to_string(),
        readers: readers.into_iter().take(READERS_MAX).collect(),
        time_ms: cx.now_ms,
        parts: Vec::new(),
    };
    let begin = BeginPurgeRequest { purge: Some(purge), request_id: String::new() };
    draft.effect(Address::system("purges"), purges::BEGIN_PURGE, &begin);
    draft.wake_at_ms(0);
    draft.settle();
    Wire::new(&ShredCertificate {
        name: cx.address.to_string(),
        purge_time_ms: cx.now_ms,
        ..ShredCertificate::default()
    })
}

/// The grace may have run out, or the time of a former slug.
pub(crate) fn woken(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let Some(before) = state.get(&ORG, &SELF)? else { return Ok(()) };
    let mut org = decode(&before)?;
    if org.purge_time_ms > 0 && org.purge_time_ms <= cx.now_ms {
        end(state, cx, draft, &before, &org)?;
        return Ok(());
    }
    let gone = slugs::expire(&mut org.former_slugs, cx.now_ms);
    gone.iter().for_each(|slug| release_slug(cx, draft, slug));
    if !gone.is_empty() {
        draft.put(&ORG, SELF, Some(&before), &before.updated(&org, None));
    }
    draft.wake_at_ms(next_wake_ms(&org));
    Ok(())
}
