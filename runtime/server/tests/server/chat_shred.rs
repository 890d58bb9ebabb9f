//! A deleted channel's keys are destroyed: neither the disk nor a backup gives
//! anything of it back.

use std::fs;
use std::path::{Path, PathBuf};

use canopy::boot;
use canopy_domain::{Address, Reader};
use canopy_proto::chat::v1::{
    DeleteChannelRequest, GetMessageRequest, ListShredCertificatesRequest, SendMessageRequest, ShredCertificate,
};
use canopy_store::{RestoreOptions, Store, export_keys, restore, verify};
use tonic::Code;

use crate::harness::{Caller, Server, message};

const SECRET: &str = "the-quick-brown-secret";

async fn certificates(caller: &Caller, project: &str) -> Vec<ShredCertificate> {
    let request = ListShredCertificatesRequest { parent: format!("{project}/chat"), ..Default::default() };
    let listed = caller.chat().list_shred_certificates(request).await.expect("a list").into_inner();
    listed.certificates.iter().map(|certificate| certificate.decode().expect("a certificate")).collect()
}

/// Deletes a channel, and waits until its keys are gone.
async fn shred(caller: &Caller, project: &str, channel: &str) -> ShredCertificate {
    let request = DeleteChannelRequest { name: channel.into(), request_id: "gone".into(), ..Default::default() };
    caller.chat().delete_channel(request).await.expect("a deletion");
    loop {
        if let Some(found) = certificates(caller, project).await.into_iter().find(|found| found.name == channel) {
            return found;
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The wrapped keys in keyrings whose records name an id: 72 bytes each.
fn wrapped_keys(dir: &Path, id: &[u8; 16]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for path in files(dir).into_iter().filter(|path| path.ends_with("keyring")) {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.strip_prefix(b"canopy records 1\n").unwrap();
        while let Some((frame, after)) = rest.split_first_chunk::<8>() {
            let len = u32::from_be_bytes(*frame.first_chunk().unwrap()) as usize;
            let (payload, after) = after.split_at(len);
            let field = payload.windows(2).position(|window| window == [0x22, 72]);
            if let Some(at) = field.filter(|_| contains(payload, id)) {
                found.push(payload[at + 2..at + 74].to_vec());
            }
            rest = &after[8..];
        }
    }
    found
}

fn id_of(channel: &str) -> [u8; 16] {
    *canopy_domain::Id::parse(channel.rsplit('/').next().unwrap()).unwrap().as_bytes()
}

/// What the feed of a chat still tells: its texts, and how many changes were
/// shredded.
async fn told(store: &Store, chat: &Address) -> (String, usize) {
    let snapshot = store.reader(chat).await.unwrap().snapshot().await.unwrap();
    let (mut text, mut shredded) = (String::new(), 0);
    for seq in 1..=snapshot.seq().unwrap() {
        for change in snapshot.transaction(seq).unwrap().expect("no gap").changes {
            shredded += usize::from(change.shredded);
            for side in [change.before, change.after].into_iter().flatten() {
                text.push_str(&String::from_utf8_lossy(&side));
            }
        }
    }
    (text, shredded)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_channel_is_destroyed_on_the_disk_and_in_later_backups() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let gone = ada.create_channel(&project, "gone").await;
    let kept = ada.create_channel(&project, "kept").await;
    // More than are removed in one transaction.
    for n in 0..510 {
        ada.send(&gone, &format!("{SECRET} {n}")).await;
    }
    let said = ada.send(&kept, "this stays").await.name;
    let data = server.data_dir();
    let keys = wrapped_keys(&data, &id_of(&gone));
    assert_eq!(keys.len(), 1, "a key of its own");

    let certificate = shred(&ada, &project, &gone).await;
    assert!(certificate.shred_time_ms > 0);
    assert_eq!(certificate.key_fingerprints.len(), 1);
    assert_eq!(certificate.key_fingerprints[0].len(), 32);
    // A repeat is told that it was done, though its answer is gone, too.
    // The certificate is durable a moment before the keys go, which nothing
    // can hinder from there on.
    let again = DeleteChannelRequest { name: gone.clone(), request_id: "gone".into(), ..Default::default() };
    let status = loop {
        if let Err(status) = ada.chat().delete_channel(again.clone()).await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let late: SendMessageRequest = message(&gone, "late");
    assert_eq!(ada.chat().send_message(late).await.expect_err("it is gone").code(), Code::NotFound);
    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    let found = ada.chat().get_message(GetMessageRequest { name: said }).await.expect("its neighbour");
    assert_eq!(found.into_inner().decode().unwrap().text, "this stays");
    assert_eq!(certificates(&ada, &project).await, std::slice::from_ref(&certificate));
    let (config, dir) = server.stop_and_keep().await;
    let options = || boot::store_options(&config).unwrap();

    assert_eq!(wrapped_keys(&data, &id_of(&gone)), Vec::<Vec<u8>>::new());
    for path in files(&data) {
        let bytes = fs::read(&path).unwrap();
        assert!(!contains(&bytes, SECRET.as_bytes()), "{}", path.display());
        assert!(!contains(&bytes, &keys[0]), "its key in {}", path.display());
    }

    // What is kept of it is sound, and said to be shredded.
    let mut reports = Vec::new();
    verify(options(), &|_| Vec::new(), |report| reports.push(report)).await.unwrap();
    assert!(reports.iter().all(|report| report.faults.is_empty()), "{reports:?}");
    assert!(reports.iter().map(|report| report.shredded).sum::<u64>() > 1000, "{reports:?}");

    // A backup made after it gives its neighbour back, and nothing of it.
    let chat = Address::parse(&format!("{project}/chat")).unwrap();
    let (backup, bundle, to) = (dir.path().join("backup"), dir.path().join("keys"), dir.path().join("restored"));
    let store = Store::open(options()).unwrap();
    store.back_up(&chat, &backup, 1, |_| true).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    export_keys(&options(), &bundle).unwrap();
    let unlock = options().unlock;
    let wanted = RestoreOptions { backups: vec![backup], bundle, unlock, to: to.clone(), without_shredded: false };
    tokio::task::spawn_blocking(move || restore(&wanted)).await.unwrap().unwrap();
    let mut restored = options();
    restored.dir = to;
    let store = Store::open(restored).unwrap();
    let (text, shredded) = told(&store, &chat).await;
    assert!(text.contains("this stays") && !text.contains(SECRET));
    assert!(shredded > 1000, "{shredded}");
    store.close().await.unwrap();
}
