//! `canopy.ops.v1.Keys`: the store's keys, listed, rotated, and the ways to
//! them. No partition has a part in it: the node answers from its store.

use bytes::Bytes;
use canopy_domain::{Address, Code, Name, Refusal, Secret};
use canopy_proto::methods::keys as methods;
use canopy_proto::ops::v1::{
    AddKeySlotRequest, KeySlot, KeyVersion, ListKeySlotsResponse, ListKeysResponse, ListOrgKeysRequest,
    RemoveKeySlotRequest, RemoveKeySlotResponse, RotateKeyResponse, RotateOrgKeyRequest, RotateVaultKeyRequest,
};
use canopy_store::{KeyInfo, Store, Unlock};
use prost::Message;

use super::gate::unserved;

/// Characters that a passphrase has at least: who steals the disk may try as
/// many as they like.
const PASSPHRASE_CHARS_MIN: usize = 12;

/// Answers for the store's keys.
pub struct Keys(pub Store);

impl Keys {
    /// Answers a method of the service, whose request names ids alone.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`: no such method; what the store refuses.
    pub async fn answer(&self, method: &str, request: &Bytes) -> Result<Bytes, Refusal> {
        let store = &self.0;
        if method == methods::LIST_KEYS.path {
            return Ok(listed(store.org_keys()?));
        }
        if method == methods::LIST_ORG_KEYS.path {
            let org = named(&decoded::<ListOrgKeysRequest>(request)?.name, true)?;
            let mut keys = store.org_keys()?;
            keys.retain(|key| key.of == org.as_str());
            keys.extend(store.vault_keys(Some(&org)).await?);
            return Ok(listed(keys));
        }
        if method == methods::ROTATE_ROOT_KEY.path {
            return Ok(rotated(store.rotate_root_key().await?));
        }
        if method == methods::ROTATE_INSTALLATION_KEY.path {
            return Ok(rotated(store.rotate_org_key(None).await?));
        }
        if method == methods::ROTATE_ORG_KEY.path {
            let org = named(&decoded::<RotateOrgKeyRequest>(request)?.name, true)?;
            return Ok(rotated(store.rotate_org_key(Some(&org)).await?));
        }
        if method == methods::ROTATE_VAULT_KEY.path {
            let address = named(&decoded::<RotateVaultKeyRequest>(request)?.name, false)?;
            return Ok(rotated(store.rotate_vault_key(&address).await?));
        }
        if method == methods::LIST_KEY_SLOTS.path {
            let slots = store.key_slots().into_iter().map(shown).collect();
            return Ok(ListKeySlotsResponse { slots }.encode_to_vec().into());
        }
        if method == methods::ADD_KEY_SLOT.path {
            let id = store.add_key_slot(way(decoded(request)?)?).await?;
            let slot = store.key_slots().into_iter().find(|slot| slot.id == id);
            return Ok(slot.map(shown).unwrap_or_default().encode_to_vec().into());
        }
        if method == methods::REMOVE_KEY_SLOT.path {
            store.remove_key_slot(decoded::<RemoveKeySlotRequest>(request)?.id).await?;
            return Ok(RemoveKeySlotResponse {}.encode_to_vec().into());
        }
        Err(unserved(method))
    }
}

fn decoded<M: Message + Default>(request: &Bytes) -> Result<M, Refusal> {
    M::decode(request.clone()).map_err(|e| Refusal::new(Code::InvalidArgument, e.to_string()))
}

/// The org, or the address in it, that a request names.
fn named(name: &str, is_org: bool) -> Result<Address, Refusal> {
    let invalid = |e: canopy_domain::AddressError| Refusal::invalid("name", e.to_string());
    if is_org && Name::parse(name).and_then(|parsed| parsed.owner("org")).map_err(invalid)? != name {
        return Err(Refusal::invalid("name", format!("`{name}` is not of the form `org/*`")));
    }
    Address::parse(name).map_err(invalid)
}

/// What is to open the root key, out of a request.
fn way(request: AddKeySlotRequest) -> Result<Unlock, Refusal> {
    match (request.passphrase.is_empty(), request.key.is_empty()) {
        (true, false) if request.key.len() != 64 || !request.key.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Err(Refusal::invalid("key", "is not 64 hex digits").hint("`openssl rand -hex 32` makes one"))
        }
        (true, false) => Ok(Unlock::Key(Secret::new(request.key))),
        (false, true) if request.passphrase.chars().count() < PASSPHRASE_CHARS_MIN => {
            let message = format!("must have at least {PASSPHRASE_CHARS_MIN} characters");
            Err(Refusal::invalid("passphrase", message))
        }
        (false, true) => Ok(Unlock::Passphrase(Secret::new(request.passphrase))),
        _ => Err(Refusal::invalid("key", "give a passphrase or a key, one of them")),
    }
}

fn listed(keys: Vec<KeyInfo>) -> Bytes {
    let version = |key: KeyInfo| KeyVersion {
        of: key.of,
        version: key.version,
        create_time_ms: key.created_ms,
        fingerprint: key.fingerprint.to_vec().into(),
    };
    ListKeysResponse { keys: keys.into_iter().map(version).collect() }.encode_to_vec().into()
}

fn shown(slot: canopy_store::KeySlot) -> KeySlot {
    KeySlot { id: slot.id, kind: slot.kind.into(), create_time_ms: slot.created_ms, own: slot.is_own }
}

fn rotated(version: u32) -> Bytes {
    RotateKeyResponse { version }.encode_to_vec().into()
}
