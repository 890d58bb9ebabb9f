//! Makes tables from descriptors.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind as Described, MessageDescriptor, OneofDescriptor, Value,
};

use super::kind::Kind;
use super::rule_options::{self, FieldOptions};
use super::table::{FieldTable, OneofTable, Table};

/// Why no schema can be made of a descriptor.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A rule that would otherwise be ignored in silence.
    #[error("{of}: the rule `{rule}` is not supported: {hint}")]
    Unsupported {
        /// Full name of the field, oneof or message.
        of: String,
        /// The rule, as in `buf.validate`.
        rule: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A rule of one type on a field of another.
    #[error("{of}: `{rule}` rules do not fit the field's type: give it rules of its own type")]
    Mismatch {
        /// Full name of the field.
        of: String,
        /// The type that the rules are for.
        rule: String,
    },
    /// A regular expression that cannot be compiled.
    #[error("{of}: the pattern cannot be compiled: {why}; use RE2 syntax without Unicode classes")]
    Pattern {
        /// Full name of the field.
        of: String,
        /// What is wrong with it.
        why: String,
    },
    /// A field encoded as a group.
    #[error("{of} is encoded as a group, which is not supported: use a message")]
    Group {
        /// Full name of the field.
        of: String,
    },
}

/// Tables of all messages, and where each stands.
pub(super) fn tables(pool: &DescriptorPool) -> Result<(Vec<Table>, HashMap<String, usize>), SchemaError> {
    let mut descriptors: Vec<MessageDescriptor> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut waiting: Vec<MessageDescriptor> = pool.all_messages().collect();
    while let Some(message) = waiting.pop() {
        if index.contains_key(message.full_name()) {
            continue;
        }
        waiting.extend(message.child_messages());
        index.insert(message.full_name().to_owned(), descriptors.len());
        descriptors.push(message);
    }
    let tables = descriptors.iter().map(|message| table(message, &index));
    Ok((tables.collect::<Result<_, _>>()?, index))
}

fn table(message: &MessageDescriptor, index: &HashMap<String, usize>) -> Result<Table, SchemaError> {
    let options = message.options();
    rule_options::refuse_message_rules(message.full_name(), &options)?;
    let oneofs: Vec<OneofDescriptor> = message.oneofs().filter(|o| !o.is_synthetic()).collect();
    let position = |field: &FieldDescriptor| {
        let of = field.containing_oneof()?;
        oneofs.iter().position(|oneof| *oneof == of)
    };
    let fields =
        message.fields().map(|field| field_table(&field, position(&field), index)).collect::<Result<_, _>>()?;
    let oneof_tables = oneofs
        .iter()
        .map(|oneof| {
            Ok(OneofTable {
                name: oneof.name().to_owned(),
                is_required: rule_options::is_oneof_required(oneof)?,
                slots: Vec::new(),
                numbers: Vec::new(),
            })
        })
        .collect::<Result<_, _>>()?;
    let mut table = Table::new(message.full_name().to_owned(), fields, oneof_tables);
    table.is_map_entry = message.is_map_entry();
    table.is_stored = flag(&options, "canopy.options.v1.stored");
    table.is_update = message
        .get_field_by_name("update_mask")
        .is_some_and(|field| field.kind().as_message().is_some_and(|m| m.full_name() == "google.protobuf.FieldMask"));
    Ok(table)
}

fn field_table(
    field: &FieldDescriptor,
    oneof: Option<usize>,
    index: &HashMap<String, usize>,
) -> Result<FieldTable, SchemaError> {
    if field.is_group() {
        return Err(SchemaError::Group { of: field.full_name().to_owned() });
    }
    let options = field.options();
    let is_output_only = flag(&options, "canopy.options.v1.output_only");
    let FieldOptions { rules, is_ignored } = match map_field(field) {
        Some(map) => rule_options::of_entry(&map, field.name())?,
        None => rule_options::of_field(field)?,
    };
    let is_exempt = is_output_only || is_ignored;
    Ok(FieldTable {
        number: field.number(),
        name: field.name().to_owned(),
        kind: kind(field, index),
        is_repeated: field.is_list() || field.is_map(),
        is_map: field.is_map(),
        has_presence: field.supports_presence(),
        oneof,
        slot: None,
        rules: rules.filter(|_| !is_exempt),
        is_secret: flag(&options, "canopy.options.v1.secret"),
        is_exempt,
    })
}

/// The map that the entry of `field` belongs to: it holds the rules.
fn map_field(field: &FieldDescriptor) -> Option<FieldDescriptor> {
    let entry = field.parent_message();
    let holder = entry.parent_message().filter(|_| entry.is_map_entry())?;
    holder.fields().find(|f| f.is_map() && f.kind().as_message() == Some(entry))
}

fn kind(field: &FieldDescriptor, index: &HashMap<String, usize>) -> Kind {
    match field.kind() {
        Described::Double => Kind::Double,
        Described::Float => Kind::Float,
        Described::Int32 => Kind::Int32,
        Described::Int64 => Kind::Int64,
        Described::Uint32 => Kind::Uint32,
        Described::Uint64 => Kind::Uint64,
        Described::Sint32 => Kind::Sint32,
        Described::Sint64 => Kind::Sint64,
        Described::Fixed32 => Kind::Fixed32,
        Described::Fixed64 => Kind::Fixed64,
        Described::Sfixed32 => Kind::Sfixed32,
        Described::Sfixed64 => Kind::Sfixed64,
        Described::Bool => Kind::Bool,
        Described::String => Kind::String,
        Described::Bytes => Kind::Bytes,
        Described::Enum(_) => Kind::Enum,
        Described::Message(message) => {
            let index = index.get(message.full_name());
            Kind::Message(*index.expect("a pool holds every type that its fields name"))
        }
    }
}

fn flag(options: &DynamicMessage, extension: &str) -> bool {
    options.extensions().any(|(e, value)| e.full_name() == extension && matches!(value, Value::Bool(true)))
}
