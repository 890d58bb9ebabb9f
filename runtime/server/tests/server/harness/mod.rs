//! A whole server in the test's process, reached as clients reach it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod command_line;
pub mod mailbox;
pub mod phone;
pub mod requests;
pub mod world;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use canopy::boot::{self, Running};
use canopy::edge::codec::BytesCodec;
use canopy_config::{NodeConfig, SignUp, TlsMode};
use canopy_domain::{Address, Draft, Role, Wire};
use canopy_proto::chat::v1::chat_client::ChatClient;
use canopy_proto::chat::v1::{Channel as ChatChannel, CreateChannelRequest, Message, SendMessageRequest};
use canopy_proto::identity::v1::accounts_client::AccountsClient;
use canopy_proto::identity::v1::identity_client::IdentityClient;
use canopy_proto::identity::v1::passkeys_client::PasskeysClient;
use canopy_proto::identity::v1::verification_client::VerificationClient;
use canopy_proto::identity::v1::{Account, LogInRequest, LogInResponse, RegisterRequest};
use canopy_proto::ops::v1::account_admin_client::AccountAdminClient;
use canopy_proto::ops::v1::backups_client::BackupsClient;
use canopy_proto::ops::v1::keys_client::KeysClient;
use canopy_proto::ops::v1::mails_client::MailsClient;
use canopy_proto::ops::v1::ops_client::OpsClient;
use canopy_proto::ops::v1::{Backup, CreateBackupRequest};
use canopy_proto::org::v1::environments_client::EnvironmentsClient;
use canopy_proto::org::v1::invitations_client::InvitationsClient;
use canopy_proto::org::v1::orgs_client::OrgsClient;
use canopy_proto::org::v1::projects_client::ProjectsClient;
use canopy_proto::org::v1::quotas_client::QuotasClient;
use canopy_proto::org::v1::{
    CreateOrgRequest, CreateProjectRequest, DeleteOrgRequest, DeleteProjectRequest, Grant, GrantRoleRequest, Org,
    Project,
};
use canopy_proto::system::v1::Origin;
use canopy_store::Commit;
use http::uri::PathAndQuery;
use metrics_exporter_prometheus::PrometheusHandle;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

/// Password of everybody in tests.
pub const PASSWORD: &str = "correct horse battery";

/// For what should take milliseconds: it fails a hung test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a free port, with its data in a temporary directory.
pub struct Server {
    pub running: Running,
    pub config: NodeConfig,
    dir: tempfile::TempDir,
}

/// The configuration of tests: plain text, open sign-up, cheap hashing.
pub fn config(dir: &Path) -> NodeConfig {
    let mut config = NodeConfig { data_dir: dir.join("data"), ..NodeConfig::default() };
    config.edge.listen = "127.0.0.1:0".parse().expect("an address");
    config.edge.tls = TlsMode::Off;
    config.identity.sign_up = SignUp::Open;
    // Below the configuration's own bound: tests hash many passwords.
    config.identity.argon2_memory_kib = 64;
    config.identity.argon2_passes = 1;
    // The clock is the machine's: a code may not run out between app and server.
    config.identity.totp_tolerance_s = 30;
    config.identity.passkey_rp_id = "canopy.example.org".into();
    config
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        Self::start_measured(None, change).await
    }

    /// With what renders the metrics of this process.
    pub async fn start_measured(metrics: Option<PrometheusHandle>, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(dir.path());
        change(&mut config);
        let running = boot::start(&config, metrics).await.expect("the server starts");
        Self { running, config, dir }
    }

    /// Stops the server and starts it again on the same data, on a new port.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same, with another configuration.
    pub async fn restart_with(self, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let Self { running, mut config, dir } = self;
        running.stop().await.expect("the server stops");
        change(&mut config);
        let running = boot::start(&config, None).await.expect("the server starts again");
        Self { running, config, dir }
    }

    /// Stops the server, has something done to its data, and starts it again.
    pub async fn restart_after(self, meanwhile: impl AsyncFnOnce(&NodeConfig)) -> Self {
        let Self { running, config, dir } = self;
        running.stop().await.expect("the server stops");
        meanwhile(&config).await;
        let running = boot::start(&config, None).await.expect("the server starts again");
        Self { running, config, dir }
    }

    /// Stops the server, and keeps its data.
    pub async fn stop_and_keep(self) -> (NodeConfig, tempfile::TempDir) {
        self.running.stop().await.expect("the server stops");
        (self.config, self.dir)
    }

    pub async fn stop(self) {
        self.running.stop().await.expect("the server stops");
    }

    /// Writes into a partition past its actor, once that sleeps.
    pub async fn write_past_actor(&self, address: &str, draft: Draft) {
        let commit = Commit {
            time_ms: canopy_actors::now_ms(),
            principal: String::new(),
            origin: Origin::default(),
            request_id: String::new(),
            method: canopy_proto::methods::account_effects::RECORD_SESSION.path,
            changes: draft.into_parts().changes,
            effects: Vec::new(),
            wake_at_ms: None,
            shreds: Vec::new(),
            record: None,
        };
        let address = Address::parse(address).expect("an address");
        let mut look = tokio::time::interval(Duration::from_millis(5));
        let asleep = async {
            loop {
                if let Ok(writer) = self.running.node.store().writer(&address, &[]).await {
                    return writer;
                }
                look.tick().await;
            }
        };
        let mut writer = tokio::time::timeout(PATIENCE, asleep).await.expect("it falls asleep");
        writer.submit(commit).await.expect("it is written");
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.running.address)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.config.data_dir.clone()
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.url()).expect("a URL");
        endpoint.connect().await.expect("a connection")
    }

    /// A connection from one of the machine's loopback addresses.
    pub async fn channel_from(&self, address: &str) -> Channel {
        let endpoint = Endpoint::from_shared(self.url()).expect("a URL");
        let address = address.parse().expect("an address");
        endpoint.local_address(Some(address)).connect().await.expect("a connection")
    }

    /// A caller without a token.
    pub async fn nobody(&self) -> Caller {
        Caller { channel: self.channel().await, token: Token(None), account: String::new(), session: String::new() }
    }

    /// Registers somebody and logs them in.
    pub async fn person(&self, email: &str) -> Caller {
        self.register(email, "").await;
        self.log_in(email).await
    }

    /// The sys-admin, if this is the first to sign up with the token.
    pub async fn sys_admin(&self, email: &str) -> Caller {
        self.register(email, self.running.sign_up_token.expose()).await;
        self.log_in(email).await
    }

    pub async fn register(&self, email: &str, sign_up_token: &str) {
        self.nobody().await.register(email, sign_up_token).await;
    }

    pub async fn log_in(&self, email: &str) -> Caller {
        self.nobody().await.log_in(email).await
    }
}

