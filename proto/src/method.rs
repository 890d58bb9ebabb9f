//! Methods, and the rule that each carries in its `.proto`.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::LazyLock;

use prost_reflect::{MethodDescriptor, Value};

pub use crate::options::v1::Access;
pub use crate::options::v1::Reach;
use crate::options::v1::Role;

/// A method's name with the types of its request and answer.
pub struct Method<Request, Response> {
    /// `canopy.chat.v1.Chat/SendMessage`
    pub path: &'static str,
    types: PhantomData<fn(Request) -> Response>,
}

impl<Request, Response> Method<Request, Response> {
    pub(crate) const fn new(path: &'static str) -> Self {
        Self { path, types: PhantomData }
    }

    /// What the method's `.proto` says of it.
    pub fn rule(&self) -> &'static Rule {
        rules().get(self.path).expect("method constants and rules come from the same descriptors")
    }
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// Anybody, without a token.
    Anybody,
    /// Anybody signed in.
    SignedIn,
    /// The account or session named.
    Own,
    /// Who holds at least this role where the request points to.
    Least(Role),
    /// Canopy's own actors.
    Internal,
}

/// What a method's `.proto` says of it.
#[derive(Debug)]
pub struct Rule {
    /// `canopy.chat.v1.Chat/SendMessage`
    pub path: &'static str,
    /// Kind of the actor that answers.
    pub owner: String,
    /// Literal address, fresh one, or the field that holds it: see
    /// `canopy.options.v1.Rule`.
    pub address: String,
    /// Query, command or subscription.
    pub access: Access,
    /// Who may call.
    pub requires: Requirement,
    /// How far gone the org or project that is named may be.
    pub reach: Reach,
    /// Whether a role at any project of the org that is named counts, too.
    pub within: bool,
    /// Whether a person who calls it has to have logged in lately.
    pub recent: bool,
    /// Whether a person may call it however their session was opened.
    pub any_strength: bool,
    /// Whether it stands in the audit.
    pub audited: bool,
    /// Whether it stands in the installation's audit as well.
    pub audited_above: bool,
    /// Whether it makes room, and is done though the org's bytes are used up.
    pub frees: bool,
    /// Request and answer, for checks.
    pub descriptor: MethodDescriptor,
}

/// The rule of every method, by `package.Service/Method`.
///
/// # Panics
/// A method of this release carries no rule; a test looks at each.
pub fn rules() -> &'static HashMap<&'static str, Rule> {
    static RULES: LazyLock<HashMap<&'static str, Rule>> = LazyLock::new(|| {
        let services = crate::pool().services().filter(|s| s.package_name().starts_with("canopy."));
        services
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| {
                let rule = read(method).unwrap_or_else(|why| panic!("{why}"));
                (rule.path, rule)
            })
            .collect()
    });
    &RULES
}

fn read(method: MethodDescriptor) -> Result<Rule, String> {
    let path = format!("{}/{}", method.parent_service().full_name(), method.name());
    let options = method.options();
    let rule = options
        .extensions()
        .find(|(e, _)| e.full_name() == "canopy.options.v1.rule")
        .and_then(|(_, value)| value.as_message().cloned())
        .ok_or_else(|| format!("{path} declares no rule: add option (canopy.options.v1.rule)"))?;
    let text =
        |field: &str| rule.get_field_by_name(field).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let number = |field: &str| rule.get_field_by_name(field).and_then(|v| v.as_enum_number());
    let is = |field: &str| rule.get_field_by_name(field).is_some_and(|v| matches!(v.as_ref(), Value::Bool(true)));
    let requires = if is("anybody") {
        Requirement::Anybody
    } else if is("signed_in") {
        Requirement::SignedIn
    } else if is("self") {
        Requirement::Own
    } else if is("internal") {
        Requirement::Internal
    } else {
        match number("least").and_then(|n| Role::try_from(n).ok()) {
            Some(role) if role != Role::Unspecified => Requirement::Least(role),
            _ => return Err(format!("{path} does not say who may call it")),
        }
    };
    let access = number("access")
        .and_then(|n| Access::try_from(n).ok())
        .filter(|access| *access != Access::Unspecified)
        .ok_or_else(|| format!("{path} does not say whether it is a query or a command"))?;
    let (owner, address) = (text("owner"), text("address"));
    if owner.is_empty() || (address.is_empty() && owner != "edge") {
        return Err(format!("{path} does not say which actor answers"));
    }
    let reach = number("reach").and_then(|n| Reach::try_from(n).ok()).unwrap_or_default();
    let within = is("within");
    let recent = is("recent");
    let any_strength = is("any_strength");
    let stated = rule.has_field_by_name("audited").then(|| is("audited"));
    let audited = stated.unwrap_or(access == Access::Command && is_administrative(requires));
    let audited_above = is("audited_above");
    let frees = is("frees");
    Ok(Rule {
        path: path.leak(),
        owner,
        address,
        access,
        requires,
        reach,
        within,
        recent,
        any_strength,
        audited,
        audited_above,
        frees,
        descriptor: method,
    })
}

/// What only those may do who administer something.
fn is_administrative(requires: Requirement) -> bool {
    matches!(requires, Requirement::Least(least) if least as i32 >= Role::ProjectAdmin as i32)
}
