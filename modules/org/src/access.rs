//! What somebody may do at an address, and why: from their grants here, and
//! from what each method declares.

use canopy_domain::{Address, Code, Context, Kind, Refusal, Role, State, Wire, decode};
use canopy_proto::org::v1::{ExplainAccessRequest, ExplainAccessResponse, Grant, MethodAccess};
use canopy_proto::{Access, Reach, Requirement, Rule, rules};

use crate::members::grants_of;
use crate::org::stored_org;
use crate::projects;

/// Whose access is explained.
struct Whose {
    account: Address,
    /// Their highest role there.
    role: Option<Role>,
    /// What gives them that role.
    source: String,
}

pub(crate) fn explain(
    state: &State<'_>,
    request: ExplainAccessRequest,
    cx: &Context<'_>,
) -> Result<ExplainAccessResponse, Refusal> {
    let name = Address::parse(&request.name).map_err(|e| Refusal::invalid("name", e.to_string()))?;
    if name.org_address().as_ref() != Some(cx.address) {
        return Err(Refusal::invalid("name", format!("`{name}` is not of this org")));
    }
    let caller = cx.caller()?;
    let is_own = request.account.is_empty() || request.account == caller.as_str();
    let account = if is_own {
        caller.clone()
    } else {
        if !cx.holds(Role::OrgAdmin) {
            return Err(Refusal::new(Code::PermissionDenied, "what others may do is for org-admins to ask")
                .hint("leave `account` out to ask for yourself"));
        }
        let invalid = || Refusal::invalid("account", format!("`{}` is not of the form `account/*`", request.account));
        let account = Address::parse(&request.account).map_err(|_| invalid())?;
        if account.kind() == Some(Kind::Account) { account } else { return Err(invalid()) }
    };
    let archived = life(state, &name, cx)?;
    let grants = held_at(state, &account, &name, cx)?;
    let whose = whose(account, &grants, is_own, cx)?;
    let mut methods: Vec<MethodAccess> =
        rules().values().filter(|rule| concerns(rule, &name)).map(|rule| judged(rule, &whose, archived)).collect();
    methods.sort_by(|a, b| a.method.cmp(&b.method));
    let highest = whose.role.unwrap_or_default();
    Ok(ExplainAccessResponse {
        name: name.to_string(),
        account: whose.account.to_string(),
        role: highest.into(),
        grants: grants.into_iter().map(|(row, _)| row).collect(),
        methods,
    })
}

/// Whether the org or the project is archived. What is deleted is refused.
fn life(state: &State<'_>, name: &Address, cx: &Context<'_>) -> Result<bool, Refusal> {
    let org = decode(&stored_org(state, cx)?)?;
    let id = name.project_address().and_then(|project| project.id());
    let project = id.map(|id| state.read(&projects::PROJECTS, id.as_bytes())).transpose()?;
    let project = project.map(|found| found.ok_or_else(|| Refusal::not_found(name.as_str()))).transpose()?;
    Ok(org.archive_time_ms > 0 || project.is_some_and(|project| project.archive_time_ms > 0))
}

/// The grants of an account that count at a name: on the org, and on the
/// project that it reaches.
fn held_at(
    state: &State<'_>,
    account: &Address,
    name: &Address,
    cx: &Context<'_>,
) -> Result<Vec<(Wire<Grant>, Grant)>, Refusal> {
    let id = account.id().ok_or_else(|| Refusal::invalid("account", "holds no id"))?;
    let project = name.project_address();
    let counts = |on: &str| on == cx.address.as_str() || project.as_ref().is_some_and(|project| on == project.as_str());
    let mut held = Vec::new();
    for (_, row) in grants_of(state, id)? {
        let grant = decode(&row)?;
        if counts(&grant.on) {
            held.push((row, grant));
        }
    }
    Ok(held)
}

fn whose(account: Address, grants: &[(Wire<Grant>, Grant)], is_own: bool, cx: &Context<'_>) -> Result<Whose, Refusal> {
    // Of several, the highest counts, and a lower one takes nothing away.
    let highest = grants.iter().max_by_key(|(_, grant)| grant.role);
    let by_grant = highest.and_then(|(_, grant)| Some((Role::try_from(grant.role).ok()?, grant.on.clone())));
    Ok(match by_grant {
        _ if is_own && cx.holds(Role::SysAdmin) => {
            Whose { account, role: Some(Role::SysAdmin), source: "held on the installation".into() }
        }
        Some((role, on)) => Whose { account, role: Some(role), source: format!("granted on `{on}`") },
        None => Whose { account, role: None, source: String::new() },
    })
}

/// Whether a method is one of the actor at an address: or, for an org, of the
/// node about it.
fn concerns(rule: &Rule, name: &Address) -> bool {
    let kind = name.kind().map(Kind::name).unwrap_or_default();
    let is_of_edge = rule.owner == "edge" && !rule.address.is_empty() && kind == "org";
    rule.requires != Requirement::Internal && (rule.owner == kind || is_of_edge)
}

fn judged(rule: &Rule, whose: &Whose, archived: bool) -> MethodAccess {
    let (least, allowed, reason) = match rule.requires {
        Requirement::Least(least) => {
            let suffices = whose.role.is_some_and(|role| role as i32 >= least as i32);
            let held = whose.role.map_or_else(
                || "no role is held here".to_owned(),
                |role| format!("{} is {}", role.as_str_name(), whose.source),
            );
            let verdict = if suffices { "which suffices" } else { "which does not suffice" };
            (least, suffices, format!("it needs {}: {held}, {verdict}", least.as_str_name()))
        }
        _ => (Role::Unspecified, true, "anybody signed in may".into()),
    };
    let is_stopped = archived && rule.access == Access::Command && rule.reach == Reach::Unspecified;
    let (allowed, reason) = match (allowed, is_stopped) {
        (true, true) => (false, format!("{reason}, but the org or project is archived: it is read-only")),
        _ => (allowed, reason),
    };
    MethodAccess { method: rule.path.to_owned(), allowed, least: least.into(), reason }
}
