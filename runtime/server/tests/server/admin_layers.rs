//! What a sys-admin's role rests on beside the session: the device, the place of the log-in, and its age. Whoever
//! lacks one of them is no sys-admin for the moment, and anybody else as before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use canopy::cli::Exit;
use canopy_config::{AdminPlace, NodeConfig, TlsMode};
use canopy_proto::identity::v1::security_client::SecurityClient;
use canopy_proto::identity::v1::{ListSecurityEventsRequest, RefreshRequest, SecurityEvent, SecurityEventKind};
use canopy_proto::ops::v1::{ObserveRequest, SuspendAccountRequest};
use canopy_proto::org::v1::audit_client::AuditClient;
use canopy_proto::org::v1::{AuditEntry, GetOrgRequest, ListAuditEntriesRequest, ListOrgsRequest};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::command_line::run;
use crate::harness::requests::{Target, request};
use crate::harness::{Caller, PASSWORD, Server, Token};

const ROOT: &str = "root@example.org";
/// For what should take milliseconds: it fails a hung test.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is to come.
const LOOK: Duration = Duration::from_millis(20);

/// An authority that issues certificates to devices.
struct Management {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
struct Device {
    cert: String,
    key: String,
}

impl Management {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Device {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["laptop".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Device { cert, key: key.serialize_pem() }
    }
}

/// A server over TLS that knows the devices of `management`.
async fn secured(management: &Management, dir: &Path) -> (Server, PathBuf) {
    let path = dir.join("devices.pem");
    std::fs::write(&path, &management.pem).unwrap();
    let file = path.clone();
    let server = Server::start_with(|config: &mut NodeConfig| {
        config.edge.tls = TlsMode::LocalCa;
        config.edge.admin_client_ca_file = Some(file);
        config.edge.cert_reload_interval_ms = 100;
    })
    .await;
    (server, path)
}

fn url(server: &Server) -> String {
    format!("https://{}", server.running.address)
}

/// A connection that shows a device's certificate, or none.
async fn connect(server: &Server, device: Option<&Device>) -> Channel {
    let ca = server.running.ca_pem.as_deref().expect("its own authority");
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some(device) = device {
        tls = tls.identity(Identity::from_pem(&device.cert, &device.key));
    }
    let endpoint = Endpoint::from_shared(url(server)).unwrap().tls_config(tls).unwrap();
    endpoint.connect().await.expect("a connection")
}

fn nobody(channel: Channel) -> Caller {
    Caller { channel, token: Token(None), account: String::new(), session: String::new() }
}

async fn observe(caller: &Caller) -> Result<(), Status> {
    caller.ops().observe(ObserveRequest::default()).await.map(drop)
}

async fn get_org(caller: &Caller, name: &str) -> Result<(), Status> {
    caller.orgs().get_org(GetOrgRequest { name: name.into() }).await.map(drop)
}

/// Held back, for this reason; what is said of it.
#[track_caller]
fn held(answer: Result<(), Status>, reason: &str) -> String {
    let status = answer.expect_err("it is held back");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert_eq!(info.reason, reason, "{status:?}");
    format!("{}; {}", status.message(), info.metadata["hint"])
}

async fn denials(root: &Caller) -> Vec<AuditEntry> {
    let request = ListAuditEntriesRequest { parent: "system/audit".into(), page_size: 1_000, ..Default::default() };
    let mut audit = AuditClient::with_interceptor(root.channel.clone(), root.token.clone());
    let listed = audit.list_audit_entries(request).await.expect("a list").into_inner().entries;
    let entries = listed.iter().map(|entry| entry.decode().expect("an entry"));
    entries.filter(|entry: &AuditEntry| entry.code == "FAILED_PRECONDITION").collect()
}

async fn events(caller: &Caller) -> Vec<SecurityEvent> {
    let mut security = SecurityClient::with_interceptor(caller.channel.clone(), caller.token.clone());
    let request = ListSecurityEventsRequest { parent: "account/me".into(), ..ListSecurityEventsRequest::default() };
    let events = security.list_security_events(request).await.expect("events").into_inner().events;
    events.iter().map(|event| event.decode().expect("an event")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_device_administers_nothing_and_does_all_else() {
    let dir = tempfile::tempdir().unwrap();
    let management = Management::new("device management");
    let (server, _) = secured(&management, dir.path()).await;
    let good = management.issue(|_| {});
    let known = nobody(connect(&server, Some(&good)).await);
    known.register(ROOT, server.running.sign_up_token.expose()).await;
    known.register("ada@example.org", "").await;
    let ada = known.log_in("ada@example.org").await;
    let theirs = ada.create_org("theirs").await.name;
    let root = known.log_in(ROOT).await;
    let ours = root.create_org("ours").await.name;
    observe(&root).await.expect("the device is known");
    get_org(&root, &theirs).await.expect("a sys-admin sees every org");

    let other = Management::new("device management");
    let cases = [
        ("has no device certificate", None),
        ("an authority that this server does not know", Some(other.issue(|_| {}))),
        ("has expired", Some(management.issue(|params| params.not_after = date_time_ymd(2021, 1, 1)))),
        ("is not good", Some(management.issue(|params| params.not_before = date_time_ymd(2100, 1, 1)))),
        (
            "is not good",
            Some(management.issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ),
    ];
    for (n, (says, device)) in cases.iter().enumerate() {
        let channel = connect(&server, device.as_ref()).await;
        // The token is the same: it is the device that counts, at each call.
        let here = Caller { channel: channel.clone(), ..root.clone() };
        let said = held(observe(&here).await, "DeviceUnknown");
        assert!(said.contains(says), "{said}");
        // What there is and what not is told alike.
        for org in [&theirs, "org/none"] {
            held(get_org(&here, org).await, "DeviceUnknown");
        }
        let name = "account/nobody@example.org".to_owned();
        let suspend = SuspendAccountRequest { name, request_id: String::new() };
        held(here.account_admin().suspend_account(suspend).await.map(drop), "DeviceUnknown");
        let target = Target { org: "system".into(), ..Target::default() };
        let path = "canopy.org.v1.Audit/ExportAudit";
        held(here.raw_stream(path, request(path, &target)).await.map(drop), "DeviceUnknown");
        // A log-in from there changes nothing, and is possible.
        let here = nobody(channel).log_in(ROOT).await;
        held(observe(&here).await, "DeviceUnknown");
        get_org(&here, &ours).await.expect("their own org is no sys-admin's business");
        let project = here.create_project(&ours, &format!("project-{n}")).await.name;
        let chat = here.create_channel(&project, "general").await;
        here.send(&chat, "hello").await;
        // Nobody else is asked for one.
        let ada = Caller { channel: here.channel.clone(), ..ada.clone() };
        get_org(&ada, &theirs).await.expect("an org-admin");
        assert_eq!(observe(&ada).await.expect_err("no sys-admin").code(), Code::PermissionDenied);
    }
    let written = async {
        let mut look = tokio::time::interval(LOOK);
        while denials(&root).await.iter().filter(|entry| entry.method.ends_with("Observe")).count() < cases.len() {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("the installation's audit has them");
    assert!(events(&root).await.iter().all(|event| event.kind() == SecurityEventKind::LoggedIn));
    server.stop().await;
}

/// A connection that is open, and a TLS session that is resumed, are as good as what they have shown is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_file_of_authorities_holds_for_open_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Management::new("first"), Management::new("second"));
    let (server, file) = secured(&first, dir.path()).await;
    let (old, new) = (first.issue(|_| {}), second.issue(|_| {}));
    let root = nobody(connect(&server, Some(&old)).await);
    root.register(ROOT, server.running.sign_up_token.expose()).await;
    let root = root.log_in(ROOT).await;
    observe(&root).await.expect("the device is known");
    let later = Caller { channel: connect(&server, Some(&new)).await, ..root.clone() };
    held(observe(&later).await, "DeviceUnknown");
    std::fs::write(&file, &second.pem).unwrap();
    let taken = async {
        let mut look = tokio::time::interval(LOOK);
        while observe(&root).await.is_ok() {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("the file is read again");
    held(observe(&root).await, "DeviceUnknown");
    observe(&later).await.expect("on the connection of before");
    let anew = Caller { channel: connect(&server, Some(&new)).await, ..root.clone() };
    observe(&anew).await.expect("and on a new one");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_a_device_and_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let management = Management::new("device management");
    let (server, _) = secured(&management, dir.path()).await;
    let device = management.issue(|_| {});
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = file("ca.pem", server.running.ca_pem.as_deref().unwrap());
    let (cert, key) = (file("device.pem", &device.cert), file("device.key", &device.key));
    let password = file("password", PASSWORD);
    nobody(connect(&server, None).await).register(ROOT, server.running.sign_up_token.expose()).await;
    let url = url(&server);
    let done = async |line: String| {
        let (exit, said) = run(&home, &line).await;
        assert_eq!(exit, Exit::Success, "{line}: {said}");
        said
    };
    done(format!("canopy context add here --server {url} --ca {ca}")).await;
    done(format!("canopy identity log-in --email {ROOT} --password @{password}")).await;
    let (exit, said) = run(&home, "canopy ops list-keys").await;
    assert_eq!(exit, Exit::Conflict, "{said}");
    for says in [
        "this server is administered from known devices alone: this connection has no device certificate",
        "DeviceUnknown",
        "--client-cert FILE --client-key FILE",
    ] {
        assert!(said.contains(says), "`{says}` is not in: {said}");
    }
    done(format!("canopy ops list-keys --client-cert {cert} --client-key {key}")).await;
    let (exit, said) = run(&home, &format!("canopy ops list-keys --client-cert {cert}")).await;
    assert_eq!(exit, Exit::Usage, "one of both: {said}");
    let (exit, said) = run(&home, &format!("canopy ops list-keys --client-cert {cert} --client-key {cert}")).await;
    assert!(exit == Exit::Usage && said.contains("holds no private key"), "{said}");
    // The context keeps where they are, and the log-in stays.
    done(format!("canopy context add here --server {url} --ca {ca} --client-cert {cert} --client-key {key}")).await;
    done("canopy ops list-keys".into()).await;
    // What issues the certificate writes it anew in its place.
    let renewed = management.issue(|_| {});
    std::fs::write(&cert, &renewed.cert).unwrap();
    std::fs::write(&key, &renewed.key).unwrap();
    done("canopy ops list-keys".into()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_used_elsewhere_administers_nothing() {
    let server = Server::start_with(|config| config.identity.admin_place = AdminPlace::LogIn).await;
    server.register(ROOT, server.running.sign_up_token.expose()).await;
    let here = server.nobody().await;
    let opened = here.open_session(ROOT).await;
    let root = Caller::of(here.channel.clone(), &opened);
    observe(&root).await.expect("from where it was opened");
    let another_connection = Caller { channel: server.channel().await, ..root.clone() };
    observe(&another_connection).await.expect("over any connection");
    let far = server.channel_from("127.0.0.2").await;
    let program = Endpoint::from_shared(server.url()).unwrap().user_agent("another/1.0").unwrap();
    let program = program.connect().await.unwrap();
    for channel in [&far, &program] {
        let elsewhere = Caller { channel: channel.clone(), ..root.clone() };
        let said = held(observe(&elsewhere).await, "LogInElsewhere");
        assert!(said.contains("used from another network address, or by another program"), "{said}");
        assert!(said.contains("log in from here with `canopy identity log-in`"), "{said}");
        let target = Target { org: "system".into(), ..Target::default() };
        let path = "canopy.org.v1.Audit/ExportAudit";
        held(elsewhere.raw_stream(path, request(path, &target)).await.map(drop), "LogInElsewhere");
        elsewhere.orgs().list_orgs(ListOrgsRequest::default()).await.expect("what everybody may");
    }
    // A refresh from there is no log-in from there.
    let request = RefreshRequest {
        session: root.session.clone(),
        refresh_token: opened.credentials.expect("credentials").refresh_token,
        request_id: String::new(),
    };
    let thief = Caller { channel: far.clone(), ..here.clone() };
    let credentials = thief.identity().refresh(request).await.expect("a refresh").into_inner().credentials;
    let token = credentials.expect("credentials").access_token;
    held(observe(&Caller { channel: far.clone(), ..root.clone() }.with_token(&token)).await, "LogInElsewhere");
    observe(&root.with_token(&token)).await.expect("where it was opened, as before");
    let there = thief.log_in(ROOT).await;
    observe(&there).await.expect("whoever logs in from there");

    // The holder is told, and the installation's audit has it.
    let noted = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            let told = events(&root).await;
            let told: Vec<_> = told.iter().filter(|event| event.kind() == SecurityEventKind::UsedElsewhere).collect();
            if told.iter().map(|event| event.count).sum::<u64>() == 5 && denials(&root).await.len() >= 5 {
                assert!(told.iter().all(|event| event.session == root.session), "{told:?}");
                let of = |peer: &str| told.iter().filter(|event| event.peer.starts_with(peer)).count();
                assert_eq!((of("127.0.0.2:"), of("127.0.0.1:")), (3, 2), "{told:?}");
                return;
            }
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, noted).await.expect("they are written");
    // Who does not ask for it has it as it was.
    let server = server.restart_with(|config| config.identity.admin_place = AdminPlace::Any).await;
    let root = Caller { channel: server.channel_from("127.0.0.2").await, ..root.with_token(&token) };
    observe(&root).await.expect("from anywhere");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administering_ends_some_time_after_the_log_in() {
    let server = Server::start_with(|config| config.identity.admin_log_in_max_s = 3).await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("theirs").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    server.register(ROOT, server.running.sign_up_token.expose()).await;
    let target = Target { channel: channel.clone(), project, org, ..Target::default() };
    let path = "canopy.chat.v1.Chat/Subscribe";
    // On a slow machine the first one is over before it is asked.
    let follow = async {
        loop {
            let root = server.log_in(ROOT).await;
            if let Ok(stream) = root.raw_stream(path, request(path, &target)).await {
                return (root, stream);
            }
        }
    };
    let (root, mut stream) = tokio::time::timeout(PATIENCE, follow).await.expect("a log-in counts for a while");
    let over = async {
        let mut look = tokio::time::interval(LOOK);
        while observe(&root).await.is_ok() {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("it ends");
    let said = held(observe(&root).await, "LogInTooOld");
    assert_eq!(
        said,
        "this server is administered within 1 minutes after a log-in alone; log in again with `canopy identity \
         log-in`, then repeat it"
    );
    root.orgs().list_orgs(ListOrgsRequest::default()).await.expect("the session goes on");
    // So does an open stream, before anything more is delivered.
    ada.send(&channel, "not for the sys-admin any more").await;
    let rest = async {
        loop {
            match stream.message().await {
                Ok(Some(event)) => assert!(!String::from_utf8_lossy(&event).contains("any more"), "it is delivered"),
                other => return other.expect_err("it ends with a reason"),
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, rest).await.expect("the stream ends");
    assert_eq!(end.code(), Code::NotFound, "{end:?}");
    let server = server.restart_with(|config| config.identity.admin_log_in_max_s = 86_400).await;
    observe(&Caller { channel: server.channel().await, ..root }).await.expect("a day is not over");
    server.stop().await;
}
