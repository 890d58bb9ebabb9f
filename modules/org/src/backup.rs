//! A backup of one vault of an org: a job that a worker of the node carries out.
//!
//! The job only says what there is to do. While it waits or is being worked on
//! it wakes itself again and again, so that it outlives the worker: what a
//! commit leaves waiting, the node's worker hears of and begins.

use canopy_domain::{Address, Code, Context, Draft, Kind, Module, Prepared, Refusal, State, Step, Table, Wire, decode};
use canopy_proto::methods::{backup_effects, backups as methods, org_effects};
use canopy_proto::ops::v1::{Backup, BackupState, CreateBackupRequest, DeleteBackupRequest, GetBackupRequest};
use canopy_proto::system::v1::finish_backup_request::Outcome;
use canopy_proto::system::v1::{
    BackupWork, BeginBackupRequest, BeginBackupResponse, FinishBackupRequest, FinishBackupResponse,
    RecordBackupRequest, ReportBackupRequest, ReportBackupResponse, ReserveBackupRequest,
};
use prost::Message;

/// The one row, under [`SELF`].
const BACKUP: Table<Backup> = Table::new(1, "backup", 1);

/// Key of a table's only row.
const SELF: [u8; 1] = [0];

/// How often a backup is begun before it is given up: a vault on which the
/// server dies must not have it die for ever.
const ATTEMPTS_MAX: u32 = 3;

/// How long a worker may say nothing before the job counts it as gone, and how
/// long a job waits before it asks again to be begun. A worker reports several
/// times in it.
const LEASE_MS: i64 = 10_000;

/// The module of `org/<id>/job/backup/<id>`.
pub fn backup() -> Module {
    Module::new("backup")
        .prepared_command(methods::CREATE_BACKUP, prepare_create, create)
        .query(methods::GET_BACKUP, get)
        .command(methods::DELETE_BACKUP, delete)
        .command(backup_effects::BEGIN_BACKUP, begin)
        .command(backup_effects::REPORT_BACKUP, report)
        .command(backup_effects::FINISH_BACKUP, finish)
        .on_wake(woken)
}

fn org_of(cx: &Context<'_>) -> Result<Address, Refusal> {
    cx.address.org_address().ok_or_else(|| Refusal::new(Code::Internal, "a backup stands outside of any org"))
}

/// Whose vault is asked for.
fn asked(request: &CreateBackupRequest, cx: &Context<'_>) -> Result<Address, Refusal> {
    let invalid = |reason: String| Refusal::invalid("parent", reason);
    let address = Address::parse(&request.parent).map_err(|e| invalid(e.to_string()))?;
    let has_vault = matches!(address.kind(), Some(Kind::Org | Kind::Project | Kind::Module(_)));
    if has_vault && address.org_address() == cx.address.org_address() {
        Ok(address)
    } else {
        Err(invalid(format!("`{address}` is no org, project or module")))
    }
}

fn prepare_create(_: &State<'_>, request: &CreateBackupRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => {
            asked(request, cx)?;
            let target = org_of(cx)?;
            let reserve = ReserveBackupRequest {
                org: target.to_string(),
                backup: cx.address.to_string(),
                request_id: String::new(),
            };
            let request = reserve.encode_to_vec().into();
            Ok(Some(Step::Ask { target, method: org_effects::RESERVE_BACKUP.path, request }))
        }
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

/// Tells the org how the backup is now.
fn tell_org(draft: &mut Draft, cx: &Context<'_>, backup: &Wire<Backup>) -> Result<(), Refusal> {
    let target = org_of(cx)?;
    let record =
        RecordBackupRequest { org: target.to_string(), backup: Some(backup.clone()), request_id: String::new() };
    draft.effect(target, org_effects::RECORD_BACKUP, &record);
    Ok(())
}

/// Made of ids alone, and of the org's too: the same request id may make
/// backups of the same id in two orgs.
fn file_name(cx: &Context<'_>) -> Result<String, Refusal> {
    match (org_of(cx)?.id(), cx.address.id()) {
        (Some(org), Some(backup)) => Ok(format!("{org}-{backup}.backup")),
        _ => Err(Refusal::new(Code::Internal, "a backup's address holds no ids")),
    }
}

fn create(
    state: &State<'_>,
    request: CreateBackupRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Backup>, Refusal> {
    let creator = cx.caller()?;
    let address = asked(&request, cx)?;
    if state.get(&BACKUP, &SELF)?.is_some() {
        return Err(Refusal::new(Code::AlreadyExists, "this backup exists already"));
    }
    let row = Wire::new(&Backup {
        name: cx.address.to_string(),
        address: address.to_string(),
        state: BackupState::Pending.into(),
        file_name: file_name(cx)?,
        creator: creator.to_string(),
        create_time_ms: cx.now_ms,
        ..Backup::default()
    });
    draft.insert(&BACKUP, SELF, &row);
    draft.wake_at_ms(cx.now_ms + LEASE_MS);
    tell_org(draft, cx, &row)?;
    draft.detail("address", address.as_str());
    draft.settle();
    Ok(row)
}

/// The row, and what it says; also of one whose file is still to be removed.
fn stored(state: &State<'_>, cx: &Context<'_>) -> Result<(Wire<Backup>, Backup), Refusal> {
    let row = state.get(&BACKUP, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))?;
    let backup = decode(&row)?;
    Ok((row, backup))
}

fn the_backup(state: &State<'_>, cx: &Context<'_>) -> Result<(Wire<Backup>, Backup), Refusal> {
    stored(state, cx).and_then(|(row, backup)| match backup.delete_time_ms {
        0 => Ok((row, backup)),
        _ => Err(Refusal::not_found(cx.address.as_str())),
    })
}

