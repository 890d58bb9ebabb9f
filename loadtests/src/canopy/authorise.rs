//! The edge's role check in this process, over grants that the store holds.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use canopy::edge::callers::{Caller, Callers};
use canopy::edge::gate;
use canopy::edge::grants::Grants;
use canopy::edge::layers::Standing;
use canopy::edge::route::Destination;
use canopy_actors::{Node, SignUpPolicy, Tokens, now_ms, random_bytes};
use canopy_domain::{Address, Draft, Id, Role, Table, TokenClaims, TokenIssuer as _, Wire};
use canopy_proto::identity::v1::Session;
use canopy_proto::methods::{chat, orgs};
use canopy_proto::org::v1::{Grant, Org, Project};
use canopy_proto::system::v1::Origin;
use canopy_proto::{Method, Rule, rules};
use canopy_store::Commit;
use tonic::metadata::MetadataMap;

use crate::LoadError;
use crate::clock::{now_ns, seconds_between};

/// The tables that the edge reads, as their modules have them.
const ORG: Table<Org> = Table::new(1, "org", 1);
const GRANTS: Table<Grant> = Table::new(2, "grants", 1);
const PROJECTS: Table<Project> = Table::new(3, "projects", 1);
const SESSION: Table<Session> = Table::new(1, "session", 1);
const SELF: [u8; 1] = [0];

/// Rows of one commit.
const ROWS_AT_ONCE: usize = 5_000;
/// As good as never.
const IDLE: Duration = Duration::from_secs(3_600);

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

fn fresh() -> Id {
    Id::fresh(now_ms(), &random_bytes())
}

/// An org to be asked about.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Projects; whoever asks holds a role at each.
    pub roles: usize,
    /// Everybody, whoever asks included.
    pub members: usize,
}

/// Somebody who calls, and where.
struct Asker {
    caller: Arc<Caller>,
    destination: Destination,
}

/// Role checks of one person in one org.
pub struct Checks {
    node: Node,
    grants: Grants,
    asker: Asker,
}

impl Checks {
    /// An org of its own, below `dir`.
    ///
    /// # Errors
    /// The node cannot be started, or the store fails.
    pub async fn open(dir: &Path, shape: Shape) -> Result<Self, LoadError> {
        let node = super::commit::start(dir, IDLE).await?;
        let account = fresh();
        let caller = caller(&node, account).await?;
        let org = Address::org(fresh());
        let projects: Vec<Id> = (0..shape.roles.max(1)).map(|_| fresh()).collect();
        write(&node, &org, rows(&org, account, &projects, shape.members)).await?;
        let asked = projects.get(projects.len() / 2).copied().unwrap_or(account);
        let chat = Address::parse(&format!("{}/chat", org.project(asked))).map_err(subject)?;
        let destination = Destination {
            owner: Some(chat.clone()),
            asked: vec![chat.to_string()],
            scopes: vec![chat],
            request: bytes::Bytes::new(),
            request_id: String::new(),
        };
        Ok(Self { node, grants: Grants::default(), asker: Asker { caller, destination } })
    }

    async fn check(&self, rule: &Rule, count: u32) -> Result<f64, LoadError> {
        let Asker { caller, destination } = &self.asker;
        let start_ns = now_ns();
        for _ in 0..count {
            let no = Standing::No;
            let admitted = gate::admit(&self.node, &self.grants, rule, Some(caller), &no, destination).await;
            std::hint::black_box(admitted.map_err(|turned| subject(turned.refusal))?.role);
        }
        Ok(seconds_between(start_ns, now_ns()) * 1e6 / f64::from(count))
    }

    /// Microseconds that a call's role check takes: the mean of `count`.
    ///
    /// # Errors
    /// The caller is refused.
    pub async fn role_us(&self, count: u32) -> Result<f64, LoadError> {
        self.check(rule_of(&chat::GET_CHANNEL), count).await
    }

    /// The same for a method that looks at no role.
    ///
    /// # Errors
    /// The caller is refused.
    pub async fn bare_us(&self, count: u32) -> Result<f64, LoadError> {
        self.check(rule_of(&orgs::CREATE_ORG), count).await
    }

