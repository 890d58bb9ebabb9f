//! Names that name nothing, or something else than what is asked for, or what
//! is somebody else's: refused, and nothing changes.

use crate::harness::requests::{Target, request};
use crate::harness::world::{CHAT, IDENTITY, ORGS, World, check, refused, served};
use canopy_domain::{Role, Wire};
use canopy_proto::chat::v1::{ChannelPosition, SubscribeRequest};
use canopy_proto::org::v1::{Grant, GrantRoleRequest};
use canopy_proto::{Requirement, Rule};
use prost::Message;
use tonic::Code;

/// The field that names what a method is about. What a token names is nobody's
/// to know: one that is malformed is as good as any other that is none.
fn named(rule: &'static Rule) -> Option<&'static str> {
    let field = rule.address.strip_prefix('{').and_then(|rest| rest.split('}').next());
    field.filter(|field| *field != "token")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_names() {
    let world = World::new().await;
    let before = world.listing().await;
    let ada = &world.here.owner;
    let id = world.here.org.trim_start_matches("org/");
    let long = format!("org/{}", "a".repeat(10_000));
    let names = [
        "../",
        "..",
        "/",
        "org",
        "org/",
        "org/..",
        "org/../org/here",
        "org//x",
        "org//project/x",
        "org/%2e%2e/x",
        "org/here%2fproject",
        "org/here\\x",
        "ORG/here",
        "org/HERE",
        "org/he re",
        "org/here\0",
        "org/here\n",
        "org/\u{202e}ereh",
        "org/h\u{e9}re",
        "/org/here",
        "here",
        "account",
        "system/directory",
        "system/directory/x",
        "nothing/here",
        &long,
        &format!("org/{}/", id),
        &format!("org/{}", id.to_uppercase()),
        &format!("org/{id}/project/"),
        &format!("org/{id}/project/../project/web"),
        &format!("org/{id}/project/web/"),
        &format!("org/{id}/project/web/chat/"),
        &format!("org/{id}/project/web/chat/channel/../../.."),
    ];
    for rule in served() {
        let Some(field) = named(rule) else { continue };
        if rule.path.ends_with("/RevokeInvitation") {
            // The request goes on with `/invitation`, which makes names of some.
            continue;
        }
        for name in names {
            let target = Target {
                account: name.into(),
                session: name.into(),
                org: name.into(),
                // Without the `/chat` that requests about channels add.
                project: name.strip_suffix("/chat").unwrap_or(name).into(),
                channel: name.into(),
                message: name.into(),
                backup: name.into(),
                api_key: name.into(),
                passkey: name.into(),
                environment: name.into(),
                on: name.into(),
                ..world.target(&world.here)
            };
            let status = refused(ada, rule.path, request(rule.path, &target)).await;
            check(
                &status,
                Code::InvalidArgument,
                field,
                &format!("{} of {:?}", rule.path, name.get(..60).unwrap_or(name)),
            );
        }
    }
    assert_eq!(world.listing().await, before);
    world.server.stop().await;
}

/// The name of one kind of thing where another kind is asked for: a project's
/// name must not delete the org, nor a channel's the project.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_another_kind() {
    let world = World::new().await;
    let before = world.listing().await;
    let here = &world.here;
    // Somebody who runs the project alone must not reach the org through it.
    let admin = world.server.person("admin@example.org").await;
    let grant = Grant {
        account: admin.account.clone(),
        on: here.project.clone(),
        role: Role::ProjectAdmin.into(),
        ..Grant::default()
    };
    let grant = GrantRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
    let kinds = |name: &str| {
        [
            here.org.clone(),
            here.project.clone(),
            format!("{}/chat", here.project),
            here.channel.clone(),
            here.message.clone(),
            format!("{}/chat", here.org),
            "account/me".into(),
            "session/me".into(),
            format!("{}/x", here.owner.account),
            format!("{}/x", here.owner.session),
        ]
        .into_iter()
        .filter(|other| other != name)
        .collect::<Vec<_>>()
    };
    here.owner.orgs().grant_role(grant).await.expect("a grant");
    let granted = world.listing().await;
    assert_ne!(granted, before);
    for rule in served() {
        let Some(field) = named(rule) else { continue };
        let right = match (rule.path.rsplit('/').next().unwrap_or_default(), field) {
            ("RotateVaultKey" | "CreateBackup" | "ExplainAccess", _) => {
                vec![here.org.clone(), here.project.clone(), format!("{}/chat", here.project)]
            }
            (
                "GetBackup" | "DeleteBackup" | "RevokeApiKey" | "UpdatePasskey" | "DeletePasskey" | "GetEnvironment"
                | "UpdateEnvironment" | "DeleteEnvironment",
                _,
            ) => vec![],
            ("CreateEnvironment" | "ListEnvironments", _) => vec![here.project.clone()],
            (
                "ListOrgKeys" | "RotateOrgKey" | "ListBackups" | "ListMembers" | "TransferOwnership" | "SearchProjects"
                | "GetQuota" | "SetQuota",
                _,
            ) => {
                vec![here.org.clone()]
            }
            ("CreateApiKey" | "ListApiKeys" | "LogOutEverywhere" | "ChangePassword", _) => vec!["account/me".into()],
            // The request adds `/audit`.
            ("ListAuditEntries" | "ExportAudit", _) => vec![here.org.clone()],
            ("ListGrants" | "GrantRole" | "RevokeRole", _) => vec![here.org.clone(), here.project.clone()],
            ("CreateChannel" | "ListChannels" | "ListShredCertificates", _) => vec![format!("{}/chat", here.project)],
            (_, "session") => vec!["session/me".into()],
            (name, _) if name.ends_with("Org") || ["CreateProject", "ListProjects"].contains(&name) => {
                vec![here.org.clone()]
            }
            (name, _) if name.ends_with("Project") => vec![here.project.clone()],
            (name, _) if name.ends_with("Channel") || ["SendMessage", "ListMessages", "Subscribe"].contains(&name) => {
                vec![here.channel.clone()]
            }
            (name, _) if name.ends_with("Message") => vec![here.message.clone()],
            (name, _)
                if name.ends_with("Account")
                    || ["ListSessions", "ListSecurityEvents"].contains(&name)
                    || rule.path.contains("SecondFactors")
                    || rule.path.contains("Passkeys") =>
            {
                vec!["account/me".into()]
            }
            ("ChangeEmail" | "ListBlocked" | "ForgetFactors", _) => vec!["account/me".into()],
            ("CreateInvitation" | "ListInvitations" | "RevokeInvitation", _) => {
                vec![here.org.clone(), here.project.clone()]
            }
            ("LogOut", _) => vec!["session/me".into()],
            other => panic!("what {other:?} names is not known"),
        };
        for name in kinds("").into_iter().filter(|name| !right.contains(name)) {
            let project = match right.iter().any(|right| right.ends_with("/chat")) {
                // The request adds `/chat`.
                true => match name.strip_suffix("/chat") {
                    Some(project) => project.to_owned(),
                    None => format!("{name}/x"),
                },
                false => name.clone(),
            };
            let target = Target {
                account: name.clone(),
                session: name.clone(),
                org: name.clone(),
                project,
                channel: name.clone(),
                message: name.clone(),
                backup: name.clone(),
                api_key: name.clone(),
                passkey: name.clone(),
                environment: name.clone(),
                on: name.clone(),
                ..world.target(here)
            };
            for caller in [&here.owner, &admin] {
                let status = refused(caller, rule.path, request(rule.path, &target)).await;
                let about = format!("{} of {name}", rule.path);
                // Where the caller may not see even the org, or never calls such methods, that comes first.
                let is_turned = matches!(rule.requires, Requirement::Own | Requirement::Least(Role::SysAdmin));
                let may_hide = std::ptr::eq(caller, &admin) || rule.owner == "account" || is_turned;
                if may_hide && [Code::NotFound, Code::PermissionDenied].contains(&status.code()) {
                    continue;
                }
                check(&status, Code::InvalidArgument, field, &about);
            }
        }
    }
    assert_eq!(world.listing().await, granted);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_ids() {
    let world = World::new().await;
    let (here, there) = (&world.here, &world.there);
    let own = there.owner.open_session("there@example.org").await.credentials.expect("credentials").refresh_token;
    let before = world.listing().await;
    let tail = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let base = world.target(there);
    // Here's ids under names that there's owner may use.
    let project_under = format!("{}/project/{}", there.org, tail(&here.project));
    let channel_under = format!("{}/chat/channel/{}", there.project, tail(&here.channel));
    let number = tail(&here.message);
    let borrowed = [
        world.target(here),
        Target {
            org: there.org.clone(),
            project: project_under.clone(),
            on: project_under.clone(),
            channel: format!("{project_under}/chat/channel/{}", tail(&here.channel)),
            message: format!("{project_under}/chat/channel/{}/message/{number}", tail(&here.channel)),
            environment: format!("{project_under}/environment/production"),
            ..base.clone()
        },
    ];
    for rule in served().filter(|rule| matches!(rule.requires, Requirement::Least(_)) && rule.address.starts_with('{'))
    {
        if matches!(rule.owner.as_str(), "account" | "mail") {
            // Of no org.
            continue;
        }
        for (n, target) in borrowed.iter().enumerate() {
            let of_org = rule.path.contains("OrgKey")
                || rule.owner == "audit"
                || rule.owner == "org" && !rule.address.contains("grant") && !rule.path.ends_with("ListGrants");
            if n == 1 && (of_org || rule.path.ends_with("CreateProject")) {
                continue;
            }
            let status = refused(&there.owner, rule.path, request(rule.path, target)).await;
            check(&status, Code::NotFound, "", &format!("{} of {target:?}", rule.path));
        }
    }
    let of_channel = ["GetChannel", "UpdateChannel", "DeleteChannel", "SendMessage", "ListMessages", "Subscribe"];
    let of_message = ["GetMessage", "EditMessage", "DeleteMessage"];
    for method in of_channel.iter().chain(&of_message) {
        let path = format!("{CHAT}/{method}");
        let target = Target {
            channel: channel_under.clone(),
            message: format!("{channel_under}/message/{number}"),
            ..base.clone()
        };
        let status = refused(&there.owner, &path, request(&path, &target)).await;
        check(&status, Code::NotFound, "", &format!("{path}: a channel of another project"));
    }
    for method in of_message {
        let path = format!("{CHAT}/{method}");
        let target = Target { message: format!("{}/message/{number}", world.second_channel), ..base.clone() };
        let status = refused(&here.owner, &path, request(&path, &target)).await;
        check(&status, Code::NotFound, "", &format!("{path}: a message of another channel"));
    }
    // One's own channel does not open the door to another one.
    let channels = [&there.channel, &here.channel].map(|name| ChannelPosition { name: name.clone(), cursor: Some(0) });
    let request_both = SubscribeRequest { channels: channels.into() }.encode_to_vec();
    let status = refused(&there.owner, &format!("{CHAT}/Subscribe"), request_both).await;
    check(&status, Code::NotFound, "", "both channels");

    // Accounts and sessions.
    let theirs = Target { account: here.owner.account.clone(), session: here.owner.session.clone(), ..base.clone() };
    for method in ["GetAccount", "UpdateAccount", "ListSessions", "LogOut", "LogOutEverywhere", "ChangePassword"] {
        let path = format!("{IDENTITY}/{method}");
        let status = refused(&there.owner, &path, request(&path, &theirs)).await;
        check(&status, Code::PermissionDenied, "", &path);
    }
    let path = format!("{IDENTITY}/Refresh");
    let with_own_token = Target { refresh_token: own, ..theirs };
    let status = refused(&there.owner, &path, request(&path, &with_own_token)).await;
    check(&status, Code::Unauthenticated, "", "another's session with one's own refresh token");

    // Who gets a role must exist.
    let nobody = canopy_domain::Id::fresh(1, &[7; 16]);
    for (grantee, code) in [
        (format!("account/{nobody}"), Code::NotFound),
        ("account/nobody@example.org".into(), Code::NotFound),
        ("account/me".into(), Code::InvalidArgument),
        ("account/..".into(), Code::InvalidArgument),
        ("account".into(), Code::InvalidArgument),
        (here.owner.session.clone(), Code::InvalidArgument),
        (here.org.clone(), Code::InvalidArgument),
        (format!("{}/x", here.owner.account), Code::InvalidArgument),
    ] {
        for method in ["GrantRole", "RevokeRole"] {
            let path = format!("{ORGS}/{method}");
            let target = Target { grantee: grantee.clone(), ..world.target(here) };
            let status = refused(&here.owner, &path, request(&path, &target)).await;
            check(&status, code, "grant.account", &format!("{path} for {grantee}"));
        }
    }
    assert_eq!(world.listing().await, before);
    world.server.stop().await;
}
