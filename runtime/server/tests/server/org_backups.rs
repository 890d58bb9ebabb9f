//! Backups of an org's vaults, made while the server serves: who asks for one
//! gets it once, whatever happens meanwhile, and nobody else does.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use canopy::telemetry;
use canopy_domain::Address;
use canopy_proto::ops::v1::{
    Backup, BackupState, CreateBackupRequest, DeleteBackupRequest, GetBackupRequest, ListBackupsRequest,
};
use futures::future::join_all;
use tonic::{Code, Status};

use crate::harness::{Caller, Server};

/// For what should take a moment: it fails a hung test.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

async fn get(caller: &Caller, name: &str) -> Result<Backup, Status> {
    let request = GetBackupRequest { name: name.into() };
    Ok(caller.backups().get_backup(request).await?.into_inner().decode().expect("a backup"))
}

async fn create(caller: &Caller, parent: &str, request_id: &str) -> Result<Backup, Status> {
    let request = CreateBackupRequest { parent: parent.into(), request_id: request_id.into() };
    Ok(caller.backups().create_backup(request).await?.into_inner().decode().expect("a backup"))
}

async fn delete(caller: &Caller, name: &str, request_id: &str) -> Result<Backup, Status> {
    let request = DeleteBackupRequest { name: name.into(), request_id: request_id.into() };
    Ok(caller.backups().delete_backup(request).await?.into_inner().decode().expect("a backup"))
}

/// All backups of an org, by pages of a size.
async fn listed(caller: &Caller, org: &str, page_size: i32) -> Vec<Backup> {
    let mut request = ListBackupsRequest { parent: org.into(), page_size, page_token: String::new() };
    let mut backups = Vec::new();
    loop {
        let page = caller.backups().list_backups(request.clone()).await.expect("a page").into_inner();
        assert!(page_size == 0 || page.backups.len() <= page_size as usize);
        backups.extend(page.backups.iter().map(|row| row.decode().expect("a backup")));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return backups;
        }
    }
}

/// Looks until a condition holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let mut look = tokio::time::interval(LOOK);
    let looking = async {
        while !holds().await {
            look.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("{what} in time"));
}

/// The backup once it is complete or has failed, and the org's list says so too.
async fn ended(caller: &Caller, name: &str) -> Backup {
    let is_over = |backup: &Backup| matches!(backup.state(), BackupState::Complete | BackupState::Failed);
    let org = name.split("/job/").next().expect("an org").to_owned();
    until("a backup ends", async || {
        listed(caller, &org, 0).await.iter().any(|backup| backup.name == name && is_over(backup))
    })
    .await;
    let backup = get(caller, name).await.expect("a backup");
    assert!(is_over(&backup), "{backup:?}");
    backup
}

fn file(server: &Server, backup: &Backup) -> PathBuf {
    server.config.backup_dir().join(&backup.file_name)
}

