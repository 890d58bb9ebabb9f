//! What an org may have at most: what a sys-admin set for it, and for the rest
//! the installation's defaults. People are counted here, where they come in, one
//! command after another; requests at the edge; bytes where they are committed, by
//! leases that are given here.

use std::collections::{BTreeMap, BTreeSet};

use canopy_domain::{
    Address, Code, Context, Draft, Id, Mask, Order, QuotaLimit, Refusal, Span, State, Table, Wire, decode,
};
use canopy_proto::org::v1::{GetQuotaRequest, GetQuotaResponse, Quota, QuotaUse, SetQuotaRequest};
use canopy_proto::system::v1::{
    BytesLease, LeaseBytesRequest, LeaseBytesResponse, ReadBytesMaxRequest, ReadBytesMaxResponse,
};

use crate::grants::{self, GRANTS};
use crate::members;
use crate::org::{ORG, SELF, stored_org, the_org};

/// The one row, under [`SELF`]; none where nothing was ever set.
pub const QUOTA: Table<Quota> = Table::new(40, "quota", 1);

/// By the node's name.
const LEASES: Table<BytesLease> = Table::new(41, "bytes_leases", 1);

/// Nodes at once.
const NODES_MAX: usize = 1_000;

const CHANGEABLE: [&str; 3] = ["people_max", "requests_per_s_max", "bytes_max"];
const FIXED: [&str; 3] = ["org", "update_time_ms", "etag"];

fn set_for(state: &State<'_>, cx: &Context<'_>) -> Result<Quota, Refusal> {
    Ok(state.read(&QUOTA, &SELF)?.unwrap_or_else(|| Quota { org: cx.address.to_string(), ..Quota::default() }))
}

/// What holds: every limit is set, where zero is none.
fn limits(set: &Quota, cx: &Context<'_>) -> Quota {
    let defaults = cx.settings.quota;
    Quota {
        people_max: Some(set.people_max.unwrap_or(defaults.people_max)),
        requests_per_s_max: Some(set.requests_per_s_max.unwrap_or(defaults.requests_per_s_max)),
        bytes_max: Some(set.bytes_max.unwrap_or(defaults.bytes_max)),
        ..set.clone()
    }
}

/// Everybody who holds a role here, by account id. A role at a project that was
/// deleted and can be undeleted counts: its holder comes back with it.
fn people(state: &State<'_>) -> Result<BTreeSet<Id>, Refusal> {
    let all = Span { prefix: &[], after: None, order: Order::Ascending, limit: grants::GRANTS_MAX };
    let rows = state.scan(&GRANTS, all)?;
    Ok(rows.iter().filter_map(|(key, _)| grants::holder(key)).map(|(account, _)| account).collect())
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How many people there are and may be, where that leaves an account without a
/// place; `None` where it holds a role here already, or there is room for it.
fn full(state: &State<'_>, account: &str, cx: &Context<'_>) -> Result<Option<(i64, i64)>, Refusal> {
    let people_max = limits(&set_for(state, cx)?, cx).people_max.unwrap_or_default();
    if people_max == 0 {
        return Ok(None);
    }
    let id = Address::parse(account).ok().and_then(|address| address.id());
    if id.map(|id| members::grants_of(state, id)).transpose()?.is_some_and(|held| !held.is_empty()) {
        return Ok(None);
    }
    let present = count(people(state)?.len());
    Ok((present >= people_max).then_some((present, people_max)))
}

/// Whether an account may be given a role here.
pub(crate) fn has_place(state: &State<'_>, account: &str, cx: &Context<'_>) -> Result<bool, Refusal> {
    Ok(full(state, account, cx)?.is_none())
}

/// That an account may be given a role here.
///
/// # Errors
/// `RESOURCE_EXHAUSTED`: the org has as many people as it may.
pub(crate) fn check_place(state: &State<'_>, account: &str, cx: &Context<'_>) -> Result<(), Refusal> {
    let Some((present, people_max)) = full(state, account, cx)? else { return Ok(()) };
    let message = format!("the org has {present} people, and its quota is {people_max}");
    Err(Refusal::new(Code::ResourceExhausted, message)
        .hint(
            "revoke the roles of somebody who needs none with `canopy org revoke-role`, or ask whoever runs the \
             server to raise `people_max` with `canopy org set-quota`",
        )
        .quota(QuotaLimit::PeopleMax, cx.address, people_max))
}

pub(crate) fn get(state: &State<'_>, request: GetQuotaRequest, cx: &Context<'_>) -> Result<GetQuotaResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    the_org(state, cx)?;
    let quota = set_for(state, cx)?;
    Ok(GetQuotaResponse {
        limits: Some(Wire::new(&limits(&quota, cx))),
        quota: Some(Wire::new(&quota)),
        r#use: Some(QuotaUse {
            people: count(people(state)?.len()),
            bytes: sum(leases(state)?.values().map(|lease| lease.used_bytes)),
            leased_bytes: sum(leases(state)?.values().map(|lease| lease.leased_bytes)),
        }),
    })
}

