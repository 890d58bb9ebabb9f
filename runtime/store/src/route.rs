//! Which vault an address lives in, and whose key wraps that vault's.

use std::sync::Arc;

use canopy_domain::{Address, Kind};
use sha2::{Digest, Sha256};

/// Vaults that share all accounts and sessions.
const SHARDS: u8 = 16;

/// Stands for an org where something belongs to none.
pub(crate) const INSTALLATION: &str = "";

/// A vault's name: the address it was made for, or a shard.
pub(crate) type VaultName = Arc<str>;

/// The vault of an address. Small actors live inside their parent's.
pub(crate) fn vault_of(address: &Address) -> VaultName {
    let text = address.as_str();
    match address.kind() {
        Some(Kind::Org | Kind::Project | Kind::Module(_)) => text.into(),
        Some(Kind::System(_)) => "system".into(),
        Some(Kind::Account | Kind::Session) => {
            let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
            let [first, ..] = digest;
            format!("shard/{:02}", first % SHARDS).into()
        }
        Some(Kind::Audit | Kind::Job(_)) | None => parent(text).into(),
    }
}

/// The longest start of a deeper address that has a vault of its own.
fn parent(text: &str) -> &str {
    let segments: Vec<_> = text.split('/').collect();
    let depth = match segments.as_slice() {
        ["org", _, "project", _, "job", ..] => 4,
        ["org", _, "project", _, _, ..] => 5,
        ["org", _, ..] => 2,
        _ => return "system",
    };
    let end = text.match_indices('/').map(|(at, _)| at).nth(depth - 1);
    text.get(..end.unwrap_or(text.len())).unwrap_or(text)
}

/// Whose key wraps a vault's: the org, or [`INSTALLATION`].
pub(crate) fn org_of(vault: &str) -> &str {
    const KIND: &str = "org/";
    match vault.strip_prefix(KIND).and_then(|rest| rest.split('/').next()) {
        Some(id) => vault.get(..KIND.len() + id.len()).unwrap_or(vault),
        None => INSTALLATION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "01arz3ndektsv4rrffq69g5fav";

    #[test]
    fn addresses_find_their_vaults() {
        let check = |address: String, vault: String| {
            assert_eq!(&*vault_of(&Address::parse(&address).unwrap()), vault);
        };
        check(format!("org/{A}"), format!("org/{A}"));
        check(format!("org/{A}/project/{A}"), format!("org/{A}/project/{A}"));
        check(format!("org/{A}/project/{A}/chat"), format!("org/{A}/project/{A}/chat"));
        check(format!("org/{A}/job/backup/{A}"), format!("org/{A}"));
        check(format!("org/{A}/audit"), format!("org/{A}"));
        check("system/directory".into(), "system".into());
        let shard = vault_of(&Address::parse(&format!("account/{A}")).unwrap());
        assert!(shard.starts_with("shard/"), "{shard}");
    }

    #[test]
    fn deeper_addresses_live_with_their_parent() {
        assert_eq!(parent("org/x/job/backup/y"), "org/x");
        assert_eq!(parent("org/x/project/y/job/backup/z"), "org/x/project/y");
        assert_eq!(parent("org/x/project/y/meet/room/z"), "org/x/project/y/meet");
    }

    #[test]
    fn vaults_know_their_org() {
        assert_eq!(org_of("org/x/project/y/chat"), "org/x");
        assert_eq!(org_of("org/x"), "org/x");
        assert_eq!(org_of("system"), INSTALLATION);
        assert_eq!(org_of("shard/03"), INSTALLATION);
    }
}
