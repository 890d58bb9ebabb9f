//! The server as a side of the scenarios.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use canopy_proto::Wire;
use canopy_proto::chat::v1::{
    ChannelPosition, ListMessagesRequest, Message as ChatMessage, Order, SendMessageRequest, SubscribeRequest,
};
use canopy_proto::methods::chat as methods;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{StreamExt as _, TryStreamExt as _};

use super::guest::Guest;
use crate::LoadError;
use crate::client::{Call, Connection, Endpoint};
use crate::process::{Ready, ServerProcess};
use crate::scenario::{chat, edge, overload, start};

/// Sends under way at once while a server is filled.
const FILL_CALLERS: usize = 512;
/// Connections of these.
const FILL_CONNECTIONS: usize = 16;
/// File in the data directory with what the first read needs after a restart.
const READ_FILE: &str = "load-first-read";

/// Starts Canopy servers as children of `program`, which must be `canopy-load` itself: it holds the
/// whole server.
#[derive(Clone, Debug)]
pub struct Canopy {
    pub program: PathBuf,
}

impl Canopy {
    pub(super) fn serve(&self, data: &Path, tls: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["canopy", "serve", "--ready-json"]);
        let tls = if tls { "local-ca" } else { "off" };
        for set in [
            format!("data_dir={}", data.join("data").display()),
            "edge.listen=127.0.0.1:0".into(),
            format!("edge.tls={tls}"),
            "identity.sign_up=open".into(),
            // Longer than any run: renewing tokens is measured elsewhere.
            "identity.access_token_ttl_s=3600".into(),
            "log.level=warn".into(),
        ] {
            command.args(["--set", &set]);
        }
        command
    }
}

/// Where a ready server listens, and whom to trust.
pub(super) fn endpoint(ready: &Ready) -> Result<Endpoint, LoadError> {
    Ok(match &ready.ca {
        Some(file) => {
            let pem = std::fs::read_to_string(file).map_err(LoadError::io(format!("read {file}")))?;
            Endpoint::tls(ready.address, pem)
        }
        None => Endpoint::plain(ready.address),
    })
}

/// Leaves a directory to a server that outlives the caller's scope; the system's own cleaning of
/// temporary files takes it.
pub(super) fn scratch() -> Result<PathBuf, LoadError> {
    Ok(tempfile::tempdir().map_err(LoadError::io("make a directory"))?.keep())
}

impl edge::Target for Canopy {
    fn launch(&self, tls: bool, payload_bytes: usize) -> BoxFuture<'_, Result<edge::Side, LoadError>> {
        async move {
            let server = ServerProcess::spawn(self.serve(&scratch()?, tls)).await?;
            let endpoint = endpoint(server.ready())?;
            let guest = Guest::log_in(&endpoint).await?;
            let channel = guest.channel(&endpoint, payload_bytes).await?;
            Ok(edge::Side { server, call: guest.read(&channel), endpoint })
        }
        .boxed()
    }
}

impl overload::Target for Canopy {
    fn unlimited(&self) -> BoxFuture<'_, Result<edge::Side, LoadError>> {
        edge::Target::launch(self, false, edge::PAYLOAD_BYTES)
    }

    fn limited(&self, org_calls_per_s: u64) -> BoxFuture<'_, Result<overload::Orgs, LoadError>> {
        async move {
            let mut command = self.serve(&scratch()?, false);
            command.args(["--set", &format!("admission.per_org_requests_per_s_max={org_calls_per_s}")]);
            let server = ServerProcess::spawn(command).await?;
            let endpoint = endpoint(server.ready())?;
            let mut calls = Vec::new();
            for name in ["noisy", "quiet"] {
                let guest = Guest::log_in_as(&endpoint, name).await?;
                let channel = guest.channel(&endpoint, edge::PAYLOAD_BYTES).await?;
                calls.push(guest.read(&channel));
            }
            let [noisy, quiet] = <[Call; 2]>::try_from(calls).expect("one call for each of two names");
            Ok(overload::Orgs { server, endpoint, noisy, quiet })
        }
        .boxed()
    }
}

