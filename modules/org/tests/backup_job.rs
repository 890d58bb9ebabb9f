//! A backup job decides what a worker does, whatever becomes of the worker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

use bytes::Bytes;
use canopy_domain::{
    Address, Code, Context, Draft, Id, Module, NoTokens, Origin, Prepared, Principal, Refusal, Rows, Settings,
};
use canopy_proto::methods::{backup_effects, backups};
use canopy_proto::ops::v1::{Backup, BackupState, CreateBackupRequest, DeleteBackupRequest, GetBackupRequest};
use canopy_proto::system::v1::finish_backup_request::Outcome;
use canopy_proto::system::v1::{
    BackupFile, BackupWork, BeginBackupRequest, BeginBackupResponse, FinishBackupRequest, ReportBackupRequest,
    ReserveBackupResponse,
};
use prost::Message;

/// A job, its time, and what it asked for last.
struct Job {
    module: Module,
    rows: Rows,
    address: Address,
    now_ms: i64,
    wake_at_ms: i64,
    /// Effects of the last decision.
    effects: usize,
}

impl Job {
    /// One that was just asked for.
    fn new() -> Self {
        let id = |n| Id::from_bytes([n; 16]);
        let address = Address::parse(&format!("org/{}/job/backup/{}", id(1), id(2))).unwrap();
        let rows = Rows::default();
        let mut job = Self { module: canopy_org::backup(), rows, address, now_ms: 1_000, wake_at_ms: 0, effects: 0 };
        let parent = job.address.org_address().unwrap().to_string();
        let request = CreateBackupRequest { parent, request_id: String::new() };
        job.tell(backups::CREATE_BACKUP.path, &request).unwrap();
        job
    }