fn sum(bytes: impl Iterator<Item = i64>) -> i64 {
    bytes.fold(0, i64::saturating_add)
}

/// What each node has of the org's bytes.
fn leases(state: &State<'_>) -> Result<BTreeMap<Vec<u8>, BytesLease>, Refusal> {
    let all = Span { prefix: &[], after: None, order: Order::Ascending, limit: NODES_MAX };
    let rows = state.scan(&LEASES, all)?;
    rows.iter().map(|(key, row)| Ok((key.to_vec(), decode(row)?))).collect()
}

pub(crate) fn read_bytes_max(
    state: &State<'_>,
    _: ReadBytesMaxRequest,
    cx: &Context<'_>,
) -> Result<ReadBytesMaxResponse, Refusal> {
    let bytes_max = match state.get(&ORG, &SELF)? {
        Some(_) => limits(&set_for(state, cx)?, cx).bytes_max.unwrap_or_default(),
        None => 0,
    };
    Ok(ReadBytesMaxResponse { bytes_max })
}

/// Gives a node what it asks for, or what is left: others' leases count as used.
pub(crate) fn lease_bytes(
    state: &State<'_>,
    request: LeaseBytesRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LeaseBytesResponse, Refusal> {
    stored_org(state, cx)?;
    let bytes_max = limits(&set_for(state, cx)?, cx).bytes_max.unwrap_or_default();
    let key = request.node.into_bytes();
    let others = leases(state)?.into_iter().filter(|(node, _)| *node != key).map(|(_, lease)| lease);
    let taken = sum(others.map(|lease| lease.used_bytes.saturating_add(lease.leased_bytes)));
    let left = bytes_max.saturating_sub(taken).saturating_sub(request.used_bytes);
    let leased_bytes = left.min(request.wanted_bytes).max(0);
    let before = state.get(&LEASES, &key)?;
    let had = before.as_ref().map(decode).transpose()?.unwrap_or_default();
    // To write that there is nothing, again and again, would take room, too.
    if leased_bytes > 0 || had.leased_bytes > 0 || before.is_none() {
        let lease = BytesLease { used_bytes: request.used_bytes, leased_bytes, lease_time_ms: cx.now_ms };
        draft.put(&LEASES, key, before.as_ref(), &Wire::new(&lease));
    }
    Ok(LeaseBytesResponse { leased_bytes })
}

fn sent(quota: Option<&Wire<Quota>>) -> Result<Quota, Refusal> {
    let quota = quota.ok_or_else(|| Refusal::invalid("quota", "is required"))?;
    quota.decode().map_err(|e| Refusal::invalid("quota", e.to_string()))
}

pub(crate) fn set(
    state: &State<'_>,
    request: SetQuotaRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Quota>, Refusal> {
    stored_org(state, cx)?;
    let wanted = sent(request.quota.as_ref())?;
    let [] = cx.address.held("quota.org", &wanted.org, [])?;
    let before = state.get(&QUOTA, &SELF)?;
    let mut quota = set_for(state, cx)?;
    if !wanted.etag.is_empty() && wanted.etag != quota.etag {
        return Err(Refusal::stale_etag());
    }
    let has_unknown = request.quota.as_ref().is_some_and(Wire::has_unknown);
    let mask = Mask::new(request.update_mask.as_ref(), &CHANGEABLE, &FIXED, has_unknown)?;
    let named = request.update_mask.as_ref().is_some_and(|mask| !mask.paths.is_empty());
    let changes = |field: &str, value: Option<i64>| mask.includes(field) && (named || value.is_some());
    for (field, held, value) in [
        ("people_max", &mut quota.people_max, wanted.people_max),
        ("requests_per_s_max", &mut quota.requests_per_s_max, wanted.requests_per_s_max),
        ("bytes_max", &mut quota.bytes_max, wanted.bytes_max),
    ] {
        if changes(field, value) {
            *held = value;
            draft.detail(field, value.map_or_else(|| "default".to_owned(), |value| value.to_string()));
        }
    }
    quota.update_time_ms = cx.now_ms;
    quota.etag = cx.etag();
    let unknown = request.quota.as_ref().filter(|_| mask.takes_unknown());
    let after = before.clone().unwrap_or_default().updated(&quota, unknown);
    draft.put(&QUOTA, SELF, before.as_ref(), &after);
    Ok(after)
}
