//! Two orgs with all that requests can be about, and what a refusal must say.

use canopy_domain::Id;
use canopy_proto::{Access, Requirement, Rule, rules};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::requests::{Target, request};
use super::{Caller, Server};

pub const CHAT: &str = "canopy.chat.v1.Chat";
pub const IDENTITY: &str = "canopy.identity.v1.Identity";
pub const ORGS: &str = "canopy.org.v1.Orgs";
pub const PROJECTS: &str = "canopy.org.v1.Projects";

pub struct Place {
    pub owner: Caller,
    pub org: String,
    pub project: String,
    pub channel: String,
    pub message: String,
}

/// Two orgs of two people, and a second project with a channel in the first.
pub struct World {
    pub server: Server,
    pub here: Place,
    pub there: Place,
    pub second_project: String,
    pub second_channel: String,
}

impl World {
    pub async fn new() -> Self {
        let server = Server::start().await;
        let mut places = Vec::new();
        for name in ["here", "there"] {
            let owner = server.person(&format!("{name}@example.org")).await;
            let org = owner.create_org(name).await.name;
            let project = owner.create_project(&org, "web").await.name;
            let channel = owner.create_channel(&project, "general").await;
            for text in ["one", "two", "three"] {
                owner.send(&channel, text).await;
            }
            let message = owner.send(&channel, "four").await.name;
            places.push(Place { owner, org, project, channel, message });
        }
        let there = places.pop().expect("two places");
        let here = places.pop().expect("two places");
        let second_project = here.owner.create_project(&here.org, "ops").await.name;
        let second_channel = here.owner.create_channel(&here.project, "alerts").await;
        here.owner.create_channel(&second_project, "pages").await;
        Self { server, here, there, second_project, second_channel }
    }

    /// All that the two may list, to see that nothing changed.
    pub async fn listing(&self) -> Vec<String> {
        let mut listing = Vec::new();
        for place in [&self.here, &self.there] {
            let t = Target { account: "account/me".into(), ..Target::default() };
            let mut calls = vec![
                (ORGS, "ListOrgs", t.clone()),
                (IDENTITY, "GetAccount", t.clone()),
                (IDENTITY, "ListSessions", t),
                (ORGS, "GetOrg", self.target(place)),
                (ORGS, "ListGrants", Target { on: place.org.clone(), ..Target::default() }),
                (PROJECTS, "ListProjects", self.target(place)),
                (CHAT, "ListChannels", self.target(place)),
                (CHAT, "ListMessages", self.target(place)),
            ];
            if place.org == self.here.org {
                calls.push((
                    CHAT,
                    "ListMessages",
                    Target { channel: self.second_channel.clone(), ..Target::default() },
                ));
                calls.push((
                    CHAT,
                    "ListChannels",
                    Target { project: self.second_project.clone(), ..Target::default() },
                ));
            }
            for (service, method, target) in calls {
                let path = format!("{service}/{method}");
                let answer = place.owner.raw(&path, request(&path, &target)).await;
                let digest = Sha256::digest(answer.expect("a listing"));
                listing.push(format!("{path} by {}: {digest:?}", place.owner.account));
            }
        }
        listing
    }

    pub fn target(&self, place: &Place) -> Target {
        Target {
            account: "account/me".into(),
            session: "session/me".into(),
            email: "here@example.org".into(),
            refresh_token: "none".into(),
            org: place.org.clone(),
            project: place.project.clone(),
            channel: place.channel.clone(),
            message: place.message.clone(),
            backup: absent_backup(&place.org),
            api_key: String::new(),
            passkey: String::new(),
            environment: format!("{}/environment/production", place.project),
            grantee: self.there.owner.account.clone(),
            on: place.project.clone(),
            unique: "fresh".into(),
            etag: String::new(),
        }
    }
}

/// The name of a backup that nobody made.
pub fn absent_backup(org: &str) -> String {
    format!("{org}/job/backup/{}", Id::from_bytes([9; 16]))
}

pub async fn refused(caller: &Caller, path: &str, request: Vec<u8>) -> Status {
    let is_stream = rules().get(path).is_some_and(|rule| rule.access == Access::Subscription);
    let refused = match is_stream {
        true => caller.raw_stream(path, request).await.map(drop),
        false => caller.raw(path, request).await.map(drop),
    };
    refused.expect_err(path)
}

pub fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// `channels[0].name` as `channels.name`.
pub fn plain(field: &str) -> String {
    field.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

#[track_caller]
pub fn check(status: &Status, code: Code, field: &str, about: &str) {
    assert_eq!(status.code(), code, "{about}: {status:?}");
    assert!(!status.message().is_empty(), "{about} has no message");
    assert!(status.message().len() < 1000, "{about} repeats the request: {}", status.message().len());
    if code == Code::InvalidArgument && !field.is_empty() {
        let fields = fields(status);
        assert!(fields.iter().any(|f| plain(f) == field), "{about} names {fields:?}, not {field}: {status:?}");
    }
}

pub fn served() -> impl Iterator<Item = &'static Rule> {
    rules().values().filter(|rule| rule.requires != Requirement::Internal)
}
