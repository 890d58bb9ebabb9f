//! Every served method, called by everybody: the outcome is the one that
//! stands in `roles_matrix.txt`, and what is hidden looks as if it did not
//! exist.

use std::collections::BTreeSet;

use crate::harness::requests::{Target, request};
use crate::harness::world::absent_backup;
use crate::harness::{Caller, Server};
use canopy_domain::{Role, Wire};
use canopy_proto::identity::v1::CreateApiKeyResponse;
use canopy_proto::org::v1::{CreateEnvironmentRequest, Environment, GetOrgRequest};
use canopy_proto::{Access, Requirement, rules};
use futures::future::join_all;
use prost::Message;
use tonic::{Code, Status};

const MATRIX: &str = include_str!("roles_matrix.txt");

/// The matrix: its columns, and for each case what each caller gets.
struct Matrix {
    callers: Vec<&'static str>,
    cases: Vec<(&'static str, Vec<&'static str>)>,
}

impl Matrix {
    fn read() -> Self {
        let mut lines = MATRIX.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let head = lines.next().expect("a head line").split_whitespace();
        let callers: Vec<_> = head.skip(1).collect();
        let cases = lines.map(|line| {
            let mut words = line.split_whitespace();
            let case = words.next().expect("a method");
            let outcomes: Vec<_> = words.collect();
            assert_eq!(outcomes.len(), callers.len(), "{case} has an outcome for each caller");
            (case, outcomes)
        });
        let cases = cases.collect();
        Self { callers, cases }
    }
}

fn method(case: &str) -> &str {
    case.split('@').next().unwrap_or(case)
}

#[test]
fn the_matrix_has_every_served_method_and_no_other() {
    let served = rules().values().filter(|rule| rule.requires != Requirement::Internal).map(|rule| rule.path);
    let listed = Matrix::read().cases.into_iter().map(|(case, _)| method(case));
    assert_eq!(served.collect::<BTreeSet<_>>(), listed.collect::<BTreeSet<_>>());
}

/// An org of its own for one caller, and those who have a part in it.
struct Stage<'a> {
    server: &'a Server,
    owner: Caller,
    /// Somebody whose account, session and roles are used.
    other: Caller,
    caller: Caller,
    email: String,
    /// The caller's role, and whether it is on the whole org.
    role: Option<(bool, Role)>,
    target: Target,
}

const OTHER: &str = "other@example.org";

impl<'a> Stage<'a> {
    async fn set(server: &'a Server, column: &str) -> Self {
        let email = format!("{column}@example.org");
        let caller = match column {
            "nobody" => server.nobody().await,
            "sys-admin" => server.log_in(&email).await,
            _ => server.person(&email).await,
        };
        let owner = server.log_in("owner@example.org").await;
        let other = server.log_in(OTHER).await;
        let org = owner.create_org(&format!("of-{column}")).await.name;
        let project = owner.create_project(&org, "web").await.name;
        let channel = owner.create_channel(&project, "general").await;
        let message = owner.send(&channel, "hello").await.name;
        let role = match column {
            "guest" => Some((&project, Role::Guest)),
            "user" => Some((&project, Role::ProjectUser)),
            "admin" => Some((&project, Role::ProjectAdmin)),
            "org-guest" => Some((&org, Role::Guest)),
            "org-user" => Some((&org, Role::ProjectUser)),
            "org-admin" => Some((&org, Role::OrgAdmin)),
            "elsewhere" => {
                caller.create_org("elsewhere").await;
                None
            }
            "nobody" | "stranger" | "sys-admin" => None,
            other => panic!("the matrix has an unknown caller, {other}"),
        };
        if let Some((on, role)) = role {
            owner.grant(&caller.account, on, role).await;
        }
        let role = role.map(|(on, role)| (*on == org, role));
        let backup = owner.create_backup(&org).await.name;
        let environment = format!("{project}/environment/production");
        let target = Target { org, project, channel, message, backup, environment, ..Target::default() };
        Self { server, owner, other, caller, email, role, target }
    }

