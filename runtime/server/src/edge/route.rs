//! From a method and a request to the actor that answers: which address, and
//! which org or project the caller's role is looked up at.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use canopy_actors::{Node, now_ms, random_bytes};
use canopy_domain::{Address, AddressError, Code, Id, Kind, Name, Principal, Refusal, State};
use canopy_proto::schema::{self, MessageSchema, Path};
use canopy_proto::system::v1::{Reservation, ResolveRequest};
use canopy_proto::{Requirement, Rule};
use prost::Message;
use sha2::{Digest, Sha256};

use super::status::grpc_code;

/// gRPC's status codes.
const CODES: usize = 17;

/// How a method's rule names the owner.
enum Target {
    /// The node itself.
    Edge,
    /// The node itself, about the org that a field names.
    EdgeAbout(Field),
    /// The caller's own account or session.
    Me,
    /// A new account, session or org.
    Fresh,
    /// A new child of the address in a field: the collection's name.
    FreshUnder(Field, String),
    /// The address in a field, or the owner of what a field names.
    Named(Field),
    /// A fixed address.
    Literal(Address),
}

/// A string in a request.
struct Field {
    /// `grant.on`
    dotted: String,
    path: Path,
}

/// A method, ready to be routed.
pub struct Route {
    /// What its `.proto` says.
    pub rule: &'static Rule,
    /// Checks requests.
    pub input: &'static MessageSchema,
    target: Target,
    /// Seconds from arrival to answer.
    pub seconds: metrics::Histogram,
    /// Answers without an error.
    pub answered: metrics::Counter,
    /// Refusals by the number of their code, each known once it has been needed.
    refused: [OnceLock<metrics::Counter>; CODES],
    /// Counts from 0 without gaps.
    pub number: usize,
}

/// Where a request goes.
pub struct Destination {
    /// Who answers; the edge itself where absent.
    pub owner: Option<Address>,
    /// Where the caller's role is looked up.
    pub scopes: Vec<Address>,
    /// What the request calls these: refusals repeat no id that stands behind
    /// a slug, lest they tell a stranger that something does.
    pub asked: Vec<String>,
    /// The request with slugs replaced by ids.
    pub request: Bytes,
    /// Empty where there is none.
    pub request_id: String,
}

/// The routes of all methods that are served to the outside, by path.
pub fn routes() -> &'static HashMap<&'static str, Route> {
    static ROUTES: LazyLock<HashMap<&'static str, Route>> = LazyLock::new(|| {
        let served = canopy_proto::rules().values().filter(|rule| rule.requires != Requirement::Internal);
        let made = |(number, rule): (usize, &'static Rule)| {
            (rule.path, Route::new(rule, number).unwrap_or_else(|why| panic!("{}: {why}", rule.path)))
        };
        served.enumerate().map(made).collect()
    });
    &ROUTES
}

