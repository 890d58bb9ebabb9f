//! A call as an audit sees it, where no decision of the owner says it: one that
//! was denied, or that the edge answers itself.

use canopy_actors::{Call, Denial, Denials, Node};
use canopy_domain::{Address, Code, Kind, Origin, Principal, Refusal};
use canopy_proto::Rule;
use tonic::metadata::MetadataMap;

use super::listener::Peer;
use super::route::Destination;

/// Characters of a client's own name that are kept.
const CLIENT_CHARS_MAX: usize = 120;

/// Who calls what, from where.
pub(super) struct Attempt<'a> {
    rule: &'static Rule,
    principal: &'a Principal,
    peer: &'a Peer,
    metadata: &'a MetadataMap,
    destination: &'a Destination,
}

impl<'a> Attempt<'a> {
    /// The attempt that a call is.
    pub(super) fn new(
        rule: &'static Rule,
        principal: &'a Principal,
        peer: &'a Peer,
        metadata: &'a MetadataMap,
        destination: &'a Destination,
    ) -> Self {
        Self { rule, principal, peer, metadata, destination }
    }

    /// Takes note of what its owner refused: for want of a role, or of what
    /// proves that the caller is who they say.
    pub(super) async fn refused(&self, node: &Node, denials: &Denials, refusal: &Refusal) {
        if let Some(account) = &refusal.details().concerns {
            self.deny(node, denials, account.clone(), refusal.code).await;
        } else if refusal.code == Code::PermissionDenied
            && let Some(scope) = self.destination.scopes.first()
        {
            self.deny(node, denials, scope.audit(), refusal.code).await;
        }
    }

    /// Takes note of a denial. It stands in its audit when this returns, unless
    /// the time that this takes would tell the caller of what they may not know:
    /// that there is such an account, or what is hidden from them.
    pub(super) async fn deny(&self, node: &Node, denials: &Denials, to: Address, code: Code) {
        let is_told = code == Code::PermissionDenied && to.kind() != Some(Kind::Account);
        let (call, target) = (self.call(), self.target());
        let denial = Denial { to, call: &call, target: &target, code };
        match is_told {
            true => Box::pin(denials.note_and_write(node, &denial)).await,
            false => denials.note(&denial),
        }
    }

    /// Has it stand in the audit before it is done.
    ///
    /// # Errors
    /// It does not, and must not be done.
    pub(super) async fn record(&self, node: &Node) -> Result<(), Refusal> {
        let target = self.target();
        node.record(&target.audit(), &self.call(), &target).await
    }

    /// What it was to be done to; the installation, where it names nothing.
    fn target(&self) -> Address {
        let named = self.destination.owner.as_ref().or(self.destination.scopes.first());
        named.cloned().unwrap_or_else(|| Address::system("installation"))
    }

    fn call(&self) -> Call {
        Call {
            method: self.rule.path,
            request: bytes::Bytes::new(),
            principal: self.principal.clone(),
            origin: origin(self.peer, self.metadata),
            role: None,
            request_id: self.destination.request_id.clone(),
        }
    }
}

/// Where a call came from.
pub(super) fn origin(peer: &Peer, metadata: &MetadataMap) -> Origin {
    let client = metadata.get("user-agent").and_then(|text| text.to_str().ok()).unwrap_or_default();
    Origin { peer: peer.remote.to_string(), client: client.chars().take(CLIENT_CHARS_MAX).collect() }
}
