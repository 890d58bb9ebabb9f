//! Who calls, and from where.

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
    /// One of Canopy's own actors, by an effect or a prepare step.
    Actor(Address),
}

impl Principal {
    /// The account, for a person.
    pub fn account(&self) -> Option<&Address> {
        match self {
            Principal::Person { account, .. } => Some(account),
            Principal::Nobody | Principal::Actor(_) => None,
        }
    }

    /// How feeds and request ids name the principal: an address, or nothing.
    pub fn as_str(&self) -> &str {
        match self {
            Principal::Nobody => "",
            Principal::Person { account, .. } => account.as_str(),
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
