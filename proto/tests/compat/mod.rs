//! What breaks clients between two sets of descriptors.

use std::collections::BTreeMap;

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor, Value,
};

/// Each break of what is in packages that start with `package`, in words.
pub(crate) fn breaks(old: &DescriptorPool, new: &DescriptorPool, package: &str) -> Vec<String> {
    let mut found = Vec::new();
    for message in old.all_messages().filter(|m| m.package_name().starts_with(package) && !m.is_map_entry()) {
        match new.get_message_by_name(message.full_name()) {
            Some(now) => fields(&message, &now, &mut found),
            None => found.push(format!("message {} is gone", message.full_name())),
        }
    }
    for item in old.all_enums().filter(|e| e.package_name().starts_with(package)) {
        match new.get_enum_by_name(item.full_name()) {
            Some(now) => values(&item, &now, &mut found),
            None => found.push(format!("enum {} is gone", item.full_name())),
        }
    }
    for service in old.services().filter(|s| s.package_name().starts_with(package)) {
        match new.get_service_by_name(service.full_name()) {
            Some(now) => methods(&service, &now, &mut found),
            None => found.push(format!("service {} is gone", service.full_name())),
        }
    }
    found.sort();
    found
}

fn fields(old: &MessageDescriptor, new: &MessageDescriptor, found: &mut Vec<String>) {
    for field in old.fields() {
        let path = format!("{}.{}", old.full_name(), field.name());
        let Some(now) = new.get_field(field.number()) else {
            found.push(match new.get_field_by_name(field.name()) {
                Some(moved) => format!("{path} has number {} and had {}", moved.number(), field.number()),
                None => format!("{path} is gone"),
            });
            continue;
        };
        let traits = |field: &FieldDescriptor| {
            BTreeMap::from([
                ("name", field.name().to_owned()),
                ("JSON name", field.json_name().to_owned()),
                ("type", type_of(field)),
                ("label", label_of(field).to_owned()),
                ("oneof", oneof_of(field)),
            ])
        };
        let (before, after) = (traits(&field), traits(&now));
        for (what, before) in before {
            let after = &after[what];
            // A JSON name that follows the name is told once.
            let follows = what == "JSON name" && field.name() != now.name();
            if before != *after && !follows {
                found.push(format!("{path} has {what} {after} and had {before}"));
            }
        }
    }
}

fn type_of(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) if message.is_map_entry() => {
            format!("map<{}, {}>", type_of(&message.map_entry_key_field()), type_of(&message.map_entry_value_field()))
        }
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(item) => item.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn label_of(field: &FieldDescriptor) -> &'static str {
    match field.cardinality() {
        Cardinality::Repeated => "repeated",
        Cardinality::Required => "required",
        Cardinality::Optional if field.supports_presence() => "optional",
        Cardinality::Optional => "singular",
    }
}

fn oneof_of(field: &FieldDescriptor) -> String {
    let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    oneof.map_or_else(|| "(none)".to_owned(), |oneof| oneof.name().to_owned())
}

fn values(old: &EnumDescriptor, new: &EnumDescriptor, found: &mut Vec<String>) {
    for value in old.values() {
        let path = format!("{}.{}", old.full_name(), value.name());
        match (new.get_value_by_name(value.name()), new.get_value(value.number())) {
            (Some(now), _) if now.number() == value.number() => {}
            (Some(now), _) => found.push(format!("{path} has number {} and had {}", now.number(), value.number())),
            (None, Some(now)) => found.push(format!("{path} has name {} and had {}", now.name(), value.name())),
            (None, None) => found.push(format!("{path} is gone")),
        }
    }
}

fn methods(old: &ServiceDescriptor, new: &ServiceDescriptor, found: &mut Vec<String>) {
    for method in old.methods() {
        let path = format!("{}/{}", old.full_name(), method.name());
        let Some(now) = new.methods().find(|m| m.name() == method.name()) else {
            found.push(format!("method {path} is gone"));
            continue;
        };
        let traits = |m: &MethodDescriptor| {
            [
                ("input", m.input().full_name().to_owned()),
                ("output", m.output().full_name().to_owned()),
                ("client streaming", m.is_client_streaming().to_string()),
                ("server streaming", m.is_server_streaming().to_string()),
            ]
        };
        for ((what, before), (_, after)) in traits(&method).into_iter().zip(traits(&now)) {
            if before != after {
                found.push(format!("{path} has {what} {after} and had {before}"));
            }
        }
        let (before, after) = (Required::of(&method), Required::of(&now));
        if !after.admits_all_of(&before) {
            found.push(format!("{path} requires {after:?} and required {before:?}"));
        }
    }
}

/// Who may call, as the method's rule says.
#[derive(Debug, PartialEq, Eq)]
enum Required {
    Anybody,
    SignedIn,
    Own,
    Least(i32),
    Internal,
    Unsaid,
}

impl Required {
    fn of(method: &MethodDescriptor) -> Self {
        let options = method.options();
        let rule = options.extensions().find(|(extension, _)| extension.full_name() == "canopy.options.v1.rule");
        let Some(rule) = rule.and_then(|(_, value)| value.as_message()) else { return Self::Unsaid };
        let value = |field: &str| rule.get_field_by_name(field).map(std::borrow::Cow::into_owned);
        let is = |field: &str| value(field) == Some(Value::Bool(true));
        match value("least") {
            _ if is("anybody") => Self::Anybody,
            _ if is("signed_in") => Self::SignedIn,
            _ if is("self") => Self::Own,
            _ if is("internal") => Self::Internal,
            Some(Value::EnumNumber(role)) if role > 0 => Self::Least(role),
            _ => Self::Unsaid,
        }
    }

    /// Whether everybody whom `before` let in may still call.
    fn admits_all_of(&self, before: &Self) -> bool {
        match (before, self) {
            (same, other) if same == other => true,
            (Self::Internal | Self::Unsaid, _) | (_, Self::Anybody) => true,
            (Self::Own | Self::Least(_), Self::SignedIn) => true,
            (Self::Least(before), Self::Least(now)) => now <= before,
            _ => false,
        }
    }
}