/// Files in the backup directory.
fn files(server: &Server) -> BTreeSet<String> {
    let entries = std::fs::read_dir(server.config.backup_dir()).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// That a file is there, is what its backup says, and opens whole.
async fn check_file(server: &Server, backup: &Backup) {
    assert_eq!(backup.state(), BackupState::Complete, "{backup:?}");
    let path = file(server, backup);
    let address = Address::parse(&backup.address).expect("an address");
    let verified = server.running.node.store().verify_backup(&address, &path, |_| true).await.expect("a good file");
    assert_eq!(
        (verified.cursor, verified.bytes, &verified.sha256, verified.time_ms),
        (backup.cursor, backup.bytes, &backup.sha256, backup.snapshot_time_ms)
    );
    let metadata = std::fs::metadata(&path).expect("a file");
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (backup.bytes, 0o600));
    assert!(backup.finish_time_ms >= backup.snapshot_time_ms && backup.snapshot_time_ms >= backup.create_time_ms);
    assert_eq!((backup.delete_time_ms, backup.error.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_made_while_people_write() {
    // No other test of this program has the process's one recorder.
    let metrics = telemetry::start_metrics().expect("nobody else counts in this process");
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    let first = ada.send(&channel, "first").await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = {
        let (ada, channel) = (ada.clone(), channel.clone());
        tokio::spawn(async move {
            while stopped.try_recv().is_err() {
                ada.send(&channel, &"more and more ".repeat(500)).await;
            }
        })
    };
    let mut cursor = 0;
    for _ in 0..3 {
        for (parent, address) in [
            ("org/acme", org.clone()),
            (&org, org.clone()),
            ("org/acme/project/web", project.clone()),
            ("org/acme/project/web/chat", format!("{project}/chat")),
        ] {
            let created = ada.create_backup(parent).await;
            assert_eq!((&created.address, &created.creator), (&address, &ada.account));
            assert_eq!((created.state(), created.attempts), (BackupState::Pending, 0));
            assert!(created.name.starts_with(&format!("{org}/job/backup/")), "{}", created.name);
            let by_slug = created.name.replace(&org, "org/acme");
            let backup = ended(&ada, &created.name).await;
            check_file(&server, &backup).await;
            assert_eq!(get(&ada, &by_slug).await.expect("a backup"), backup);
            assert_eq!(backup.attempts, 1);
            if address.ends_with("/chat") {
                assert!(backup.cursor > cursor, "it goes on: {} after {cursor}", backup.cursor);
                cursor = backup.cursor;
            }
        }
    }
    stop.send(()).expect("the writer lives");
    writer.await.expect("it could write all the time");
    assert!(!first.name.is_empty());

    let observed = root.ops().observe(canopy_proto::ops::v1::ObserveRequest::default()).await.expect("a tree");
    let tree = observed.into_inner().root.expect("a root");
    let worker = tree.children.iter().find(|child| child.id == "backups").expect("the worker is in the tree");
    assert!(worker.messages_handled > 0 && !worker.state.is_empty(), "{worker:?}");
    let counted = metrics.render();
    for name in ["jobs_total{outcome=\"complete\"}", "bytes_total", "seconds_count", "queue_jobs"] {
        let name = format!("canopy_backup_{name} ");
        let value =
            counted.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{name}: {counted}"));
        assert_eq!(value == "0", name.contains("queue"), "{name}: {value}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_listed_in_pages_and_deleted_with_their_files() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(ada.create_backup("org/acme").await.name);
    }
    for name in &names {
        check_file(&server, &ended(&ada, name).await).await;
    }
    names.sort();
    for page_size in [1, 2, 5, 0] {
        let backups = listed(&ada, &org, page_size).await;
        assert_eq!(backups.iter().map(|backup| backup.name.clone()).collect::<Vec<_>>(), names, "by {page_size}");
    }
    assert_eq!(files(&server).len(), 5);

    let gone = get(&ada, &names[2]).await.expect("a backup");
    let deleted = delete(&ada, &names[2], "once").await.expect("it is deleted");
    assert!(deleted.delete_time_ms > 0);
    assert_eq!(delete(&ada, &names[2], "once").await.expect("as before"), deleted);
    assert_eq!(delete(&ada, &names[2], "twice").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(get(&ada, &names[2]).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(listed(&ada, "org/acme", 0).await.len(), 4);
    until("the file goes", async || !file(&server, &gone).exists()).await;

    // What is deleted at once, in whatever state it is, leaves no file either.
    for _ in 0..5 {
        let name = ada.create_backup("org/acme").await.name;
        delete(&ada, &name, "").await.expect("it is deleted");
    }
    let kept: BTreeSet<_> = listed(&ada, &org, 0).await.into_iter().map(|backup| backup.file_name).collect();
    assert_eq!(kept.len(), 4);
    until("all files go", async || files(&server) == kept).await;
    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    for backup in listed(&ada, &org, 0).await {
        check_file(&server, &backup).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_makes_one_backup() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let other = ada.create_org("ajax").await.name;
    bob.create_org("bobs").await;
    let first = create(&ada, &org, "one").await.expect("a backup");
    assert_eq!(create(&ada, &org, "one").await.expect("the same"), first);
    let backup = ended(&ada, &first.name).await;
    assert_eq!(create(&ada, &org, "one").await.expect("the first answer"), first);
    let elsewhere = create(&ada, &other, "one").await.expect("another org's");
    let elsewhere = ended(&ada, &elsewhere.name).await;
    assert_ne!(elsewhere.file_name, backup.file_name);
    for backup in [&backup, &elsewhere] {
        check_file(&server, backup).await;
    }
    let project = ada.create_project(&org, "web").await.name;
    assert_eq!(create(&ada, &project, "one").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(listed(&ada, &org, 0).await, *std::slice::from_ref(&backup));
    assert_eq!(files(&server).len(), 2);

    // Whoever runs another org learns nothing, and changes nothing.
    let refusals = [
        create(&bob, &org, "one").await.map(drop),
        create(&bob, "org/acme", "").await.map(drop),
        get(&bob, &backup.name).await.map(drop),
        delete(&bob, &backup.name, "").await.map(drop),
        bob.backups()
            .list_backups(ListBackupsRequest { parent: org.clone(), ..ListBackupsRequest::default() })
            .await
            .map(drop),
    ];
    for refused in refusals {
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(get(&ada, &backup.name).await.expect("a backup"), backup);
    assert!(listed(&bob, "org/bobs", 0).await.is_empty());
    server.stop().await;
}

/// Whatever the moment at which the server stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_loses_no_backup() {
    let mut server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    for round in 1..=2 {
        let ada = server.log_in("ada@example.org").await;
        for _ in 0..4 {
            ada.create_backup(&org).await;
        }
        server = server.restart().await;
        let ada = server.log_in("ada@example.org").await;
        let backups = listed(&ada, &org, 0).await;
        assert_eq!(backups.len(), round * 4);
        for backup in backups {
            check_file(&server, &ended(&ada, &backup.name).await).await;
        }
    }
    assert!(files(&server).iter().all(|name| name.ends_with(".backup")), "{:?}", files(&server));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_fails_and_says_why() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let project = ada.create_org("acme").await.name;
    let project = ada.create_project(&project, "web").await.name;
    let failed = ended(&ada, &ada.create_backup(&format!("{project}/chat")).await.name).await;
    assert_eq!((failed.state(), failed.error.as_str()), (BackupState::Failed, "nothing has been stored there"));
    assert!(failed.finish_time_ms > 0 && files(&server).is_empty());

    // A file stands where the directory should be.
    let server = server
        .restart_with(|config| {
            let path = config.data_dir.join("sign-up.token");
            config.backup.dir = Some(path);
        })
        .await;
    let ada = server.log_in("ada@example.org").await;
    let failed = ended(&ada, &ada.create_backup(&project).await.name).await;
    assert_eq!(failed.state(), BackupState::Failed);
    let dir = server.data_dir().display().to_string();
    assert!(!failed.error.is_empty() && !failed.error.contains(&dir), "{}", failed.error);
    delete(&ada, &failed.name, "").await.expect("it is deleted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_keeps_so_many_backups_and_no_more() {
    const BACKUPS_MAX: usize = 100;
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let asked = join_all((0..BACKUPS_MAX + 10).map(|_| create(&ada, &org, ""))).await;
    let (made, refused): (Vec<_>, Vec<_>) = asked.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (BACKUPS_MAX, 10));
    for refused in refused.into_iter().chain([create(&ada, &org, "").await]) {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    }
    assert_eq!(listed(&ada, &org, 0).await.len(), BACKUPS_MAX);
    delete(&ada, &made[0].as_ref().expect("a backup").name, "").await.expect("it is deleted");
    create(&ada, &org, "").await.expect("there is room again");
    assert_eq!(listed(&ada, &org, 0).await.len(), BACKUPS_MAX);
    server.stop().await;
}
