//! The one place where a method's requirement is enforced.

use std::sync::Arc;

use canopy_actors::Node;
use canopy_domain::{Address, Code, Refusal, Role};
use canopy_proto::{Access, Requirement, Rule};

use super::callers::Caller;
use super::grants::{Grants, OrgGrants, Standing};
use super::route::{Destination, is_own};

/// A call that may proceed.
pub struct Admitted {
    /// The caller's highest role where the request points to.
    pub role: Option<Role>,
    /// The orgs that were asked, to see later whether roles have gone.
    pub orgs: Vec<Arc<OrgGrants>>,
}

/// Whether a caller may call a method at a destination.
///
/// # Errors
/// `UNAUTHENTICATED`, `PERMISSION_DENIED`, or `NOT_FOUND` where the caller may
/// not even know of it.
pub async fn admit(
    node: &Node,
    grants: &Grants,
    rule: &Rule,
    caller: Option<&Caller>,
    destination: &Destination,
) -> Result<Admitted, Refusal> {
    let nobody = || nobody(rule);
    let free = Admitted { role: None, orgs: Vec::new() };
    match rule.requires {
        Requirement::Anybody => Ok(free),
        Requirement::SignedIn => match &caller.ok_or_else(nobody)?.bounds {
            // What is nowhere in particular, to whom no place is set.
            Some(bounds) if rule.access != Access::Query || bounds.scope.is_some() => Err(not_for_keys()),
            _ => Ok(free),
        },
        Requirement::Own => {
            let caller = caller.ok_or_else(nobody)?;
            if caller.bounds.is_some() {
                return Err(not_for_keys());
            }
            let own = destination.owner.as_ref().is_some_and(|owner| is_own(owner, &caller.principal));
            if own { Ok(free) } else { Err(not_own()) }
        }
        Requirement::Internal => Err(unserved(rule.path)),
        Requirement::Least(least) => {
            let caller = caller.ok_or_else(nobody)?;
            let sys_admin = is_sys_admin(grants, caller);
            if destination.scopes.is_empty() {
                let role = sys_admin.then_some(Role::SysAdmin);
                return enough(role, least).map(|()| Admitted { role, orgs: Vec::new() });
            }
            let mut admitted = Admitted { role: None, orgs: Vec::new() };
            for (scope, asked) in destination.scopes.iter().zip(&destination.asked) {
                let absent = || Refusal::not_found(asked);
                let org = grants.org(node, &scope.org_address().ok_or_else(absent)?).await?;
                let role = match org.standing(Some(caller.account), scope) {
                    Standing::Absent(role) if caller.bounds.is_none() && may_repeat(rule, destination) => {
                        role.or(sys_admin.then_some(Role::SysAdmin)).ok_or_else(absent)?
                    }
                    _ => standing(&org, caller, sys_admin, scope, asked)?,
                };
                enough(Some(role), least)?;
                // With several scopes, what holds at all of them.
                let lowest =
                    admitted.role.map_or(role, |other| if (other as i32) < (role as i32) { other } else { role });
                admitted.role = Some(lowest);
                admitted.orgs.push(org);
            }
            Ok(admitted)
        }
    }
}

/// Whether a caller who was let in may go on, without waiting for anything.
///
/// # Errors
/// `PERMISSION_DENIED` or `NOT_FOUND`: the role has gone meanwhile.
pub fn still_admitted(
    grants: &Grants,
    rule: &Rule,
    caller: &Caller,
    destination: &Destination,
    admitted: &Admitted,
) -> Result<(), Refusal> {
    let Requirement::Least(least) = rule.requires else { return Ok(()) };
    let sys_admin = is_sys_admin(grants, caller);
    for ((scope, asked), org) in destination.scopes.iter().zip(&destination.asked).zip(&admitted.orgs) {
        enough(Some(standing(org, caller, sys_admin, scope, asked)?), least)?;
    }
    Ok(())
}

/// Whether a request may be the repeat of one that ended what it names: a
/// deletion. The owner then finds the first answer, or says that nothing is
/// there.
fn may_repeat(rule: &Rule, destination: &Destination) -> bool {
    rule.access == Access::Command
        && !destination.request_id.is_empty()
        && matches!(rule.owner.as_str(), "org" | "project")
}

fn standing(org: &OrgGrants, caller: &Caller, sys_admin: bool, scope: &Address, asked: &str) -> Result<Role, Refusal> {
    let role = match org.standing(Some(caller.account), scope) {
        Standing::Role(_) if sys_admin => Role::SysAdmin,
        Standing::Role(Some(role)) => role,
        Standing::Absent(_) | Standing::Role(None) => return Err(Refusal::not_found(asked)),
    };
    match &caller.bounds {
        None => Ok(role),
        Some(bounds) if bounds.include(scope) => Ok(bounds.at_most(role)),
        Some(_) => Err(Refusal::not_found(asked)),
    }
}

/// Whether a caller runs the installation. A key never does, whoever its owner
/// is.
pub fn is_sys_admin(grants: &Grants, caller: &Caller) -> bool {
    caller.bounds.is_none() && grants.is_sys_admin(Some(caller.account))
}

/// An account is its owner's alone.
pub fn not_for_keys() -> Refusal {
    Refusal::new(Code::PermissionDenied, "an API key may not do this")
        .hint("log in with `canopy identity log-in`, or use a key without a scope")
}

fn enough(role: Option<Role>, least: Role) -> Result<(), Refusal> {
    if role.is_some_and(|role| role as i32 >= least as i32) {
        return Ok(());
    }
    let held = role.map_or("no role", |role| role.as_str_name());
    Err(denied(&format!("this needs {}, and you hold {held}", least.as_str_name())))
}

/// The caller holds no role where the installation is concerned.
pub fn too_little(least: Role) -> Refusal {
    enough(None, least).err().unwrap_or_else(not_own)
}

fn denied(message: &str) -> Refusal {
    Refusal::new(Code::PermissionDenied, message).hint("ask somebody who administers the org or the server")
}

/// The caller must be somebody.
pub fn nobody(rule: &Rule) -> Refusal {
    Refusal::new(Code::Unauthenticated, format!("{} needs somebody signed in", rule.path))
        .hint("log in with `canopy identity log-in`")
}

/// What is named is not the caller's own, or does not exist.
pub fn not_own() -> Refusal {
    denied("this is not your own")
}

/// A method that is not served to the outside.
pub fn unserved(path: &str) -> Refusal {
    Refusal::new(Code::Unimplemented, format!("there is no method {path}"))
        .hint("server reflection and `canopy --help` list what there is")
}
