//! The server as a side of the scenarios about log-ins and sessions.

use canopy_proto::identity::v1::{
    LogInRequest, LogInResponse, RefreshRequest, RefreshResponse, RegisterRequest, Session,
};
use canopy_proto::methods::identity;
use canopy_proto::{Wire, identity::v1::Account};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;

use super::guest::{Guest, PASSWORD, path};
use super::sides::{Canopy, endpoint, scratch};
use crate::LoadError;
use crate::client::{Call, Connection, Endpoint};
use crate::process::ServerProcess;
use crate::scenario::{edge, login, refresh};

/// Log-ins under way at once while sessions are opened.
const OPENING_AT_ONCE: usize = 16;

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

fn email(n: usize) -> String {
    format!("person-{n}@example.org")
}

async fn register(endpoint: &Endpoint, n: usize) -> Result<(), LoadError> {
    let account = Account { email: email(n), ..Account::default() };
    let request =
        RegisterRequest { account: Some(Wire::new(&account)), password: PASSWORD.into(), ..RegisterRequest::default() };
    let call = Call::new(&path(&identity::REGISTER), &request.encode_to_vec());
    Connection::open(endpoint).await?.unary(&call).await.map(drop)
}

fn log_in(n: usize) -> Call {
    let request = LogInRequest { email: email(n), password: PASSWORD.into(), ..LogInRequest::default() };
    Call::new(&path(&identity::LOG_IN), &request.encode_to_vec())
}

impl login::Target for Canopy {
    fn launch(&self, accounts: usize) -> BoxFuture<'_, Result<login::Side, LoadError>> {
        async move {
            let server = ServerProcess::spawn(self.serve(&scratch()?, false)).await?;
            let endpoint = endpoint(server.ready())?;
            let guest = Guest::log_in(&endpoint).await?;
            let channel = guest.channel(&endpoint, edge::PAYLOAD_BYTES).await?;
            for n in 0..accounts {
                register(&endpoint, n).await?;
            }
            let log_ins = (0..accounts).map(log_in).collect();
            Ok(login::Side { server, read: guest.read(&channel), endpoint, log_ins })
        }
        .boxed()
    }
}

/// A session, its connection and the token in use.
struct Holder {
    connection: Connection,
    session: String,
    token: String,
}

impl Holder {
    async fn open(endpoint: Endpoint, n: usize) -> Result<Box<dyn refresh::Holder>, LoadError> {
        register(&endpoint, n).await?;
        let mut connection = Connection::open(&endpoint).await?;
        let answer = LogInResponse::decode(connection.unary(&log_in(n)).await?).map_err(subject)?;
        let session: Session = answer.session.unwrap_or_default().decode().map_err(subject)?;
        let token = answer.credentials.unwrap_or_default().refresh_token;
        Ok(Box::new(Self { connection, session: session.name, token }))
    }
}

impl refresh::Holder for Holder {
    fn refresh(&mut self) -> BoxFuture<'_, Result<(), LoadError>> {
        async move {
            let request = RefreshRequest {
                session: self.session.clone(),
                refresh_token: self.token.clone(),
                request_id: String::new(),
            };
            let call = Call::new(&path(&identity::REFRESH), &request.encode_to_vec());
            let answer = RefreshResponse::decode(self.connection.unary(&call).await?).map_err(subject)?;
            self.token = answer.credentials.unwrap_or_default().refresh_token;
            Ok(())
        }
        .boxed()
    }
}

impl refresh::Target for Canopy {
    fn launch(&self, sessions: usize) -> BoxFuture<'_, Result<refresh::Side, LoadError>> {
        async move {
            let mut command = self.serve(&scratch()?, false);
            // Opening sessions is not measured here.
            for set in ["identity.argon2_memory_kib=19456", "identity.argon2_passes=2"] {
                command.args(["--set", set]);
            }
            let server = ServerProcess::spawn(command).await?;
            let endpoint = endpoint(server.ready())?;
            let opened = futures::stream::iter(0..sessions).map(|n| Holder::open(endpoint.clone(), n));
            let holders = opened.buffer_unordered(OPENING_AT_ONCE).try_collect().await?;
            Ok(refresh::Side { server, holders })
        }
        .boxed()
    }
}
