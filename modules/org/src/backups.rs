//! The org's list of its backups. A backup reserves its place here before it
//! commits, and tells the org of every change by an effect.

use canopy_domain::{Address, Code, Context, Draft, Id, Order, PageRequest, Refusal, Span, State, Table, Wire, decode};
use canopy_proto::ops::v1::{Backup, ListBackupsRequest, ListBackupsResponse};
use canopy_proto::system::v1::{
    RecordBackupRequest, RecordBackupResponse, Reservation, ReserveBackupRequest, ReserveBackupResponse,
};

use crate::org::the_org;

/// By the backup's id.
const BACKUPS: Table<Backup> = Table::new(5, "backups", 1);
/// Places of those that have not committed yet, by their ids.
const PLACES: Table<Reservation> = Table::new(6, "backup_places", 1);

/// Backups that an org keeps: each is a file as large as its vault.
const BACKUPS_MAX: usize = 100;

/// As long as the directory's.
const UNCONFIRMED_MS: i64 = 600_000;

/// The id of a backup that speaks of itself.
fn speaker(cx: &Context<'_>, field: &str, name: &str) -> Result<Id, Refusal> {
    let address = Address::parse(name).map_err(|e| Refusal::invalid(field, e.to_string()))?;
    if cx.principal.as_str() != address.as_str() || address.org_address().as_ref() != Some(cx.address) {
        return Err(Refusal::new(Code::PermissionDenied, "only a backup of this org speaks of itself"));
    }
    address.id().ok_or_else(|| Refusal::invalid(field, "holds no id"))
}

fn all() -> Span<'static> {
    Span { prefix: &[], after: None, order: Order::Ascending, limit: BACKUPS_MAX + 1 }
}

pub(crate) fn reserve(
    state: &State<'_>,
    request: ReserveBackupRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ReserveBackupResponse, Refusal> {
    the_org(state, cx)?;
    let id = speaker(cx, "backup", &request.backup)?;
    if state.get(&BACKUPS, id.as_bytes())?.is_some() {
        return Ok(ReserveBackupResponse {});
    }
    let mut taken = state.scan(&BACKUPS, all())?.len();
    for (key, row) in state.scan(&PLACES, all())? {
        if decode(&row)?.expire_time_ms <= cx.now_ms {
            draft.delete(&PLACES, key.to_vec(), &row);
        } else if key[..] != id.as_bytes()[..] {
            taken += 1;
        }
    }
    if taken >= BACKUPS_MAX {
        return Err(Refusal::new(
            Code::ResourceExhausted,
            format!("the org keeps {BACKUPS_MAX} backups, which is its limit"),
        )
        .hint("delete one that is not needed any more"));
    }
    let reservation = Reservation {
        space: "backup".into(),
        holder: request.backup,
        confirmed: false,
        expire_time_ms: cx.now_ms + UNCONFIRMED_MS,
        ..Reservation::default()
    };
    draft.put(&PLACES, *id.as_bytes(), state.get(&PLACES, id.as_bytes())?.as_ref(), &Wire::new(&reservation));
    Ok(ReserveBackupResponse {})
}

pub(crate) fn record(
    state: &State<'_>,
    request: RecordBackupRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordBackupResponse, Refusal> {
    let row = request.backup.unwrap_or_default();
    let backup = decode(&row)?;
    let id = speaker(cx, "backup.name", &backup.name)?;
    let before = state.get(&BACKUPS, id.as_bytes())?;
    if let Some(place) = state.get(&PLACES, id.as_bytes())? {
        draft.delete(&PLACES, *id.as_bytes(), &place);
    }
    match before {
        before if backup.delete_time_ms == 0 => draft.put(&BACKUPS, *id.as_bytes(), before.as_ref(), &row),
        Some(before) => draft.delete(&BACKUPS, *id.as_bytes(), &before),
        None => {}
    }
    Ok(RecordBackupResponse {})
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListBackupsRequest,
    cx: &Context<'_>,
) -> Result<ListBackupsResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    the_org(state, cx)?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, BACKUPS.id, &[], Order::Ascending)?;
    let backups = rows.into_iter().map(|(_, row)| BACKUPS.row(row)).collect();
    Ok(ListBackupsResponse { backups, next_page_token })
}
