//! Ends of accounts, orgs and projects. Each tells its own end as the last thing that it
//! does; a worker of the node destroys its keys, and tells that here. What is
//! kept holds ids and times alone: nothing of what was destroyed. Of sessions that
//! their account has forgotten the keys are destroyed, too, and nothing is kept.

use canopy_domain::{
    Address, Code, Context, Draft, Id, Kind, Module, Order, PageRequest, Principal, Refusal, Role, Span, State, Table,
    Wire, decode,
};
use canopy_proto::methods::{orgs, purges as methods};
use canopy_proto::org::v1::{
    GetShredCertificateRequest, ListShredCertificatesRequest, ListShredCertificatesResponse, ShredCertificate,
};
use canopy_proto::system::v1::{
    BeginPurgeRequest, BeginPurgeResponse, FinishPurgeRequest, FinishPurgeResponse, ListPurgesRequest,
    ListPurgesResponse, Purge,
};

/// By id of the account, org or project.
const CERTIFICATES: Table<ShredCertificate> = Table::new(1, "shred_certificates", 1);
/// Who may see a certificate, by the same id.
const READERS: Table<Purge> = Table::new(2, "shred_certificate_readers", 1);
/// Those whose keys are still to be destroyed, by the same id; sessions by theirs.
pub const PENDING_PURGES: Table<Purge> = Table::new(3, "pending_purges", 1);

/// Accounts that may see a certificate.
const READERS_MAX: usize = 100;
/// Purges handed out at once.
const LIST_MAX: usize = 1000;

/// The module of `system/purges`.
pub fn purges() -> Module {
    Module::new("purges")
        .command(methods::BEGIN_PURGE, begin)
        .command(methods::FINISH_PURGE, finish)
        .query(methods::LIST_PURGES, pending)
        .query(orgs::GET_SHRED_CERTIFICATE, get)
        .query(orgs::LIST_SHRED_CERTIFICATES, list)
}

/// The id of an account, org or project.
fn id_of(field: &str, name: &str) -> Result<Id, Refusal> {
    let address = Address::parse(name).map_err(|e| Refusal::invalid(field, e.to_string()))?;
    let id = address.id().filter(|_| matches!(address.kind(), Some(Kind::Account | Kind::Org | Kind::Project)));
    id.ok_or_else(|| {
        let forms = "`org/*`, `org/*/project/*` or `account/*`";
        Refusal::invalid(field, format!("`{name}` is not of the form {forms}, by ids"))
    })
}

/// The id of a session.
fn session_id(name: &str) -> Option<Id> {
    Address::parse(name).ok().filter(|address| address.kind() == Some(Kind::Session))?.id()
}

fn begin(
    state: &State<'_>,
    request: BeginPurgeRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<BeginPurgeResponse, Refusal> {
    let mut purge = request.purge.unwrap_or_default();
    if let Some(id) = session_id(&purge.address) {
        if !matches!(cx.principal, Principal::Actor(account) if account.kind() == Some(Kind::Account)) {
            return Err(Refusal::new(Code::PermissionDenied, "an account decides the end of its sessions alone"));
        }
        let purge = Purge { address: purge.address, time_ms: purge.time_ms, ..Purge::default() };
        draft.put(
            &PENDING_PURGES,
            *id.as_bytes(),
            state.get(&PENDING_PURGES, id.as_bytes())?.as_ref(),
            &Wire::new(&purge),
        );
        return Ok(BeginPurgeResponse {});
    }
    let id = id_of("purge.address", &purge.address)?;
    if cx.principal.as_str() != purge.address {
        return Err(Refusal::new(Code::PermissionDenied, "an account, org or project decides its own end alone"));
    }
    if state.get(&CERTIFICATES, id.as_bytes())?.is_some() {
        return Ok(BeginPurgeResponse {});
    }
    purge.readers.truncate(READERS_MAX);
    let certificate =
        ShredCertificate { name: purge.address.clone(), purge_time_ms: purge.time_ms, ..ShredCertificate::default() };
    draft.insert(&CERTIFICATES, *id.as_bytes(), &Wire::new(&certificate));
    let readers = Purge { parts: Vec::new(), ..purge.clone() };
    draft.insert(&READERS, *id.as_bytes(), &Wire::new(&readers));
    draft.insert(&PENDING_PURGES, *id.as_bytes(), &Wire::new(&Purge { readers: Vec::new(), ..purge }));
    Ok(BeginPurgeResponse {})
}

fn finish(
    state: &State<'_>,
    request: FinishPurgeRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<FinishPurgeResponse, Refusal> {
    let id = match session_id(&request.address) {
        Some(id) => id,
        None => id_of("address", &request.address)?,
    };
    let Some(pending) = state.get(&PENDING_PURGES, id.as_bytes())? else { return Ok(FinishPurgeResponse {}) };
    draft.delete(&PENDING_PURGES, *id.as_bytes(), &pending);
    if let Some(before) = state.get(&CERTIFICATES, id.as_bytes())? {
        let mut certificate = decode(&before)?;
        certificate.shred_time_ms = cx.now_ms;
        certificate.key_fingerprints = request.key_fingerprints;
        draft.put(&CERTIFICATES, *id.as_bytes(), Some(&before), &before.updated(&certificate, None));
    }
    Ok(FinishPurgeResponse {})
}

fn pending(state: &State<'_>, request: ListPurgesRequest, _: &Context<'_>) -> Result<ListPurgesResponse, Refusal> {
    let limit = (request.limit as usize).clamp(1, LIST_MAX);
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit };
    let rows = state.scan(&PENDING_PURGES, span)?;
    let purges = rows.iter().map(|(_, row)| decode(row)).collect::<Result<_, _>>()?;
    Ok(ListPurgesResponse { purges })
}

fn get(
    state: &State<'_>,
    request: GetShredCertificateRequest,
    cx: &Context<'_>,
) -> Result<Wire<ShredCertificate>, Refusal> {
    let id = id_of("name", &request.name)?;
    let absent = || Refusal::not_found(&request.name);
    let certificate = state.get(&CERTIFICATES, id.as_bytes())?.ok_or_else(absent)?;
    let readers = state.read(&READERS, id.as_bytes())?.unwrap_or_default().readers;
    let caller = cx.caller()?;
    let is_known = decode(&certificate)?.name == request.name;
    let may_see = cx.holds(Role::SysAdmin) || readers.iter().any(|reader| reader == caller.as_str());
    if is_known && may_see { Ok(certificate) } else { Err(absent()) }
}

fn list(
    state: &State<'_>,
    request: ListShredCertificatesRequest,
    _: &Context<'_>,
) -> Result<ListShredCertificatesResponse, Refusal> {
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, CERTIFICATES.id, &[], Order::Ascending)?;
    let certificates = rows.into_iter().map(|(_, row)| CERTIFICATES.row(row)).collect();
    Ok(ListShredCertificatesResponse { certificates, next_page_token })
}
