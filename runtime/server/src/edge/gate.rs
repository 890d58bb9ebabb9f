//! The one place where a method's requirement is enforced.

use std::sync::Arc;
use std::time::Duration;

use canopy_actors::Node;
use canopy_domain::{Address, Code, Refusal, Role};
use canopy_proto::identity::v1::LogInStrength;
use canopy_proto::{Access, Reach, Requirement, Rule};

use super::callers::Caller;
use super::grants::{Grants, Life, OrgGrants};
use super::layers::Standing;
use super::route::{Destination, is_own};

/// A call that may proceed.
pub struct Admitted {
    /// The caller's highest role where the request points to.
    pub role: Option<Role>,
    /// The orgs that were asked, to see later whether roles have gone.
    pub orgs: Vec<Arc<OrgGrants>>,
    /// Until when the caller was let in as a sys-admin, if they were;
    /// milliseconds since 1970.
    pub sys_admin_until_ms: Option<i64>,
}

/// A call that may not.
#[derive(Debug)]
pub struct Turned {
    /// What the caller is told.
    pub refusal: Refusal,
    /// The audit that it stands in: what was asked for is there, and the caller
    /// lacks the role.
    pub audit: Option<Address>,
    /// The session is used elsewhere than where it was opened, which its holder
    /// should know of.
    pub is_elsewhere: bool,
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, audit: None, is_elsewhere: false }
    }
}

impl From<Turned> for Refusal {
    fn from(turned: Turned) -> Self {
        turned.refusal
    }
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
    standing: &Standing,
    destination: &Destination,
) -> Result<Admitted, Turned> {
    let admitted = admit_as(node, grants, rule, caller, standing, destination).await;
    match (admitted, standing) {
        // They may know whether a layer was missing, and not what there is without it.
        (Err(turned), Standing::Held(held))
            if matches!(rule.requires, Requirement::Least(_))
                && matches!(turned.refusal.code, Code::PermissionDenied | Code::NotFound) =>
        {
            let audit = Some(Address::system("audit"));
            Err(Turned { refusal: held.refusal.clone(), audit, is_elsewhere: held.is_elsewhere })
        }
        (admitted, _) => admitted,
    }
}

