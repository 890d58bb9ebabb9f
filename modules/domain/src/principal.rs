//! Who calls, and from where.

use std::net::{IpAddr, SocketAddr};

use crate::Address;

/// Who a command is done for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Somebody without a token.
    Nobody,
    /// A person, by their session.
    Person {
        /// `account/<id>`
        account: Address,
        /// `session/<id>`
        session: Address,
    },
    /// A machine that acts for an account, by one of its API keys.
    Key {
        /// `account/<id>`
        account: Address,
        /// `account/<id>/key/<id>`
        name: String,
    },
    /// One of Canopy's own actors, by an effect or a prepare step.
    Actor(Address),
}

impl Principal {
    /// The account, for a person or a machine.
    pub fn account(&self) -> Option<&Address> {
        match self {
            Principal::Person { account, .. } | Principal::Key { account, .. } => Some(account),
            Principal::Nobody | Principal::Actor(_) => None,
        }
    }

    /// How feeds and request ids name the principal: an address, or nothing.
    pub fn as_str(&self) -> &str {
        match self {
            Principal::Nobody => "",
            Principal::Person { account, .. } | Principal::Key { account, .. } => account.as_str(),
            Principal::Actor(address) => address.as_str(),
        }
    }
}

/// Where a command came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Network address of the peer.
    pub peer: String,
    /// What the client calls itself (`user-agent`).
    pub client: String,
}

impl Origin {
    /// The peer's network address without its port, which is a client's for
    /// longer than one connection; empty where it is not known.
    pub fn place(&self) -> String {
        let address = self.peer.parse().map(|peer: SocketAddr| peer.ip());
        address
            .or_else(|_| self.peer.parse())
            .map_or_else(|_| String::new(), |ip: IpAddr| ip.to_canonical().to_string())
    }
}
