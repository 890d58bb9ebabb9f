//! How the entries of an audit are chained, and what the head of an export
//! says: without keys, so that whoever has an export can check it. `docs/audit.md`
//! has the same in words.

use canopy_proto::org::v1::{AuditEntry, AuditHead};
use sha2::{Digest, Sha256};

/// The chain of an entry.
pub type Chain = [u8; 32];

/// Bytes to be hashed or signed: each text behind its length, each number in
/// eight bytes, so that no two things are written alike.
struct Writing(Vec<u8>);

impl Writing {
    fn of(what: &str) -> Self {
        Self(Vec::new()).text(what.as_bytes())
    }

    fn text(mut self, text: &[u8]) -> Self {
        self.0.extend((text.len() as u64).to_be_bytes());
        self.0.extend(text);
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn time(self, ms: i64) -> Self {
        self.number(ms.cast_unsigned())
    }

    fn hash(&self) -> Chain {
        Sha256::digest(&self.0).into()
    }
}

/// What stands before the first entry: no two audits begin alike.
pub fn root(audit: &str) -> Chain {
    Writing::of("canopy audit 1").text(audit.as_bytes()).hash()
}

/// The chain of an entry behind the one before.
pub fn link(before: &Chain, entry: &AuditEntry) -> Chain {
    let writing = Writing::of("canopy audit entry 1")
        .text(before)
        .number(entry.seq)
        .time(entry.time_ms)
        .text(entry.principal.as_bytes())
        .text(entry.session.as_bytes())
        .text(entry.peer.as_bytes())
        .text(entry.client.as_bytes())
        .text(entry.method.as_bytes())
        .text(entry.target.as_bytes())
        .number(u64::from(entry.outcome.unsigned_abs()))
        .text(entry.code.as_bytes())
        .number(entry.count)
        .time(entry.last_time_ms)
        .text(entry.request_id.as_bytes())
        .number(entry.target_seq)
        .number(entry.details.len() as u64);
    let details = entry.details.iter();
    details.fold(writing, |writing, detail| writing.text(detail.name.as_bytes()).text(detail.value.as_bytes())).hash()
}

/// What the signature of a head is over.
pub fn statement(head: &AuditHead) -> Vec<u8> {
    Writing::of("canopy audit head 1")
        .text(head.audit.as_bytes())
        .text(head.installation.as_bytes())
        .number(head.after_seq)
        .text(&head.after_chain)
        .number(head.seq)
        .text(&head.chain)
        .time(head.time_ms)
        .text(&head.public_key)
        .0
}

#[cfg(test)]
mod tests {
    use super::*;
    use canopy_proto::org::v1::AuditDetail;

    /// Everything that an entry says has a part in its chain.
    #[test]
    fn no_field_changes_unnoticed() {
        let detail = |name: &str, value: &str| AuditDetail { name: name.into(), value: value.into() };
        let entry = AuditEntry { seq: 1, details: vec![detail("a", "b")], ..AuditEntry::default() };
        let others = [
            AuditEntry { seq: 2, ..entry.clone() },
            AuditEntry { time_ms: 1, ..entry.clone() },
            AuditEntry { principal: "x".into(), ..entry.clone() },
            AuditEntry { session: "x".into(), ..entry.clone() },
            AuditEntry { peer: "x".into(), ..entry.clone() },
            AuditEntry { client: "x".into(), ..entry.clone() },
            AuditEntry { method: "x".into(), ..entry.clone() },
            AuditEntry { target: "x".into(), ..entry.clone() },
            AuditEntry { outcome: 1, ..entry.clone() },
            AuditEntry { code: "x".into(), ..entry.clone() },
            AuditEntry { count: 1, ..entry.clone() },
            AuditEntry { last_time_ms: 1, ..entry.clone() },
            AuditEntry { request_id: "x".into(), ..entry.clone() },
            AuditEntry { target_seq: 1, ..entry.clone() },
            AuditEntry { details: vec![detail("ab", "")], ..entry.clone() },
            AuditEntry { details: vec![detail("a", "b"), detail("a", "b")], ..entry.clone() },
        ];
        // One for each field but the chain itself, and a second for the details.
        let fields = canopy_proto::pool().get_message_by_name("canopy.org.v1.AuditEntry").unwrap().fields().count();
        assert_eq!(others.len(), fields - 1 + 1);
        let before = root("org/x/audit");
        let chains: std::collections::BTreeSet<_> =
            others.iter().chain([&entry]).map(|entry| link(&before, entry)).collect();
        assert_eq!(chains.len(), others.len() + 1);
        assert_ne!(link(&root("org/y/audit"), &entry), link(&before, &entry));
    }

    #[test]
    fn all_that_a_head_says_is_signed() {
        let head = AuditHead::default();
        let others = [
            AuditHead { audit: "x".into(), ..head.clone() },
            AuditHead { installation: "x".into(), ..head.clone() },
            AuditHead { after_seq: 1, ..head.clone() },
            AuditHead { after_chain: vec![1].into(), ..head.clone() },
            AuditHead { seq: 1, ..head.clone() },
            AuditHead { chain: vec![1].into(), ..head.clone() },
            AuditHead { time_ms: 1, ..head.clone() },
            AuditHead { public_key: vec![1].into(), ..head.clone() },
        ];
        let fields = canopy_proto::pool().get_message_by_name("canopy.org.v1.AuditHead").unwrap().fields().count();
        assert_eq!(others.len(), fields - 1);
        let statements: std::collections::BTreeSet<_> = others.iter().chain([&head]).map(statement).collect();
        assert_eq!(statements.len(), fields);
    }
}