    /// Milliseconds that the first check took: it reads all grants.
    ///
    /// # Errors
    /// The caller is refused.
    pub async fn load_ms(&self) -> Result<f64, LoadError> {
        Ok(self.role_us(1).await? / 1e3)
    }

    /// Ends the actors and closes the store.
    ///
    /// # Errors
    /// The store does not close.
    pub async fn close(self) -> Result<(), LoadError> {
        self.node.tenants().stop().await;
        self.node.store().close().await.map_err(subject)
    }
}

fn rule_of<Q, R>(method: &Method<Q, R>) -> &'static Rule {
    rules().get(method.path).expect("constants and rules come from the same descriptors")
}

/// Somebody with a session and a token, verified.
async fn caller(node: &Node, account: Id) -> Result<Arc<Caller>, LoadError> {
    let tokens = Tokens::new(&random_bytes(), "load".into(), 3_600_000, 3_600_000, SignUpPolicy::Closed);
    let tokens = Arc::new(tokens.map_err(subject)?);
    let claims = TokenClaims {
        account: Address::account(account),
        session: Address::session(fresh()),
        expire_time_ms: now_ms() + 3_600_000,
    };
    let session =
        Session { name: claims.session.to_string(), account: claims.account.to_string(), ..Session::default() };
    let mut draft = Draft::default();
    draft.insert(&SESSION, SELF, &Wire::new(&session));
    write(node, &claims.session, vec![draft]).await?;
    let mut metadata = MetadataMap::new();
    let header = format!("Bearer {}", tokens.issue(&claims)).parse().map_err(subject)?;
    metadata.insert("authorization", header);
    let caller = Callers::new(tokens).identify(node, &metadata, IpAddr::from([127, 0, 0, 1])).await.map_err(subject)?;
    caller.ok_or_else(|| LoadError::Subject("a token names nobody".into()))
}

/// The org's rows: projects with a grant of the caller each, and a grant on
/// the org for everybody else.
fn rows(org: &Address, account: Id, projects: &[Id], members: usize) -> Vec<Draft> {
    let mut drafts = vec![Draft::default()];
    let mut written = 0;
    let mut next = |drafts: &mut Vec<Draft>| {
        written += 1;
        if written % ROWS_AT_ONCE == 0 {
            drafts.push(Draft::default());
        }
    };
    let grant = |drafts: &mut Vec<Draft>, account: Id, on: Id, address: &Address, role: Role| {
        let row = Grant {
            account: Address::account(account).to_string(),
            on: address.to_string(),
            role: role.into(),
            ..Grant::default()
        };
        let role = u8::try_from(role as i32).unwrap_or_default();
        let key = [&on.as_bytes()[..], &account.as_bytes()[..], &[role]].concat();
        drafts.last_mut().into_iter().for_each(|draft| draft.insert(&GRANTS, key.clone(), &Wire::new(&row)));
    };
    let row = Org { name: org.to_string(), slug: "load".into(), create_time_ms: 1, ..Org::default() };
    drafts.last_mut().into_iter().for_each(|draft| draft.insert(&ORG, SELF, &Wire::new(&row)));
    for project in projects {
        let address = org.project(*project);
        let row = Project { name: address.to_string(), create_time_ms: 1, ..Project::default() };
        drafts.last_mut().into_iter().for_each(|draft| draft.insert(&PROJECTS, *project.as_bytes(), &Wire::new(&row)));
        grant(&mut drafts, account, *project, &address, Role::ProjectUser);
        next(&mut drafts);
    }
    if let Some(id) = org.id() {
        for _ in 1..members {
            grant(&mut drafts, fresh(), id, org, Role::Guest);
            next(&mut drafts);
        }
    }
    drafts
}

async fn write(node: &Node, address: &Address, drafts: Vec<Draft>) -> Result<(), LoadError> {
    let mut writer = node.store().writer(address, &[]).await.map_err(subject)?;
    for draft in drafts {
        let commit = Commit {
            time_ms: now_ms(),
            principal: String::new(),
            origin: Origin::default(),
            request_id: String::new(),
            method: orgs::CREATE_ORG.path,
            changes: draft.into_parts().changes,
            effects: Vec::new(),
            wake_at_ms: None,
            shreds: Vec::new(),
            record: None,
        };
        writer.submit(commit).await.map_err(subject)?;
    }
    Ok(())
}
