//! What the node answers itself: what it is, how its tree stands, and what
//! keys it has.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use canopy_actors::now_ms;
use canopy_domain::{Code, Refusal};
use canopy_proto::methods::ops;
use canopy_proto::ops::v1::{Installation, ObserveRequest, ObserveResponse, TreeNode};
use canopy_supervision::{Observe, Supervisor, TreeNode as Node};
use prost::Message;

use super::keys::Keys;

/// Depth shown where the request does not say.
const DEPTH_DEFAULT: usize = 8;
/// Children shown of each supervisor where the request does not say.
const CHILDREN_DEFAULT: usize = 100;

/// Answers for the node.
pub struct Local {
    /// Opaque id of the installation.
    pub installation_id: String,
    /// Verifies what the installation signs.
    pub attestation_key: [u8; 32],
    /// token, open or closed.
    pub sign_up: String,
    /// password, two-factors or passkey.
    pub log_in_strength: String,
    /// The root of the supervision tree, from its start on.
    pub tree: Arc<OnceLock<Supervisor>>,
    /// Its keys.
    pub keys: Keys,
}

impl Local {
    /// Answers a method whose owner is the edge.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`: no such method; what its owner refuses.
    pub async fn answer(&self, method: &str, request: &Bytes) -> Result<Bytes, Refusal> {
        if method == ops::GET_INSTALLATION.path {
            let answer = Installation {
                id: self.installation_id.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                sign_up: self.sign_up.clone(),
                server_time_ms: now_ms(),
                attestation_key: self.attestation_key.to_vec().into(),
                log_in_strength: self.log_in_strength.clone(),
            };
            return Ok(answer.encode_to_vec().into());
        }
        if method == ops::OBSERVE.path {
            let request = ObserveRequest::decode(request.clone())
                .map_err(|e| Refusal::new(Code::InvalidArgument, e.to_string()))?;
            let or = |value: u32, default: usize| if value == 0 { default } else { value as usize };
            let depth = or(request.depth, DEPTH_DEFAULT);
            let children_max = or(request.children_max, CHILDREN_DEFAULT);
            let root = self.tree.get().map(|tree| shown(tree.observe(depth, children_max)));
            return Ok(ObserveResponse { root }.encode_to_vec().into());
        }
        self.keys.answer(method, request).await
    }
}

fn shown(node: Node) -> TreeNode {
    TreeNode {
        id: node.id.to_string(),
        kind: format!("{:?}", node.kind).to_lowercase(),
        status: format!("{:?}", node.status).to_lowercase(),
        restarts: u32::try_from(node.restarts).unwrap_or(u32::MAX),
        start_time_ms: i64::try_from(node.started_ms).unwrap_or(0),
        mailbox_depth: node.mailbox_depth,
        messages_handled: node.handled,
        heartbeat_time_ms: i64::try_from(node.heartbeat_ms).unwrap_or(0),
        state: node.state,
        last_error: node.last_error.unwrap_or_default(),
        children: node.children.into_iter().map(shown).collect(),
        children_total: node.children_total,
    }
}