/// The access token of a caller, as an interceptor.
#[derive(Clone)]
pub struct Token(pub Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub type Authorised = InterceptedService<Channel, Token>;

/// Somebody with a connection.
#[derive(Clone)]
pub struct Caller {
    pub channel: Channel,
    pub token: Token,
    /// `account/<id>`
    pub account: String,
    /// `session/<id>`
    pub session: String,
}

impl Caller {
    pub fn of(channel: Channel, response: &LogInResponse) -> Self {
        let credentials = response.credentials.as_ref().expect("credentials");
        let session = response.session.as_ref().expect("a session").decode().expect("a session");
        Self { channel, token: bearer(&credentials.access_token), account: session.account, session: session.name }
    }

    /// A caller without a token, at a server anywhere.
    pub async fn at(url: &str) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::from_shared(url.to_owned()).expect("a URL").connect().await?;
        Ok(Self { channel, token: Token(None), account: String::new(), session: String::new() })
    }

    pub async fn register(&self, email: &str, sign_up_token: &str) {
        let account = Account { email: email.into(), display_name: email.into(), ..Account::default() };
        let request = RegisterRequest {
            account: Some(Wire::new(&account)),
            password: PASSWORD.into(),
            sign_up_token: sign_up_token.into(),
            request_id: String::new(),
        };
        self.identity().register(request).await.expect("registration");
    }

    pub async fn log_in(&self, email: &str) -> Self {
        let request = LogInRequest { email: email.into(), password: PASSWORD.into(), ..LogInRequest::default() };
        let response = self.identity().log_in(request).await.expect("log-in").into_inner();
        Self::of(self.channel.clone(), &response)
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { token: bearer(token), ..self.clone() }
    }

    /// Logs somebody in: with the answer's refresh token.
    pub async fn open_session(&self, email: &str) -> LogInResponse {
        let request = LogInRequest { email: email.into(), password: PASSWORD.into(), ..LogInRequest::default() };
        self.identity().log_in(request).await.expect("log-in").into_inner()
    }

    fn grpc(&self) -> Grpc<Authorised> {
        Grpc::new(InterceptedService::new(self.channel.clone(), self.token.clone()))
    }

    /// A unary call of `package.Service/Method` with any bytes as its request.
    pub async fn raw(&self, path: &str, request: impl Into<Bytes>) -> Result<Bytes, Status> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
        let path = PathAndQuery::try_from(format!("/{path}")).expect("a path");
        Ok(grpc.unary(Request::new(request.into()), path, BytesCodec).await?.into_inner())
    }

    /// As [`Caller::raw`], where the answer is a stream.
    pub async fn raw_stream(&self, path: &str, request: impl Into<Bytes>) -> Result<Streaming<Bytes>, Status> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
        let path = PathAndQuery::try_from(format!("/{path}")).expect("a path");
        Ok(grpc.server_streaming(Request::new(request.into()), path, BytesCodec).await?.into_inner())
    }

    pub fn identity(&self) -> IdentityClient<Authorised> {
        IdentityClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn verification(&self) -> VerificationClient<Authorised> {
        VerificationClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn passkeys(&self) -> PasskeysClient<Authorised> {
        PasskeysClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn accounts(&self) -> AccountsClient<Authorised> {
        AccountsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn account_admin(&self) -> AccountAdminClient<Authorised> {
        AccountAdminClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn mails(&self) -> MailsClient<Authorised> {
        MailsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn invitations(&self) -> InvitationsClient<Authorised> {
        InvitationsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn orgs(&self) -> OrgsClient<Authorised> {
        OrgsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn projects(&self) -> ProjectsClient<Authorised> {
        ProjectsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn quotas(&self) -> QuotasClient<Authorised> {
        QuotasClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn environments(&self) -> EnvironmentsClient<Authorised> {
        EnvironmentsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn chat(&self) -> ChatClient<Authorised> {
        ChatClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn ops(&self) -> OpsClient<Authorised> {
        OpsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn keys(&self) -> KeysClient<Authorised> {
        KeysClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    pub fn backups(&self) -> BackupsClient<Authorised> {
        BackupsClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    /// Begins a backup of whatever `parent` names.
    pub async fn create_backup(&self, parent: &str) -> Backup {
        let request = CreateBackupRequest { parent: parent.into(), request_id: String::new() };
        let created = self.backups().create_backup(request).await.expect("a backup");
        created.into_inner().decode().expect("a backup")
    }

    pub async fn create_org(&self, slug: &str) -> Org {
        let org = Org { slug: slug.into(), title: slug.into(), ..Org::default() };
        let request = CreateOrgRequest { org: Some(Wire::new(&org)), request_id: String::new() };
        self.orgs().create_org(request).await.expect("an org").into_inner().decode().expect("an org")
    }

    pub async fn delete_org(&self, name: &str) -> Org {
        let request = DeleteOrgRequest { name: name.into(), ..DeleteOrgRequest::default() };
        self.orgs().delete_org(request).await.expect("a deletion").into_inner().decode().expect("an org")
    }

    pub async fn delete_project(&self, name: &str) -> Project {
        let request = DeleteProjectRequest { name: name.into(), ..DeleteProjectRequest::default() };
        let deleted = self.projects().delete_project(request).await.expect("a deletion");
        deleted.into_inner().decode().expect("a project")
    }

    pub async fn create_project(&self, org: &str, slug: &str) -> Project {
        let project = Project { slug: slug.into(), ..Project::default() };
        let request =
            CreateProjectRequest { parent: org.into(), project: Some(Wire::new(&project)), request_id: String::new() };
        let created = self.projects().create_project(request).await.expect("a project");
        created.into_inner().decode().expect("a project")
    }

    /// A channel of a project: its name.
    pub async fn create_channel(&self, project: &str, slug: &str) -> String {
        let channel = ChatChannel { slug: slug.into(), ..ChatChannel::default() };
        let request = CreateChannelRequest {
            parent: format!("{project}/chat"),
            channel: Some(Wire::new(&channel)),
            request_id: String::new(),
        };
        let created = self.chat().create_channel(request).await.expect("a channel");
        created.into_inner().decode().expect("a channel").name
    }

    pub async fn send(&self, channel: &str, text: &str) -> Message {
        let sent = self.chat().send_message(message(channel, text)).await.expect("a message");
        sent.into_inner().decode().expect("a message")
    }

    pub async fn grant(&self, account: &str, on: &str, role: Role) {
        let grant = Grant { account: account.into(), on: on.into(), role: role.into(), ..Grant::default() };
        let request = GrantRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
        self.orgs().grant_role(request).await.expect("a grant");
    }
}

/// A request to send a message.
pub fn message(channel: &str, text: &str) -> SendMessageRequest {
    let message = Message { text: text.into(), ..Message::default() };
    SendMessageRequest { parent: channel.into(), message: Some(Wire::new(&message)), request_id: String::new() }
}

/// A text that takes as many bytes on disk: nothing in it comes twice.
pub fn incompressible(bytes: usize) -> String {
    // Knuth's linear congruential generator, of which the upper bits are good.
    let next = |x: &u64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    let letters =
        std::iter::successors(Some(1), next).map(|x| char::from(b'0' + u8::try_from(x >> 58).expect("6 bits")));
    letters.take(bytes).collect()
}

pub fn bearer(token: &str) -> Token {
    Token(Some(MetadataValue::from_str(&format!("Bearer {token}")).expect("a token is ASCII")))
}

/// What a call was refused with.
#[track_caller]
pub fn refused<T>(answer: Result<T, Status>, code: Code) -> Status {
    let Err(status) = answer else { panic!("it is not refused") };
    assert_eq!(status.code(), code, "{status:?}");
    status
}
