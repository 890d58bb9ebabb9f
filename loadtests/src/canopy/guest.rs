//! Somebody who signs up at a server and makes what a scenario needs there.

use canopy_domain::Wire;
use canopy_proto::chat::v1::{Channel, CreateChannelRequest, GetChannelRequest};
use canopy_proto::identity::v1::{Account, LogInRequest, LogInResponse, RegisterRequest, Session};
use canopy_proto::methods::{chat, identity, orgs, projects};
use canopy_proto::org::v1::{CreateOrgRequest, CreateProjectRequest, Org, Project};
use canopy_proto::{Method, Wire as ProtoWire};
use http::HeaderValue;
use http::uri::PathAndQuery;
use prost::Message;

use crate::LoadError;
use crate::client::{Call, Connection, Endpoint};

/// Whoever stands for all, and the slug of what is theirs.
const NAME: &str = "load";
pub(super) const PASSWORD: &str = "a password for measuring";

/// A person with an access token.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    name: String,
    /// The account's name; empty where only the token is known.
    pub(super) account: String,
    pub(super) authorization: HeaderValue,
}

pub(super) fn path<Q, R>(method: &Method<Q, R>) -> PathAndQuery {
    PathAndQuery::try_from(format!("/{}", method.path)).expect("a method's name is a path")
}

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

impl Guest {
    /// Signs up, unless that has been done, and logs in.
    pub(super) async fn log_in(endpoint: &Endpoint) -> Result<Self, LoadError> {
        Self::log_in_as(endpoint, NAME).await
    }

    /// As [`Guest::log_in`], under a name that is also the slug of their org.
    pub(super) async fn log_in_as(endpoint: &Endpoint, name: &str) -> Result<Self, LoadError> {
        let email = format!("{name}@example.org");
        let mut connection = Connection::open(endpoint).await?;
        let account = Account { email: email.clone(), ..Account::default() };
        let register = RegisterRequest {
            account: Some(Wire::new(&account)),
            password: PASSWORD.into(),
            ..RegisterRequest::default()
        };
        let register = Call::new(&path(&identity::REGISTER), &register.encode_to_vec());
        // Refused where the account exists: the log-in tells.
        let _ = connection.unary(&register).await;
        let log_in = LogInRequest { email, password: PASSWORD.into(), ..LogInRequest::default() };
        let log_in = Call::new(&path(&identity::LOG_IN), &log_in.encode_to_vec());
        let answer = LogInResponse::decode(connection.unary(&log_in).await?).map_err(subject)?;
        let session: Session = answer.session.unwrap_or_default().decode().map_err(subject)?;
        let token = answer.credentials.unwrap_or_default().access_token;
        let authorization = HeaderValue::from_str(&format!("Bearer {token}")).map_err(subject)?;
        Ok(Self { name: name.to_owned(), account: session.account, authorization })
    }

    /// Whose token this is.
    pub(super) fn known(authorization: HeaderValue) -> Self {
        Self { name: NAME.to_owned(), account: String::new(), authorization }
    }

    /// A call in this person's name.
    pub(super) fn call<Q: Message, R>(&self, method: &Method<Q, R>, request: &Q) -> Call {
        Call::new(&path(method), &request.encode_to_vec()).authorized(self.authorization.clone())
    }

    /// A channel in a project of an org: its name.
    pub(super) async fn channel(&self, endpoint: &Endpoint, topic_bytes: usize) -> Result<String, LoadError> {
        let mut connection = Connection::open(endpoint).await?;
        let org = Org { slug: self.name.clone(), ..Org::default() };
        let request = CreateOrgRequest { org: Some(Wire::new(&org)), ..CreateOrgRequest::default() };
        let org: Org = row(connection.unary(&self.call(&orgs::CREATE_ORG, &request)).await?)?;
        let project = Project { slug: "load".into(), ..Project::default() };
        let request = CreateProjectRequest {
            parent: org.name,
            project: Some(Wire::new(&project)),
            ..CreateProjectRequest::default()
        };
        let project: Project = row(connection.unary(&self.call(&projects::CREATE_PROJECT, &request)).await?)?;
        let channel = Channel { slug: "load".into(), topic: "x".repeat(topic_bytes), ..Channel::default() };
        let request = CreateChannelRequest {
            parent: format!("{}/chat", project.name),
            channel: Some(Wire::new(&channel)),
            ..CreateChannelRequest::default()
        };
        let channel: Channel = row(connection.unary(&self.call(&chat::CREATE_CHANNEL, &request)).await?)?;
        Ok(channel.name)
    }

    /// The read of a channel.
    pub(super) fn read(&self, channel: &str) -> Call {
        self.call(&chat::GET_CHANNEL, &GetChannelRequest { name: channel.to_owned() })
    }
}

fn row<T: Message + prost::Name + Default>(bytes: bytes::Bytes) -> Result<T, LoadError> {
    ProtoWire::<T>::from_bytes(bytes).decode().map_err(subject)
}