fn get(state: &State<'_>, request: GetBackupRequest, cx: &Context<'_>) -> Result<Wire<Backup>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    Ok(the_backup(state, cx)?.0)
}

fn delete(
    state: &State<'_>,
    request: DeleteBackupRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Backup>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let (before, mut backup) = the_backup(state, cx)?;
    backup.delete_time_ms = cx.now_ms;
    // The row stays until the worker has removed the file.
    draft.wake_at_ms(cx.now_ms + LEASE_MS);
    let after = change(draft, &before, &backup);
    tell_org(draft, cx, &after)?;
    draft.settle();
    Ok(after)
}

fn change(draft: &mut Draft, before: &Wire<Backup>, backup: &Backup) -> Wire<Backup> {
    let after = before.updated(backup, None);
    draft.put(&BACKUP, SELF, Some(before), &after);
    after
}

fn fail(backup: &mut Backup, error: String, cx: &Context<'_>) {
    backup.set_state(BackupState::Failed);
    backup.error = error;
    backup.bytes = 0;
    backup.finish_time_ms = cx.now_ms;
}

fn begin(
    state: &State<'_>,
    _: BeginBackupRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<BeginBackupResponse, Refusal> {
    let (before, mut backup) = stored(state, cx)?;
    let mut answer = BeginBackupResponse {
        address: backup.address.clone(),
        file_name: backup.file_name.clone(),
        ..BeginBackupResponse::default()
    };
    if backup.delete_time_ms > 0 {
        answer.set_work(BackupWork::Remove);
        return Ok(answer);
    }
    if !matches!(backup.state(), BackupState::Pending | BackupState::Running) {
        return Ok(answer);
    }
    if backup.attempts >= ATTEMPTS_MAX {
        // What stopped them is not known here: most likely the process died.
        fail(&mut backup, format!("it was begun {ATTEMPTS_MAX} times, and broken off each time"), cx);
        draft.wake_at_ms(0);
        answer.set_work(BackupWork::Remove);
    } else {
        backup.set_state(BackupState::Running);
        backup.attempts += 1;
        backup.bytes = 0;
        draft.wake_at_ms(cx.now_ms + LEASE_MS);
        answer.set_work(BackupWork::Write);
    }
    answer.attempt = backup.attempts;
    let after = change(draft, &before, &backup);
    tell_org(draft, cx, &after)?;
    Ok(answer)
}

/// The backup that a worker speaks of, where it still concerns it.
fn of_attempt(state: &State<'_>, attempt: u32, cx: &Context<'_>) -> Result<(Wire<Backup>, Backup), Refusal> {
    let (before, backup) = the_backup(state, cx)?;
    // The lease may have run out while the worker lived: it still counts.
    let open = matches!(backup.state(), BackupState::Pending | BackupState::Running);
    if open && backup.attempts == attempt {
        Ok((before, backup))
    } else {
        Err(Refusal::new(Code::FailedPrecondition, "this attempt is over"))
    }
}

fn report(
    state: &State<'_>,
    request: ReportBackupRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ReportBackupResponse, Refusal> {
    let (before, mut backup) = of_attempt(state, request.attempt, cx)?;
    backup.set_state(BackupState::Running);
    backup.bytes = request.bytes;
    draft.wake_at_ms(cx.now_ms + LEASE_MS);
    change(draft, &before, &backup);
    Ok(ReportBackupResponse {})
}

fn finish(
    state: &State<'_>,
    request: FinishBackupRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<FinishBackupResponse, Refusal> {
    let outcome = request.outcome.ok_or_else(|| Refusal::invalid("outcome", "is required"))?;
    if matches!(outcome, Outcome::Removed(_)) {
        let (before, backup) = stored(state, cx)?;
        if backup.delete_time_ms > 0 {
            draft.delete(&BACKUP, SELF, &before);
            draft.wake_at_ms(0);
        }
        return Ok(FinishBackupResponse {});
    }
    let (before, mut backup) = of_attempt(state, request.attempt, cx)?;
    match outcome {
        Outcome::File(file) => {
            backup.set_state(BackupState::Complete);
            backup.cursor = file.cursor;
            backup.bytes = file.bytes;
            backup.sha256 = file.sha256;
            backup.snapshot_time_ms = file.snapshot_time_ms;
            backup.finish_time_ms = cx.now_ms;
            draft.wake_at_ms(0);
        }
        Outcome::Error(error) => {
            fail(&mut backup, error, cx);
            draft.wake_at_ms(0);
        }
        Outcome::PutBack(_) | Outcome::Removed(_) => {
            backup.set_state(BackupState::Pending);
            backup.attempts = backup.attempts.saturating_sub(1);
            backup.bytes = 0;
            draft.wake_at_ms(cx.now_ms + LEASE_MS);
        }
    }
    let after = change(draft, &before, &backup);
    tell_org(draft, cx, &after)?;
    Ok(FinishBackupResponse {})
}

/// Nothing was heard for a while: whatever is left to do waits for a worker
/// again, and the commit tells it so.
fn woken(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let Some(before) = state.get(&BACKUP, &SELF)? else { return Ok(()) };
    let mut backup = decode(&before)?;
    let was = backup.state();
    if backup.delete_time_ms == 0 {
        match was {
            BackupState::Pending => {}
            BackupState::Running => backup.set_state(BackupState::Pending),
            _ => return Ok(()),
        }
    }
    draft.wake_at_ms(cx.now_ms + LEASE_MS);
    let after = change(draft, &before, &backup);
    if backup.state() != was {
        tell_org(draft, cx, &after)?;
    }
    Ok(())
}