    /// What a case is called on, and by which log-in of the caller.
    async fn target(&self, case: &str, n: usize) -> (Caller, Target) {
        let mut caller = self.caller.clone();
        let column = self.email.split('@').next().unwrap_or_default();
        let mut target = Target {
            account: "account/me".into(),
            session: "session/me".into(),
            email: OTHER.into(),
            grantee: self.other.account.clone(),
            on: self.target.project.clone(),
            unique: format!("n{n}-{column}"),
            ..self.target.clone()
        };
        let (method, variant) = case.split_once('@').unwrap_or((case, ""));
        let name = method.rsplit('/').next().unwrap_or_default();
        match (name, variant) {
            ("Refresh", _) => {
                let opened = self.other.open_session(OTHER).await;
                let session = opened.session.expect("a session").decode().expect("a session");
                target.session = session.name;
                target.refresh_token = opened.credentials.expect("credentials").refresh_token;
            }
            ("LogOut", "own") if column != "nobody" => caller = self.server.log_in(&self.email).await,
            ("EndSession", "own") if column != "nobody" => {
                target.session = self.server.log_in(&self.email).await.session;
            }
            ("RevokeApiKey", "own") if column != "nobody" => {
                let made = caller.raw("canopy.identity.v1.ApiKeys/CreateApiKey", {
                    request("canopy.identity.v1.ApiKeys/CreateApiKey", &target)
                });
                let made: CreateApiKeyResponse = Message::decode(made.await.expect("a key")).expect("a key");
                target.api_key = made.api_key.expect("a key").decode().expect("a key").name;
            }
            ("LogOut" | "EndSession", "another") => target.session = self.other.session.clone(),
            (_, "another") if name.ends_with("Message") => {
                target.message = self.owner.send(&target.channel, "another's").await.name;
            }
            (_, "own") if name.ends_with("Message") => {
                let sent = caller.chat().send_message(crate::harness::message(&target.channel, "mine")).await;
                if let Ok(sent) = sent {
                    target.message = sent.into_inner().decode().expect("a message").name;
                }
            }
            (_, "another") => target.account = self.other.account.clone(),
            ("GetAccount" | "SuspendAccount" | "EnableAccount" | "ForgetFactors", "absent") => {
                target.account = "account/nobody-has@this.example".into();
            }
            ("DeleteEnvironment", _) => {
                let environment = Environment { slug: format!("gone-{n}"), ..Environment::default() };
                let environment = Some(Wire::new(&environment));
                let request =
                    CreateEnvironmentRequest { parent: target.project.clone(), environment, ..Default::default() };
                let made = self.owner.environments().create_environment(request).await.expect("an environment");
                target.environment = made.into_inner().decode().expect("an environment").name;
            }
            ("PurgeProject", _) => {
                target.project = self.owner.create_project(&target.org, &format!("gone-{n}")).await.name;
                target.etag = self.owner.delete_project(&target.project).await.etag;
            }
            ("PurgeOrg", _) => {
                let request = GetOrgRequest { name: target.org.clone() };
                let org = self.owner.orgs().get_org(request).await.expect("its owner sees it").into_inner();
                target.etag = org.decode().expect("an org").etag;
            }
            ("LeaveOrg", _) => {
                // Another org, with the same role: the rows to come need this one.
                target.org = self.owner.create_org(&format!("left-{column}")).await.name;
                if let Some((on_org, role)) = self.role {
                    let project = self.owner.create_project(&target.org, "web").await.name;
                    let on = if on_org { &target.org } else { &project };
                    self.owner.grant(&caller.account, on, role).await;
                }
            }
            ("GetOrg", "deleted") => drop(self.owner.delete_org(&target.org).await),
            ("GetOrg", "absent") => target.org = "org/no-such-org".into(),
            ("GetProject", "absent") => target.project = format!("{}/project/no-such-project", target.org),
            ("GetChannel", "absent") => target.channel = format!("{}/chat/channel/no-such-channel", target.project),
            ("DeleteChannel", _) => {
                target.channel = self.owner.create_channel(&target.project, &format!("gone-{n}")).await;
            }
            (_, "system") => target.org = "system".into(),
            ("GetBackup", "absent") => target.backup = absent_backup(&target.org),
            ("DeleteBackup", _) => target.backup = self.owner.create_backup(&target.org).await.name,
            ("TransferOwnership", _) => self.owner.grant(&target.grantee, &target.org, Role::Guest).await,
            (
                "GrantRole" | "ListGrants" | "CreateBackup" | "ExplainAccess" | "CreateInvitation" | "ListInvitations",
                "org",
            ) => target.on = target.org.clone(),
            ("RevokeRole", on) => {
                if on == "org" {
                    target.on = target.org.clone();
                }
                self.owner.grant(&target.grantee, &target.on, Role::Guest).await;
            }
            _ => {}
        }
        (caller, target)
    }

    async fn outcomes(&self, cases: &[&str]) -> Vec<String> {
        let mut outcomes = Vec::new();
        for (n, case) in cases.iter().enumerate() {
            let (caller, target) = self.target(case, n).await;
            outcomes.push(outcome(call(&caller, method(case), &target).await));
        }
        outcomes
    }
}

