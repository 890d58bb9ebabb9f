//! Keys are rotated and slots change through the API, while people write.

use canopy_proto::chat::v1::ListMessagesRequest;
use canopy_proto::ops::v1::{
    AddKeySlotRequest, KeyVersion, ListKeySlotsRequest, ListKeysRequest, ListOrgKeysRequest, RemoveKeySlotRequest,
    RotateInstallationKeyRequest, RotateOrgKeyRequest, RotateRootKeyRequest, RotateVaultKeyRequest,
};
use tonic::{Code, Status};

use crate::harness::{Caller, Server};

const SECRET: &str = "64 hex digits that nobody repeats";

async fn org_keys(caller: &Caller, org: &str) -> Vec<KeyVersion> {
    let request = ListOrgKeysRequest { name: org.into() };
    caller.keys().list_org_keys(request).await.expect("a list").into_inner().keys
}

async fn texts(caller: &Caller, channel: &str) -> usize {
    let request = ListMessagesRequest { parent: channel.into(), page_size: 1000, ..Default::default() };
    caller.chat().list_messages(request).await.expect("a page").into_inner().messages.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_rotates_while_people_write() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    ada.send(&channel, "first").await;
    let before = org_keys(&ada, "org/acme").await;
    let mut of: Vec<_> = before.iter().map(|key| key.of.clone()).collect();
    of.dedup();
    assert!(of.len() >= 2 && of[0] == org && before.iter().all(|key| key.version == 1), "{before:?}");

    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = {
        let (ada, channel) = (ada.clone(), channel.clone());
        tokio::spawn(async move {
            let mut sent = 0;
            while stopped.try_recv().is_err() {
                ada.send(&channel, &format!("more {sent}")).await;
                sent += 1;
            }
            sent
        })
    };
    for version in 2..5 {
        let answers = [
            root.keys().rotate_root_key(RotateRootKeyRequest {}).await,
            root.keys().rotate_installation_key(RotateInstallationKeyRequest {}).await,
            ada.keys().rotate_org_key(RotateOrgKeyRequest { name: "org/acme".into() }).await,
            ada.keys().rotate_vault_key(RotateVaultKeyRequest { name: format!("{project}/chat") }).await,
        ];
        for answer in answers {
            assert_eq!(answer.expect("a rotation").into_inner().version, version);
        }
    }
    stop.send(()).expect("it writes");
    let sent: usize = writer.await.expect("its messages");
    let after = org_keys(&ada, &org).await;
    assert_eq!(after[0].version, 4);
    let is_known = |key: &KeyVersion| before.iter().any(|old| old.fingerprint == key.fingerprint);
    assert!(!is_known(&after[0]) && after.iter().any(|key| key.of.ends_with("/chat") && !is_known(key)), "{after:?}");
    let listed = root.keys().list_keys(ListKeysRequest {}).await.expect("a list").into_inner().keys;
    let versions: Vec<_> = listed.iter().map(|key| (key.of.as_str(), key.version)).collect();
    assert_eq!(versions, [("root", 4), ("installation", 4), (org.as_str(), 4)]);

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    assert_eq!(texts(&ada, &channel).await, sent + 1);
    server.stop().await;
}

#[tokio::test]
async fn slots_are_added_and_removed_and_the_last_one_stays() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let slots = || async {
        let listed = root.keys().list_key_slots(ListKeySlotsRequest {}).await.expect("a list").into_inner().slots;
        listed.into_iter().map(|slot| (slot.id, slot.kind, slot.own)).collect::<Vec<_>>()
    };
    let first = (1, "key".to_owned(), true);
    assert_eq!(slots().await, std::slice::from_ref(&first));
    let add = |passphrase: &str, key: &str| {
        let request = AddKeySlotRequest { passphrase: passphrase.into(), key: key.into() };
        let mut keys = root.keys();
        async move { keys.add_key_slot(request).await.map(tonic::Response::into_inner) }
    };
    for (passphrase, key) in [("", ""), ("a good long passphrase", &*"0f".repeat(32)), ("short", ""), ("", SECRET)] {
        let status = add(passphrase, key).await.expect_err("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(!status.message().contains(SECRET), "{status}");
    }
    let added = add("a good long passphrase", "").await.expect("a slot");
    assert_eq!((added.id, added.kind.as_str(), added.own), (2, "passphrase", false));
    assert!(added.create_time_ms > 0);
    add("", &"0f".repeat(32)).await.expect("a slot");
    assert_eq!(slots().await.len(), 3);
    let remove = |id: u32| {
        let mut keys = root.keys();
        async move { keys.remove_key_slot(RemoveKeySlotRequest { id }).await.map(drop) }
    };
    let code = |answer: Result<(), Status>| answer.expect_err("it is refused").code();
    for id in [2, 3] {
        remove(id).await.expect("a removal");
        assert_eq!(code(remove(id).await), Code::FailedPrecondition);
    }
    assert_eq!(code(remove(1).await), Code::FailedPrecondition, "the last one stays");
    assert_eq!(slots().await, [first]);
    server.restart().await.stop().await;
}