impl Route {
    fn new(rule: &'static Rule, number: usize) -> Result<Self, String> {
        let input = schema::message(rule.descriptor.input().full_name());
        let named = |dotted: &str| -> Result<Field, String> {
            let path = input.path(dotted).map_err(|e| e.to_string())?;
            Ok(Field { dotted: dotted.to_owned(), path })
        };
        let target = match rule.address.as_str() {
            "" => Target::Edge,
            "account/me" | "session/me" => Target::Me,
            "account/new" | "session/new" | "org/new" => Target::Fresh,
            template => match template.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                Some((field, "")) if rule.owner == "edge" => Target::EdgeAbout(named(field)?),
                Some((field, "")) => Target::Named(named(field)?),
                Some((field, rest)) => {
                    let collection = rest.strip_prefix('/').and_then(|rest| rest.strip_suffix("/new"));
                    let collection = collection.ok_or_else(|| format!("`{template}` is no address"))?;
                    Target::FreshUnder(named(field)?, collection.to_owned())
                }
                None => Target::Literal(Address::parse(template).map_err(|e| e.to_string())?),
            },
        };
        Ok(Self {
            rule,
            input,
            target,
            seconds: metrics::histogram!("canopy_edge_call_seconds", "method" => rule.path),
            answered: metrics::counter!("canopy_edge_calls_total", "method" => rule.path, "code" => "OK"),
            refused: Default::default(),
            number,
        })
    }

    /// Counts an answer that is a refusal: the look-up of a metric costs as much as the refusal.
    pub fn count_refused(&self, code: Code) {
        let code = grpc_code(code);
        if let Some(known) = self.refused.get(code as usize) {
            let path = self.rule.path;
            let counter =
                || metrics::counter!("canopy_edge_calls_total", "method" => path, "code" => format!("{code:?}"));
            known.get_or_init(counter).increment(1);
        }
    }

    /// Finds the destination of a checked request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: a field names nothing of the right kind;
    /// `NOT_FOUND`: a slug or e-mail address that nobody holds;
    /// `UNAUTHENTICATED`: `me`, and nobody is signed in.
    pub async fn destination(
        &self,
        node: &Node,
        principal: &Principal,
        request: Bytes,
    ) -> Result<Destination, Refusal> {
        let request_id = self.input.request_id(&request).unwrap_or_default().to_owned();
        let found = |owner: Address, request: Bytes, request_id: String| Destination {
            scopes: owner.org_address().map(|_| owner.clone()).into_iter().collect(),
            asked: owner.org_address().map(|_| owner.to_string()).into_iter().collect(),
            owner: Some(owner),
            request,
            request_id,
        };
        let free = |owner: Option<Address>, request: Bytes, request_id: String| Destination {
            owner,
            scopes: Vec::new(),
            asked: Vec::new(),
            request,
            request_id,
        };
        match &self.target {
            Target::Edge => Ok(free(None, request, request_id)),
            Target::EdgeAbout(field) => {
                let (scopes, asked, request) = self.resolve(node, principal, field, "org", request).await?;
                if scopes.is_empty() {
                    return Err(Refusal::invalid(&field.dotted, "is required"));
                }
                Ok(Destination { owner: None, scopes, asked, request, request_id })
            }
            Target::Literal(address) => Ok(found(address.clone(), request, request_id)),
            Target::Me => Ok(found(me(&self.rule.owner, principal)?, request, request_id)),
            Target::Fresh => {
                let id = self.fresh_id(principal, &request_id);
                let address = match self.rule.owner.as_str() {
                    "account" => Address::account(id),
                    "session" => Address::session(id),
                    _ => Address::org(id),
                };
                Ok(free(Some(address), request, request_id))
            }
            Target::FreshUnder(field, collection) => {
                // Looked at before the names are, so that the refusal says
                // nothing of what exists.
                for text in field.path.strings(&request) {
                    self.check_parent(&field.dotted, text)?;
                }
                let (scopes, asked, request) = self.resolve(node, principal, field, "org", request).await?;
                let parent = scopes.first().and_then(Address::org_address);
                let parent = parent.ok_or_else(|| Refusal::invalid(&field.dotted, "is required"))?;
                let id = self.fresh_id(principal, &request_id);
                let address = Address::parse(&format!("{parent}/{collection}/{id}")).map_err(internal)?;
                Ok(Destination { owner: Some(address), scopes, asked, request, request_id })
            }
            Target::Named(field) => {
                let (names, asked, request) = self.resolve(node, principal, field, &self.rule.owner, request).await?;
                let named = names.first().ok_or_else(|| Refusal::invalid(&field.dotted, "is required"))?;
                let owner =
                    Name::parse(named.as_str()).and_then(|name| name.owner(&self.rule.owner)).map_err(internal)?;
                let owner =
                    if owner == named.as_str() { named.clone() } else { Address::parse(owner).map_err(internal)? };
                if owner.org_address().is_none() {
                    return Ok(free(Some(owner), request, request_id));
                }
                Ok(Destination { owner: Some(owner), scopes: names, asked, request, request_id })
            }
        }
    }

    /// Whether something can be made of, or under, what a request names.
    fn check_parent(&self, dotted: &str, text: &str) -> Result<(), Refusal> {
        let name = Name::parse(text).map_err(|e| Refusal::invalid(dotted, e.to_string()))?;
        let owner = name.owner("org").map_err(|e| Refusal::invalid(dotted, e.to_string()))?;
        if self.rule.owner == "backup" {
            // Whatever has a vault.
            let kind = Address::parse(text).ok();
            return match kind.as_ref().and_then(Address::kind) {
                Some(Kind::Org | Kind::Project | Kind::Module(_)) => Ok(()),
                _ => Err(Refusal::invalid(dotted, format!("`{text}` is no org, project or module"))),
            };
        }
        if owner == text {
            Ok(())
        } else {
            Err(Refusal::invalid(dotted, format!("`{text}` is not of the form `org/*`")))
        }
    }

    /// The same for a repeat of the same request, so that the repeat finds
    /// what the first try made.
    fn fresh_id(&self, principal: &Principal, request_id: &str) -> Id {
        if request_id.is_empty() {
            return Id::fresh(now_ms(), &random_bytes());
        }
        let mut hash = Sha256::new();
        for part in [self.rule.path, principal.as_str(), request_id] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let mut id = [0u8; 16];
        for (to, from) in id.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        Id::from_bytes(id)
    }

    /// The addresses named in a field, as the request calls them, and the
    /// request with their aliases replaced by ids. An address is cut to the org or project, or the actor
    /// of `kind`, whichever the name reaches.
    async fn resolve(
        &self,
        node: &Node,
        principal: &Principal,
        field: &Field,
        kind: &str,
        request: Bytes,
    ) -> Result<(Vec<Address>, Vec<String>, Bytes), Refusal> {
        let invalid = |e: AddressError| Refusal::invalid(&field.dotted, e.to_string());
        let mut addresses = Vec::new();
        let mut asked = Vec::new();
        let mut rewritten = Vec::new();
        let mut changed = false;
        for text in field.path.strings(&request) {
            let name = Name::parse(text).map_err(invalid)?;
            let owner = name.owner(kind).map_err(invalid)?;
            // A project that an org answers for is where the role is looked up.
            let reach = match kind {
                "org" => name.owner("project").unwrap_or(owner),
                _ => owner,
            };
            let canonical = self.canonical(node, principal, Name::parse(reach).map_err(invalid)?).await?;
            let is_alias = canonical.as_str() != reach;
            let rest = text.get(reach.len()..).unwrap_or_default();
            rewritten.push(is_alias.then(|| format!("{canonical}{rest}")));
            changed |= is_alias;
            asked.push(reach.to_owned());
            addresses.push(canonical);
        }
        let request = if changed {
            let mut names = rewritten.into_iter();
            self.input.replace_string(&field.path, &request, |_| names.next().flatten())
        } else {
            request
        };
        Ok((addresses, asked, request))
    }

    async fn canonical(&self, node: &Node, principal: &Principal, name: Name<'_>) -> Result<Address, Refusal> {
        let parse = |text: &str| {
            let address = Address::parse(text).map_err(internal)?;
            let mut parts = text.split('/').skip(1);
            let ids = match address.kind() {
                Some(Kind::Job(_)) => [parts.next(), parts.nth(2)],
                _ => [parts.next(), parts.nth(1)],
            };
            let known = ids.into_iter().flatten().all(|id| Id::parse(id).is_some());
            if known { Ok(address) } else { Err(Refusal::not_found(name.as_str())) }
        };
        // Parts of the installation have names and no ids.
        if name.segment(0) == Some(canopy_domain::SYSTEM) {
            return Address::parse(name.as_str()).map_err(internal);
        }
        // Programs call with ids, and most often.
        if let Ok(address) = parse(name.as_str()) {
            return Ok(address);
        }
        let first = name.segment(1).unwrap_or_default();
        match name.segment(0) {
            Some(kind @ ("account" | "session")) if first == "me" => me(kind, principal),
            Some("account") if first.contains('@') => parse(&self.holder(node, "email", first, name.as_str()).await?),
            Some("org") => {
                let org = match Id::parse(first) {
                    Some(id) => Address::org(id),
                    None => parse(&self.holder(node, "org", first, name.as_str()).await?)?,
                };
                match (name.segment(3), name.owner("project")) {
                    (Some(project), Ok(prefix)) if Id::parse(project).is_none() => {
                        let snapshot = node.snapshot(&org).await?;
                        let id = canopy_org::project_by_slug(&State(&snapshot), project, now_ms())?;
                        let id = id.ok_or_else(|| Refusal::not_found(name.as_str()))?;
                        let rest = name.as_str().get(prefix.len()..).unwrap_or_default();
                        parse(&format!("{}{rest}", org.project(id)))
                    }
                    _ => {
                        let prefix = name.prefix(2).unwrap_or_default();
                        let rest = name.as_str().get(prefix.len()..).unwrap_or_default();
                        parse(&format!("{org}{rest}"))
                    }
                }
            }
            _ => parse(name.as_str()),
        }
    }

    async fn holder(&self, node: &Node, space: &str, key: &str, shown: &str) -> Result<String, Refusal> {
        let directory = Address::system("directory");
        let request = ResolveRequest { space: space.into(), key: key.into() }.encode_to_vec().into();
        let method = canopy_proto::methods::directory::RESOLVE.path;
        match node.ask(&directory, method, request, &directory, "").await {
            Ok(answer) => Ok(Reservation::decode(answer).unwrap_or_default().holder),
            Err(refusal) if refusal.code == Code::NotFound => Err(Refusal::not_found(shown)),
            Err(refusal) => Err(refusal),
        }
    }
}

fn internal(e: AddressError) -> Refusal {
    Refusal::new(Code::Internal, e.to_string())
}

fn me(kind: &str, principal: &Principal) -> Result<Address, Refusal> {
    match (kind, principal) {
        ("account", Principal::Person { account, .. } | Principal::Key { account, .. }) => Ok(account.clone()),
        ("session", Principal::Key { .. }) => Err(super::gate::not_for_keys()),
        ("session", Principal::Person { session, .. }) => Ok(session.clone()),
        _ => {
            Err(Refusal::new(Code::Unauthenticated, "nobody is signed in").hint("log in with `canopy identity log-in`"))
        }
    }
}

/// Whether an address is the caller's own.
pub fn is_own(owner: &Address, principal: &Principal) -> bool {
    match (owner.kind(), principal) {
        (Some(Kind::Account), Principal::Person { account, .. }) => owner == account,
        (Some(Kind::Session), Principal::Person { session, .. }) => owner == session,
        _ => false,
    }
}