async fn admit_as(
    node: &Node,
    grants: &Grants,
    rule: &Rule,
    caller: Option<&Caller>,
    standing: &Standing,
    destination: &Destination,
) -> Result<Admitted, Turned> {
    let nobody = || nobody(rule);
    let sys_admin = standing.is_sys_admin();
    let sys_admin_until_ms = standing.until_ms();
    let free = Admitted { role: None, orgs: Vec::new(), sys_admin_until_ms };
    match rule.requires {
        Requirement::Anybody => Ok(free),
        Requirement::SignedIn => {
            let caller = caller.ok_or_else(nobody)?;
            match &caller.bounds {
                // What is nowhere in particular, to whom no place is set.
                Some(bounds) if rule.access != Access::Query || bounds.scope.is_some() => Err(not_for_keys().into()),
                _ => Ok(Admitted { role: sys_admin.then_some(Role::SysAdmin), ..free }),
            }
        }
        Requirement::Own => {
            let caller = caller.ok_or_else(nobody)?;
            if caller.bounds.is_some() {
                return Err(not_for_keys().into());
            }
            let own = destination.owner.as_ref().is_some_and(|owner| is_own(owner, &caller.principal));
            if own { Ok(free) } else { Err(not_own().into()) }
        }
        Requirement::Internal => Err(unserved(rule.path).into()),
        Requirement::Least(least) => {
            let caller = caller.ok_or_else(nobody)?;
            if destination.scopes.is_empty() {
                let role = sys_admin.then_some(Role::SysAdmin);
                return match enough(role, least) {
                    Ok(()) => Ok(Admitted { role, ..free }),
                    Err(refusal) => Err(Turned { refusal, audit: Some(Address::system("audit")), is_elsewhere: false }),
                };
            }
            let mut admitted = free;
            for (scope, asked) in destination.scopes.iter().zip(&destination.asked) {
                let absent = || Refusal::not_found(asked);
                let org = grants.org(node, &scope.org_address().ok_or_else(absent)?).await?;
                let found = org.standing(Some(caller.account), scope, rule.within);
                let is_there = found.life != Life::Absent;
                let audit = is_there.then(|| scope.audit());
                let turned = |refusal| Turned { refusal, audit, is_elsewhere: false };
                let role = if !is_there && caller.bounds.is_none() && may_repeat(rule, destination) {
                    let role = found.role.or(sys_admin.then_some(Role::SysAdmin)).ok_or_else(absent)?;
                    enough(Some(role), least)?;
                    role
                } else {
                    may(&org, rule, least, caller, sys_admin, (scope, asked)).map_err(turned)?
                };
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
    now_ms: i64,
) -> Result<(), Refusal> {
    let Requirement::Least(least) = rule.requires else { return Ok(()) };
    // Whoever was none when they were let in has shown nothing of what that asks for.
    let was = admitted.sys_admin_until_ms.is_some_and(|until_ms| now_ms < until_ms);
    let sys_admin = was && grants.is_sys_admin(Some(caller.account));
    for ((scope, asked), org) in destination.scopes.iter().zip(&destination.asked).zip(&admitted.orgs) {
        may(org, rule, least, caller, sys_admin, (scope, asked))?;
    }
    Ok(())
}

/// Whether a request may be the repeat of one that ended what it names: a
/// purge. The owner then finds the first answer, or says that nothing is
/// there.
fn may_repeat(rule: &Rule, destination: &Destination) -> bool {
    rule.access == Access::Command
        && !destination.request_id.is_empty()
        && matches!(rule.owner.as_str(), "org" | "project")
}

/// The caller's role at one org or project, if it suffices there and what is
/// there is not too far gone for the method. Who may not see it is told that
/// it does not exist, and who may not do it, that; only then, how it is.
fn may(
    org: &OrgGrants,
    rule: &Rule,
    least: Role,
    caller: &Caller,
    sys_admin: bool,
    (scope, asked): (&Address, &str),
) -> Result<Role, Refusal> {
    let found = org.standing(Some(caller.account), scope, rule.within);
    let bounded = |role: Option<Role>| {
        let role = if sys_admin { Role::SysAdmin } else { role? };
        match &caller.bounds {
            None => Some(role),
            Some(bounds) => bounds.include(scope).then(|| bounds.at_most(role)),
        }
    };
    let role = bounded(found.role).ok_or_else(|| Refusal::not_found(asked))?;
    let role = match found.life {
        Life::Absent => Err(Refusal::not_found(asked)),
        Life::Deleted if bounded(found.org_role).is_none_or(|role| (role as i32) < Role::OrgAdmin as i32) => {
            Err(Refusal::not_found(asked))
        }
        Life::Deleted => enough(Some(role), least).and_then(|()| match rule.reach {
            Reach::Deleted => Ok(role),
            _ => Err(Refusal::new(Code::FailedPrecondition, format!("`{asked}`, or its org, was deleted"))
                .hint("undelete it with `canopy org undelete-org` or `undelete-project`, as long as it is not purged")),
        }),
        Life::Archived => enough(Some(role), least).and_then(|()| match (rule.access, rule.reach) {
            (Access::Command, Reach::Unspecified) => Err(Refusal::new(
                Code::FailedPrecondition,
                format!("`{asked}`, or its org, is archived: it is read-only"),
            )
            .hint("end that with `canopy org unarchive-org` or `unarchive-project`")),
            _ => Ok(role),
        }),
        Life::Living => enough(Some(role), least).map(|()| role),
    }?;
    if found.requires_second_factor {
        let org = format!("`{}`", scope.org_address().as_ref().map_or(asked, Address::as_str));
        shown_enough(caller, LogInStrength::TwoFactors, &org)?;
    }
    Ok(role)
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

/// Whether a session has shown what the installation asks everybody for. Of a
/// key, its holder had to show it to make one.
///
/// # Errors
/// `FAILED_PRECONDITION`: it may only set up what is missing.
pub fn strong_enough(rule: &Rule, caller: &Caller, least: LogInStrength) -> Result<(), Refusal> {
    if rule.any_strength { Ok(()) } else { shown_enough(caller, least, "this server") }
}

/// Whether a session has shown what is asked for, by the server or an org.
fn shown_enough(caller: &Caller, least: LogInStrength, asks: &str) -> Result<(), Refusal> {
    let shown = caller.log_in().map_or(LogInStrength::Unspecified, |log_in| log_in.strength);
    if caller.bounds.is_some() || shown >= least {
        return Ok(());
    }
    let (what, hint) = match least {
        LogInStrength::Passkey => (
            "a log-in with a passkey, and this session was opened without one",
            "log in with a passkey; who has none yet makes one first: `canopy identity begin-passkey`, then \
             `create-passkey`",
        ),
        _ => (
            "two factors, and this session was opened with the password alone",
            "log in again with a code (`canopy identity log-in --code`) or a passkey; who has neither yet sets up an \
             authenticator app first: `canopy identity enroll-totp`, then `confirm-totp`",
        ),
    };
    Err(Refusal::new(Code::FailedPrecondition, format!("{asks} asks for {what}")).reason("LogInTooWeak").hint(hint))
}

/// Whether a person logged in so short a while ago that it is still them.
///
/// # Errors
/// `FAILED_PRECONDITION`: they have to log in again. `PERMISSION_DENIED`: it is
/// a key, which cannot.
pub fn logged_in_lately(caller: &Caller, at_most: Duration, now_ms: i64) -> Result<(), Refusal> {
    let log_in_time_ms = caller.log_in().map_or(0, |log_in| log_in.time_ms);
    let age_ms = u128::try_from(now_ms.saturating_sub(log_in_time_ms)).unwrap_or(0);
    if caller.bounds.is_some() {
        return Err(not_for_keys());
    }
    if age_ms < at_most.as_millis() {
        return Ok(());
    }
    let message = format!("this asks for a log-in within the last {} minutes", at_most.as_secs().div_ceil(60));
    Err(Refusal::new(Code::FailedPrecondition, message)
        .hint("log in again with `canopy identity log-in`, then repeat it: a session that is left open does not do"))
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