async fn call(caller: &Caller, method: &str, target: &Target) -> Result<(), Status> {
    let request = request(method, target);
    if rules()[method].access != Access::Subscription {
        return caller.raw(method, request).await.map(drop);
    }
    let mut stream = caller.raw_stream(method, request).await?;
    stream.message().await.map(|first| assert!(first.is_some(), "{method} says that it stands"))
}

fn outcome(answer: Result<(), Status>) -> String {
    match answer.map_err(|status| status.code()) {
        Ok(()) => "ok".into(),
        Err(Code::Unauthenticated) => "unauth".into(),
        Err(Code::PermissionDenied) => "denied".into(),
        Err(Code::NotFound) => "hidden".into(),
        Err(Code::FailedPrecondition) => "state".into(),
        Err(other) => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_what_the_matrix_says() {
    let server = Server::start().await;
    server.sys_admin("sys-admin@example.org").await;
    server.person("owner@example.org").await;
    server.person(OTHER).await;
    let matrix = Matrix::read();
    let cases: Vec<_> = matrix.cases.iter().map(|(case, _)| *case).collect();
    let columns = matrix.callers.iter().map(|column| {
        let (server, cases) = (&server, &cases);
        async move { Stage::set(server, column).await.outcomes(cases).await }
    });
    let columns = join_all(columns).await;
    let mut wrong = Vec::new();
    for (n, (case, expected)) in matrix.cases.iter().enumerate() {
        for (caller, (expected, column)) in matrix.callers.iter().zip(expected.iter().zip(&columns)) {
            if column[n] != *expected {
                wrong.push(format!("{case} by {caller}: {}, and should be {expected}", column[n]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop().await;
}

/// To who may not see it, what exists and what does not read the same, but for
/// the name that they gave.
#[tokio::test]
async fn what_is_hidden_looks_absent() {
    let server = Server::start().await;
    let owner = server.person("owner@example.org").await;
    owner.create_org("seen").await;
    let backup = owner.create_backup("org/seen").await.name;
    let backup = backup.rsplit('/').next().expect("an id");
    for project in ["kept", "open"] {
        owner.create_project("org/seen", project).await;
        let channel = owner.create_channel(&format!("org/seen/project/{project}"), "general").await;
        owner.send(&channel, "hello").await;
    }
    let stranger = server.person("stranger@example.org").await;
    let neighbour = server.person("neighbour@example.org").await;
    owner.grant(&neighbour.account, "org/seen/project/open", Role::ProjectAdmin).await;
    let nobody = server.nobody().await;

    let names = |org: &str, project: &str| {
        let project = format!("org/{org}/project/{project}");
        Target {
            account: "account/owner@example.org".into(),
            org: format!("org/{org}"),
            channel: format!("{project}/chat/channel/general"),
            message: format!("{project}/chat/channel/general/message/1"),
            backup: format!("org/{org}/job/backup/{backup}"),
            environment: format!("{project}/environment/production"),
            grantee: stranger.account.clone(),
            on: project.clone(),
            project,
            unique: "fresh".into(),
            ..Target::default()
        }
    };
    let exists = names("seen", "kept");
    let absent = [names("none", "kept"), names("seen", "none")];
    let unregistered = Target { account: "account/nobody@example.org".into(), ..absent[0].clone() };
    let concern = |rule: &canopy_proto::Rule| match rule.requires {
        Requirement::Least(_) => rule.address.starts_with('{'),
        Requirement::Own => rule.owner == "account",
        _ => false,
    };
    for rule in rules().values().filter(|rule| concern(rule)) {
        let is_of_org = rule.owner == "org" || rule.path.ends_with("CreateProject");
        for (who, caller) in [("nobody", &nobody), ("a stranger", &stranger), ("a neighbour", &neighbour)] {
            for absent in [&absent[0], &absent[1], &unregistered] {
                if who == "a neighbour" && is_of_org && !rule.address.contains("grant") {
                    continue;
                }
                let seen = call(caller, rule.path, &exists).await.expect_err("it is hidden");
                let told = call(caller, rule.path, absent).await.expect_err("it is absent");
                let renamed = told.message().replace("org/none", "org/seen").replace("project/none", "project/kept");
                assert_eq!((seen.code(), seen.message()), (told.code(), &renamed[..]), "{} by {who}", rule.path);
            }
        }
    }
    server.stop().await;
}