    fn decide(
        &mut self,
        decide: impl FnOnce(&Module, &Rows, &Context<'_>, &mut Draft) -> Result<Bytes, Refusal>,
    ) -> Result<Bytes, Refusal> {
        let id = Id::from_bytes([3; 16]);
        let principal = Principal::Person { account: Address::account(id), session: Address::session(id) };
        let prepared = [Prepared::Answer(Ok(ReserveBackupResponse {}.encode_to_vec().into()))];
        let cx = Context {
            now_ms: self.now_ms,
            entropy: [0; 32],
            address: &self.address,
            principal: &principal,
            origin: &Origin::default(),
            role: None,
            seq: 1,
            prepared: &prepared,
            issuer: &NoTokens::default(),
            settings: Settings::default(),
        };
        let mut draft = Draft::default();
        let answer = decide(&self.module, &self.rows, &cx, &mut draft)?;
        let parts = draft.into_parts();
        self.effects = parts.effects.len();
        self.rows.apply(&parts.changes);
        self.wake_at_ms = parts.wake_at_ms.unwrap_or(self.wake_at_ms);
        Ok(answer)
    }

    fn tell(&mut self, method: &'static str, request: &impl Message) -> Result<Bytes, Refusal> {
        let request = request.encode_to_vec().into();
        self.decide(|module, rows, cx, draft| module.decide(method, rows, &request, cx, draft))
    }

    /// Goes on until it wakes.
    #[track_caller]
    fn wake(&mut self) {
        assert!(self.wake_at_ms > self.now_ms, "it is to wake");
        self.now_ms = self.wake_at_ms;
        self.wake_at_ms = 0;
        self.decide(|module, rows, cx, draft| module.wake(rows, cx, draft).map(|()| Bytes::new())).unwrap();
    }

    fn begin(&mut self) -> (BackupWork, u32) {
        let request = BeginBackupRequest { backup: self.address.to_string(), request_id: String::new() };
        let answer = self.tell(backup_effects::BEGIN_BACKUP.path, &request).unwrap();
        let answer = BeginBackupResponse::decode(answer).unwrap();
        (answer.work(), answer.attempt)
    }

    fn report(&mut self, attempt: u32, bytes: u64) -> Result<(), Code> {
        let request = ReportBackupRequest { attempt, bytes, ..ReportBackupRequest::default() };
        self.tell(backup_effects::REPORT_BACKUP.path, &request).map(drop).map_err(|refusal| refusal.code)
    }

    fn finish(&mut self, attempt: u32, outcome: Outcome) -> Result<(), Code> {
        let request = FinishBackupRequest { attempt, outcome: Some(outcome), ..FinishBackupRequest::default() };
        self.tell(backup_effects::FINISH_BACKUP.path, &request).map(drop).map_err(|refusal| refusal.code)
    }

    fn delete(&mut self) {
        let request = DeleteBackupRequest { name: self.address.to_string(), request_id: String::new() };
        self.tell(backups::DELETE_BACKUP.path, &request).unwrap();
    }

    fn shown(&mut self) -> Option<(BackupState, u32, u64)> {
        let request = GetBackupRequest { name: self.address.to_string() }.encode_to_vec().into();
        let asked = self.decide(|module, rows, cx, _| module.ask(backups::GET_BACKUP.path, rows, &request, cx));
        let backup = Backup::decode(asked.ok()?).unwrap();
        Some((backup.state(), backup.attempts, backup.bytes))
    }
}

fn file() -> Outcome {
    Outcome::File(BackupFile { cursor: 7, bytes: 99, ..BackupFile::default() })
}

#[test]
fn a_worker_that_lives_is_waited_for() {
    let mut job = Job::new();
    assert_eq!(job.shown(), Some((BackupState::Pending, 0, 0)));
    job.wake();
    assert_eq!(job.shown(), Some((BackupState::Pending, 0, 0)), "it still waits, and says so again");
    assert!(job.wake_at_ms > job.now_ms);
    assert_eq!(job.begin(), (BackupWork::Write, 1));
    for bytes in 1..100 {
        job.now_ms = job.wake_at_ms - 1;
        job.report(1, bytes).unwrap();
        assert_eq!(job.shown(), Some((BackupState::Running, 1, bytes)));
    }
    job.finish(1, file()).unwrap();
    assert_eq!((job.effects, job.wake_at_ms), (1, 0), "the org is told");
    assert_eq!(job.shown(), Some((BackupState::Complete, 1, 99)));
    assert_eq!(job.begin(), (BackupWork::Unspecified, 0), "there is nothing more to do");
    assert_eq!(job.finish(1, Outcome::Error("late".into())), Err(Code::FailedPrecondition));
}

#[test]
fn a_worker_that_is_gone_is_missed_a_few_times() {
    let mut job = Job::new();
    for attempt in 1..=3 {
        assert_eq!(job.begin(), (BackupWork::Write, attempt));
        job.wake();
        assert_eq!(job.shown(), Some((BackupState::Pending, attempt, 0)));
    }
    assert_eq!(job.begin(), (BackupWork::Remove, 3), "whatever it left goes");
    assert_eq!((job.shown(), job.wake_at_ms), (Some((BackupState::Failed, 3, 0)), 0));
    job.finish(3, Outcome::Removed(true)).unwrap();
    assert_eq!(job.shown(), Some((BackupState::Failed, 3, 0)), "it stays, to be seen");
    assert_eq!(job.begin().0, BackupWork::Unspecified);
}

#[test]
fn a_worker_that_was_only_late_still_counts() {
    let mut job = Job::new();
    assert_eq!(job.begin(), (BackupWork::Write, 1));
    job.wake();
    job.report(1, 5).unwrap();
    assert_eq!(job.shown(), Some((BackupState::Running, 1, 5)));
    job.wake();
    job.finish(1, file()).unwrap();
    assert_eq!(job.shown(), Some((BackupState::Complete, 1, 99)));

    // But not once another one has begun.
    let mut job = Job::new();
    job.begin();
    job.wake();
    assert_eq!(job.begin(), (BackupWork::Write, 2));
    assert_eq!(job.report(1, 5), Err(Code::FailedPrecondition));
    assert_eq!(job.finish(1, file()), Err(Code::FailedPrecondition));
    job.finish(2, file()).unwrap();
    assert_eq!(job.shown(), Some((BackupState::Complete, 2, 99)));
}

#[test]
fn a_stop_is_no_attempt() {
    let mut job = Job::new();
    for _ in 0..10 {
        assert_eq!(job.begin(), (BackupWork::Write, 1));
        job.finish(1, Outcome::PutBack(true)).unwrap();
        assert_eq!(job.shown(), Some((BackupState::Pending, 0, 0)));
        assert!(job.wake_at_ms > job.now_ms);
    }
}

#[test]
fn what_is_deleted_stays_until_its_file_is_gone() {
    let mut job = Job::new();
    assert_eq!(job.begin(), (BackupWork::Write, 1));
    job.delete();
    assert_eq!(job.effects, 1, "the org is told");
    assert_eq!(job.shown(), None);
    assert_eq!(job.report(1, 5), Err(Code::NotFound));
    assert_eq!(job.finish(1, file()), Err(Code::NotFound));
    for _ in 0..3 {
        assert_eq!(job.begin().0, BackupWork::Remove);
        job.wake();
        assert!(job.wake_at_ms > job.now_ms, "it asks until it is done");
    }
    job.finish(1, Outcome::Removed(true)).unwrap();
    assert!(job.rows.is_empty() && job.wake_at_ms == 0);
}