impl chat::Target for Canopy {
    fn launch(&self, _subscribers: usize) -> BoxFuture<'_, Result<chat::Side, LoadError>> {
        async move {
            let server = ServerProcess::spawn(self.serve(&scratch()?, false)).await?;
            let endpoint = endpoint(server.ready())?;
            let guest = Guest::log_in(&endpoint).await?;
            let channel = guest.channel(&endpoint, 0).await?;
            let position = ChannelPosition { name: channel.clone(), cursor: None };
            let subscribe = guest.call(&methods::SUBSCRIBE, &SubscribeRequest { channels: vec![position] });
            Ok(chat::Side {
                server,
                endpoint,
                subscribe: Arc::new(move |_| subscribe.clone()),
                send: Arc::new(move |text| send(&guest, &channel, text)),
            })
        }
        .boxed()
    }
}

fn send(guest: &Guest, channel: &str, text: &str) -> Call {
    let message = ChatMessage { text: text.to_owned(), ..ChatMessage::default() };
    let request = SendMessageRequest {
        parent: channel.to_owned(),
        message: Some(Wire::new(&message)),
        request_id: String::new(),
    };
    guest.call(&methods::SEND_MESSAGE, &request)
}

impl start::Target for Canopy {
    /// The server alone where it has been built beside this program, which also holds the scenarios.
    fn program(&self) -> PathBuf {
        Some(self.program.with_file_name("canopy")).filter(|path| path.exists()).unwrap_or_else(|| self.program.clone())
    }

    fn command(&self, data: &Path) -> Command {
        self.serve(data, false)
    }

    fn prepare<'a>(&'a self, data: &'a Path) -> BoxFuture<'a, Result<(), LoadError>> {
        async move {
            let mut server = ServerProcess::spawn(self.command(data)).await?;
            let endpoint = endpoint(server.ready())?;
            let guest = Guest::log_in(&endpoint).await?;
            let channel = guest.channel(&endpoint, 200).await?;
            let authorization = guest.authorization.to_str().unwrap_or_default();
            let file = data.join("data").join(READ_FILE);
            std::fs::write(&file, format!("{authorization}\n{channel}")).map_err(LoadError::io("keep the read"))?;
            server.kill()
        }
        .boxed()
    }

    fn fill<'a>(&'a self, server: &'a ServerProcess, messages: u64) -> BoxFuture<'a, Result<u64, LoadError>> {
        async move {
            let (endpoint, _) = self.first_read(server.ready())?;
            let (guest, channel) = kept(server.ready())?;
            let connections = Connection::open_many(&endpoint, FILL_CONNECTIONS).await?;
            let count = usize::try_from(messages).unwrap_or(usize::MAX);
            futures::stream::iter(0..count)
                .map(|n| {
                    let call = send(&guest, &channel, &format!("message number {n} of a full server"));
                    let connection = connections.get(n % connections.len()).cloned();
                    async move { connection.expect("connections are open").unary(&call).await }
                })
                .buffer_unordered(FILL_CALLERS)
                .try_for_each(|_| async { Ok(()) })
                .await?;
            // The newest message's number is the seq that sent it: one behind the channel's.
            let list = ListMessagesRequest {
                parent: channel,
                order: Order::NewestFirst.into(),
                page_size: 1,
                ..ListMessagesRequest::default()
            };
            let mut connection = Connection::open(&endpoint).await?;
            let answer = connection.unary(&guest.call(&methods::LIST_MESSAGES, &list)).await?;
            let answer: canopy_proto::chat::v1::ListMessagesResponse =
                prost::Message::decode(answer).map_err(|e| LoadError::Subject(e.to_string()))?;
            Ok(answer.cursor.saturating_sub(1))
        }
        .boxed()
    }

    fn first_read(&self, ready: &Ready) -> Result<(Endpoint, Call), LoadError> {
        let (guest, channel) = kept(ready)?;
        Ok((endpoint(ready)?, guest.read(&channel)))
    }
}

/// Who reads what after a restart: written by `prepare`.
fn kept(ready: &Ready) -> Result<(Guest, String), LoadError> {
    let missing = || LoadError::Subject("the ready line names no data directory with a prepared read".into());
    let data = ready.rest.get("data_dir").and_then(|dir| dir.as_str()).ok_or_else(missing)?;
    let text = std::fs::read_to_string(Path::new(data).join(READ_FILE)).map_err(LoadError::io("read the read"))?;
    let (authorization, channel) = text.split_once('\n').ok_or_else(missing)?;
    let authorization = authorization.parse().map_err(|_| missing())?;
    Ok((Guest::known(authorization), channel.to_owned()))
}
