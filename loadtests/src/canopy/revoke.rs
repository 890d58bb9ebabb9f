//! A server with people whose roles are taken away while they follow a channel.

use canopy_domain::{Role, Wire};
use canopy_proto::chat::v1::{ChannelPosition, Message, SendMessageRequest, SubscribeRequest};
use canopy_proto::methods::{chat, orgs};
use canopy_proto::org::v1::{Grant, GrantRoleRequest, RevokeRoleRequest};

use super::guest::Guest;
use super::sides::{Canopy, endpoint, scratch};
use crate::LoadError;
use crate::client::{Call, Connection, Endpoint};
use crate::process::ServerProcess;

/// Somebody with one role: at the project, or at the whole org.
pub struct Person {
    pub subscribe: Call,
    pub revoke: Call,
}

/// A server, a channel on it, and who follows it.
pub struct Stage {
    pub server: ServerProcess,
    pub endpoint: Endpoint,
    pub people: Vec<Person>,
    owner: Guest,
    channel: String,
}

impl Stage {
    /// Every other person holds a role at the whole org, the others at the project.
    ///
    /// # Errors
    /// The server does not start, or refuses something.
    pub async fn set(canopy: &Canopy, people: usize) -> Result<Self, LoadError> {
        let mut command = canopy.serve(&scratch()?, false);
        // Many log in, and hashing is measured nowhere here.
        command.args(["--set", "identity.argon2_memory_kib=19456", "--set", "identity.argon2_passes=2"]);
        let server = ServerProcess::spawn(command).await?;
        let endpoint = endpoint(server.ready())?;
        let owner = Guest::log_in(&endpoint).await?;
        let channel = owner.channel(&endpoint, 0).await?;
        let (project, _) = channel.split_once("/chat/").unwrap_or_default();
        let (org, _) = project.split_once("/project/").unwrap_or_default();
        let mut connection = Connection::open(&endpoint).await?;
        let mut set = Vec::new();
        for number in 0..people {
            let name = format!("person-{number}");
            let guest = Guest::log_in_as(&endpoint, &name).await?;
            let grant = Grant {
                account: guest.account.clone(),
                on: if number % 2 == 0 { project } else { org }.to_owned(),
                role: Role::ProjectUser.into(),
                ..Grant::default()
            };
            let grant = || Some(Wire::new(&grant));
            let give = GrantRoleRequest { grant: grant(), request_id: String::new() };
            connection.unary(&owner.call(&orgs::GRANT_ROLE, &give)).await?;
            let take = RevokeRoleRequest { grant: grant(), request_id: String::new() };
            let position = ChannelPosition { name: channel.clone(), cursor: None };
            let follow = SubscribeRequest { channels: vec![position] };
            set.push(Person {
                subscribe: guest.call(&chat::SUBSCRIBE, &follow),
                revoke: owner.call(&orgs::REVOKE_ROLE, &take),
            });
        }
        Ok(Self { server, endpoint, people: set, owner, channel })
    }

    /// Sends a text to the channel.
    pub fn send(&self, text: &str) -> Call {
        let message = Message { text: text.to_owned(), ..Message::default() };
        let request = SendMessageRequest {
            parent: self.channel.clone(),
            message: Some(Wire::new(&message)),
            request_id: String::new(),
        };
        self.owner.call(&chat::SEND_MESSAGE, &request)
    }
}
