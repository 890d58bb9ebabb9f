//! Request bytes, which are checked, routed and stored without being decoded.

use std::sync::LazyLock;

use bytes::Bytes;
use canopy_proto::schema::{self, MessageSchema};
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, prost::Message as _};

static MESSAGES: LazyLock<Vec<(MessageDescriptor, &'static MessageSchema)>> = LazyLock::new(|| {
    let messages = canopy_proto::pool().all_messages().filter(|message| message.full_name().starts_with("canopy."));
    messages.filter_map(|message| Some((message.clone(), schema::find(message.full_name())?))).collect()
});

/// A message is chosen by the first byte.
fn chosen(data: &[u8]) -> Option<(&'static MessageDescriptor, &'static MessageSchema, &[u8])> {
    let (which, bytes) = data.split_first()?;
    let (descriptor, schema) = MESSAGES.get(usize::from(*which) % MESSAGES.len().max(1))?;
    Some((descriptor, *schema, bytes))
}

/// What the check accepts can be decoded by a library that is not ours, and survives it.
pub(crate) fn check(data: &[u8]) {
    let Some((descriptor, schema, bytes)) = chosen(data) else { return };
    let shown = schema.redact(bytes);
    assert!(shown.len() <= schema::REDACTED_BYTES_MAX + 16, "a log line of {} bytes", shown.len());
    let _ = (schema.has_unknown(bytes), schema.request_id(bytes));
    match schema.check(bytes) {
        Ok(()) => {
            let decoded = DynamicMessage::decode(descriptor.clone(), bytes);
            let decoded = decoded.expect("what was accepted can be decoded");
            let again = DynamicMessage::decode(descriptor.clone(), decoded.encode_to_vec().as_slice());
            assert!(again.is_ok(), "what was encoded can be decoded");
        }
        Err(violations) => {
            assert!(!violations.is_empty() && violations.len() <= schema::VIOLATIONS_MAX, "{}", violations.len());
        }
    }
}

/// Fields of a newer client are kept: what is merged has all known fields as they were, and nothing
/// malformed comes out of what is well formed.
pub(crate) fn merge(data: &[u8]) {
    let Some((descriptor, schema, rest)) = chosen(data) else { return };
    let Some((split, bytes)) = rest.split_first() else { return };
    let (known, source) = bytes.split_at(bytes.len().min(usize::from(*split)));
    let (known, source) = (Bytes::copy_from_slice(known), Bytes::copy_from_slice(source));
    let merged = schema.splice(known.clone(), &source);
    assert!(merged.len() <= 2 * (known.len() + source.len()) + 64, "merging made much of little");
    let decode = |bytes: &Bytes| DynamicMessage::decode(descriptor.clone(), bytes.clone());
    // `known` is always written by us: of a malformed one nothing is claimed but that merging ends.
    let Ok(before) = decode(&known) else { return };
    let after = decode(&merged).expect("a merged message can be decoded");
    for field in before.descriptor().fields() {
        let is_plain = !matches!(field.kind(), prost_reflect::Kind::Message(_));
        if is_plain && field.containing_oneof().is_none() {
            assert_eq!(after.get_field(&field), before.get_field(&field), "{} changed", field.full_name());
        }
    }
}
