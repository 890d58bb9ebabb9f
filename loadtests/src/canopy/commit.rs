//! Commands through the actors, in this process: mailbox, decision, sealing, feed, view, request
//! record, group commit.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use canopy_actors::{
    AttemptLimits, Call, Limits, Node, NodeParts, Passkeys, PasswordHashing, SignUpPolicy, Tokens, now_ms, random_bytes,
};
use canopy_domain::{Address, Id, Origin, Principal, Reader as _, Role, Wire};
use canopy_proto::chat::v1::{Channel, CreateChannelRequest, Message as ChatMessage, SendMessageRequest};
use canopy_proto::methods::chat as methods;
use canopy_store::{Store, StoreOptions, Unlock};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message;

use crate::LoadError;
use crate::baseline::raw_fjall::{Record, Shape, Table};
use crate::scenario::commit::{Committer, Target};

/// Bytes of a message's text.
const TEXT_BYTES: usize = 100;
/// Longer than any run: nothing passivates.
const IDLE: Duration = Duration::from_secs(3600);

/// Canopy's actors as the side of `commit`.
#[derive(Clone, Debug)]
pub struct Actors;

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

impl Target for Actors {
    /// What one sent message writes: its row, its place in the channel's view, its request record and
    /// the feed entry. Sizes as the store counts them, sealing included (1,230 bytes of values a
    /// commit); the one row a group that holds the partition's state is not asked of the other side.
    fn shape(&self) -> Shape {
        let record = |table, key_bytes, value_bytes| Record { table, key_bytes, value_bytes };
        Shape {
            records: vec![
                record(Table::Data, 42, 325),
                record(Table::Data, 46, 0),
                record(Table::Data, 38, 355),
                record(Table::Feed, 24, 550),
            ],
        }
    }

    fn open<'a>(&'a self, directory: &'a Path, vaults: usize) -> BoxFuture<'a, Result<Arc<dyn Committer>, LoadError>> {
        async move {
            let chats: Vec<Address> = (0..vaults)
                .map(|_| {
                    let id = || Id::fresh(now_ms(), &random_bytes());
                    let project = Address::org(id()).project(id());
                    Address::parse(&format!("{project}/chat")).map_err(subject)
                })
                .collect::<Result<_, _>>()?;
            let node = start(directory, IDLE).await?;
            let account = Address::account(Id::fresh(now_ms(), &random_bytes()));
            let session = Address::session(Id::fresh(now_ms(), &random_bytes()));
            let mut bench = Bench {
                node,
                directory: directory.to_owned(),
                principal: Principal::Person { account, session },
                channels: Vec::new(),
                sent: AtomicU64::new(0),
                chats,
            };
            for chat in &bench.chats {
                bench.channels.push(bench.channel(chat).await?);
            }
            let committer: Arc<dyn Committer> = Arc::new(bench);
            Ok(committer)
        }
        .boxed()
    }
}

/// The store below a scenario's directory.
pub(super) async fn open_store(directory: &Path) -> Result<Store, LoadError> {
    let data = directory.join("data");
    let store = tokio::task::spawn_blocking(move || {
        let key = data.join("root.key");
        Store::open(StoreOptions::new(data, Unlock::KeyFile(key)))
    });
    store.await.map_err(subject)?.map_err(subject)
}

/// A node over it, whose actors end when they are idle for so long.
pub(super) async fn start(directory: &Path, idle: Duration) -> Result<Node, LoadError> {
    let store = open_store(directory).await?;
    let tokens = Tokens::new(&random_bytes(), "load".into(), 1_000, 1_000, SignUpPolicy::Closed);
    let node = Node::new(NodeParts {
        store,
        modules: canopy::boot::modules(),
        limits: Limits {
            mailbox_max: 4096,
            restarts_max: 5,
            restart_period: Duration::from_secs(10),
            quarantine_base: Duration::from_secs(1),
            quarantine_max: Duration::from_secs(10),
            idle,
        },
        issuer: Arc::new(tokens.map_err(subject)?),
        settings: canopy_domain::Settings::default(),
        passkeys: Passkeys::new(None, &[7; 32], "test".into()).map_err(subject)?,
        passwords: PasswordHashing::new(64, 1, 1, AttemptLimits::default()).map_err(subject)?,
        budgets: None,
        hooks: Vec::new(),
    });
    node.tenants().start(None).await.map_err(subject)?;
    Ok(node)
}

struct Bench {
    node: Node,
    directory: std::path::PathBuf,
    principal: Principal,
    chats: Vec<Address>,
    channels: Vec<String>,
    sent: AtomicU64,
}

impl Bench {
    fn call(&self, method: &'static str, request: Vec<u8>, request_id: String) -> Call {
        Call {
            method,
            request: request.into(),
            principal: self.principal.clone(),
            origin: Origin { peer: "127.0.0.1:40000".into(), client: "canopy-load".into() },
            role: Some(Role::ProjectAdmin),
            request_id,
        }
    }

    async fn channel(&self, chat: &Address) -> Result<String, LoadError> {
        let request = CreateChannelRequest {
            parent: chat.to_string(),
            channel: Some(Wire::new(&Channel { slug: "load".into(), ..Channel::default() })),
            request_id: String::new(),
        };
        let call = self.call(methods::CREATE_CHANNEL.path, request.encode_to_vec(), String::new());
        let channel = self.node.command(chat, call).await.map_err(subject)?;
        Ok(Channel::decode(channel).map_err(subject)?.name)
    }
}

impl Committer for Bench {
    fn commit(&self, vault: usize) -> BoxFuture<'_, Result<(), LoadError>> {
        async move {
            let (chat, channel) = match (self.chats.get(vault), self.channels.get(vault)) {
                (Some(chat), Some(channel)) => (chat, channel),
                _ => return Err(LoadError::Subject(format!("there is no vault {vault}"))),
            };
            let n = self.sent.fetch_add(1, Ordering::Relaxed);
            let message = ChatMessage { text: "m".repeat(TEXT_BYTES), ..ChatMessage::default() };
            let request_id = format!("load-{n:020}");
            let request = SendMessageRequest {
                parent: channel.clone(),
                message: Some(Wire::new(&message)),
                request_id: request_id.clone(),
            };
            let call = self.call(methods::SEND_MESSAGE.path, request.encode_to_vec(), request_id);
            self.node.command(chat, call).await.map(drop).map_err(subject)
        }
        .boxed()
    }

    fn close_and_count(self: Arc<Self>) -> BoxFuture<'static, Result<u64, LoadError>> {
        async move {
            let bench = Arc::into_inner(self).ok_or_else(|| subject("the actors are still in use"))?;
            bench.node.tenants().stop().await;
            bench.node.store().close().await.map_err(subject)?;
            drop(bench.node);
            let node = start(&bench.directory, IDLE).await?;
            let mut found = 0;
            for chat in &bench.chats {
                // Every transaction after the channel's own is a message.
                found += node.snapshot(chat).await.map_err(subject)?.seq().map_err(subject)?.saturating_sub(1);
            }
            node.store().close().await.map_err(subject)?;
            Ok(found)
        }
        .boxed()
    }
}
