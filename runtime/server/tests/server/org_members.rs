//! The people of an org: who is one, who leaves, and who takes over.

use canopy_domain::{Role, Wire};
use canopy_proto::identity::v1::DeleteAccountRequest;
use canopy_proto::ops::v1::SuspendAccountRequest;
use canopy_proto::org::v1::{
    ExplainAccessRequest, ExplainAccessResponse, GetOrgRequest, Grant, GrantRoleRequest, LeaveOrgRequest,
    ListMembersRequest, ListMembersResponse, ListOrgsRequest, Member, RevokeRoleRequest, TransferOwnershipRequest,
};
use canopy_proto::{Requirement, rules};
use futures::future::join_all;
use tonic::{Code, Status};

use Role::{Guest, OrgAdmin, ProjectAdmin, ProjectUser};

use crate::harness::{Caller, PASSWORD, Server};

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.expect_err("it is refused").code()
}

async fn page(caller: &Caller, org: &str, page_size: i32, page_token: &str) -> Result<ListMembersResponse, Status> {
    let request = ListMembersRequest { parent: org.into(), page_size, page_token: page_token.into() };
    Ok(caller.orgs().list_members(request).await?.into_inner())
}

async fn members(caller: &Caller, org: &str, page_size: i32) -> Vec<Member> {
    let (mut members, mut token) = (Vec::new(), String::new());
    loop {
        let found = page(caller, org, page_size, &token).await.expect("a page");
        assert!(page_size == 0 || found.members.len() <= page_size as usize);
        members.extend(found.members);
        token = found.next_page_token;
        if token.is_empty() {
            return members;
        }
    }
}

/// Where somebody holds which roles, as the list has it.
fn held(members: &[Member], caller: &Caller) -> Option<(Role, Vec<(String, Role)>)> {
    let member = members.iter().find(|member| member.account == caller.account)?;
    let mut roles: Vec<_> = member.grants.iter().map(|grant| (grant.on.clone(), grant.role())).collect();
    roles.sort_by_key(|(on, role)| (on.clone(), *role as i32));
    Some((member.org_role(), roles))
}

async fn leave(caller: &Caller, org: &str) -> Result<usize, Status> {
    let request = LeaveOrgRequest { name: org.into(), request_id: String::new() };
    Ok(caller.orgs().leave_org(request).await?.into_inner().grants.len())
}

async fn transfer(caller: &Caller, org: &str, to: &str, keep: Role) -> Result<(), Status> {
    let request = TransferOwnershipRequest {
        name: org.into(),
        account: to.into(),
        keep_role: keep.into(),
        request_id: String::new(),
    };
    caller.orgs().transfer_ownership(request).await.map(drop)
}

async fn explain(caller: &Caller, name: &str, account: &str) -> Result<ExplainAccessResponse, Status> {
    let request = ExplainAccessRequest { name: name.into(), account: account.into() };
    Ok(caller.orgs().explain_access(request).await?.into_inner())
}

async fn is_member(caller: &Caller) -> bool {
    let listed = caller.orgs().list_orgs(ListOrgsRequest::default()).await.expect("a list");
    !listed.into_inner().orgs.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_listed_once_with_all_their_roles() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let web = ada.create_project(&org, "web").await.name;
    let ops = ada.create_project(&org, "ops").await.name;
    let people = join_all((0..7).map(async |n| server.person(&format!("p{n}@example.org")).await)).await;
    for person in &people {
        // The lower one comes second, and does not lower the first.
        for (on, role) in [(&org, ProjectAdmin), (&org, Guest), (&web, ProjectUser), (&ops, Guest)] {
            ada.grant(&person.account, on, role).await;
        }
    }
    let bob = server.person("bob@example.org").await;
    ada.grant(&bob.account, &web, Guest).await;
    for page_size in [0, 1, 2, 3, 8, 9, 1000] {
        let listed = members(&ada, &org, page_size).await;
        assert_eq!(listed.len(), 9, "by {page_size}");
        let mut expected =
            vec![(org.clone(), Guest), (org.clone(), ProjectAdmin), (web.clone(), ProjectUser), (ops.clone(), Guest)];
        expected.sort_by_key(|(on, role)| (on.clone(), *role as i32));
        for person in &people {
            assert_eq!(held(&listed, person), Some((ProjectAdmin, expected.clone())));
        }
        assert_eq!(held(&listed, &bob), Some((Role::Unspecified, vec![(web.clone(), Guest)])));
    }
    // What is deleted shows nobody, and gives nobody a place in the org.
    ada.delete_project(&web).await;
    let listed = members(&ada, &org, 2).await;
    assert_eq!((listed.len(), held(&listed, &bob)), (8, None));

    // A token of another org's list is none here.
    let there = bob.create_org("there").await.name;
    ada.grant(&bob.account, &org, ProjectUser).await;
    bob.grant(&ada.account, &there, ProjectUser).await;
    let token = page(&bob, &there, 1, "").await.expect("a page").next_page_token;
    assert!(!token.is_empty());
    page(&bob, &there, 1, &token).await.expect("its own page");
    assert_eq!(code(page(&bob, &org, 1, &token).await), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_org_admin_stays() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let web = ada.create_project(&org, "web").await.name;
    ada.grant(&bob.account, &org, ProjectAdmin).await;
    ada.grant(&bob.account, &web, ProjectUser).await;
    assert_eq!(code(leave(&ada, &org).await), Code::FailedPrecondition);
    assert_eq!(leave(&bob, "org/acme").await.expect("he leaves"), 2);
    assert!(!is_member(&bob).await);
    assert_eq!(code(bob.orgs().get_org(GetOrgRequest { name: org.clone() }).await), Code::NotFound);
    assert_eq!(code(leave(&bob, &org).await), Code::NotFound);
    // Who holds a role at a project alone may leave, too.
    ada.grant(&bob.account, &web, Guest).await;
    assert_eq!(leave(&bob, &org).await.expect("he leaves"), 1);

    // Of two that leave at once one stays.
    for _ in 0..5 {
        ada.grant(&bob.account, &org, OrgAdmin).await;
        let (one, two) = tokio::join!(leave(&ada, &org), leave(&bob, &org));
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1, "{one:?} {two:?}");
        let (stayed, left) = if one.is_ok() { (&bob, &ada) } else { (&ada, &bob) };
        assert_eq!(held(&members(stayed, &org, 0).await, left), None);
        if one.is_ok() {
            bob.grant(&ada.account, &org, OrgAdmin).await;
            leave(&bob, &org).await.expect("ada runs it");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_is_handed_over() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let eve = server.person("eve@example.org").await;
    let org = ada.create_org("acme").await.name;
    ada.grant(&bob.account, &org, Guest).await;

    assert_eq!(code(transfer(&ada, &org, &eve.account, Guest).await), Code::FailedPrecondition, "she is no member");
    assert_eq!(code(transfer(&ada, &org, &ada.account, Guest).await), Code::InvalidArgument);
    assert_eq!(code(transfer(&ada, &org, &bob.account, OrgAdmin).await), Code::InvalidArgument);
    assert_eq!(code(transfer(&bob, &org, &bob.account, Role::Unspecified).await), Code::PermissionDenied);
    // Nothing of that has taken effect.
    let listed = members(&ada, &org, 0).await;
    assert_eq!(held(&listed, &ada), Some((OrgAdmin, vec![(org.clone(), OrgAdmin)])));
    assert_eq!(held(&listed, &bob), Some((Guest, vec![(org.clone(), Guest)])));

    transfer(&ada, "org/acme", "account/bob@example.org", ProjectUser).await.expect("it goes to him");
    let listed = members(&bob, &org, 0).await;
    assert_eq!(held(&listed, &ada), Some((ProjectUser, vec![(org.clone(), ProjectUser)])));
    assert_eq!(held(&listed, &bob), Some((OrgAdmin, vec![(org.clone(), Guest), (org.clone(), OrgAdmin)])));
    assert_eq!(code(transfer(&ada, &org, &ada.account, Guest).await), Code::PermissionDenied);
    transfer(&bob, &org, &ada.account, Role::Unspecified).await.expect("and back, and he stays");
    let listed = members(&bob, &org, 0).await;
    assert_eq!(held(&listed, &ada).map(|(role, _)| role), Some(OrgAdmin));
    assert_eq!(held(&listed, &bob).map(|(role, _)| role), Some(OrgAdmin));
    server.stop().await;
}

async fn change_role(by: &Caller, account: &str, on: &str, granted: bool) -> Result<(), Status> {
    let grant = Grant { account: account.into(), on: on.into(), role: Guest.into(), ..Grant::default() };
    let (grant, request_id) = (Some(Wire::new(&grant)), String::new());
    match granted {
        true => by.orgs().grant_role(GrantRoleRequest { grant, request_id }).await.map(drop),
        false => by.orgs().revoke_role(RevokeRoleRequest { grant, request_id }).await.map(drop),
    }
}

/// Anybody can have an org of their own: what it is told of an address must not
/// be whether there is an account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_leads_to_members_alone() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let known = "account/bob@example.org";
    let refused = async |account: &str| {
        let mut told = Vec::new();
        for granted in [true, false] {
            told.push(change_role(&ada, account, &org, granted).await.expect_err("nobody's business"));
        }
        told.push(transfer(&ada, &org, account, Guest).await.expect_err("nobody's business"));
        let address = account.trim_start_matches("account/");
        told.into_iter().map(|status| (status.code(), status.message().replace(address, "it"))).collect::<Vec<_>>()
    };
    let of_nobody = refused("account/nobody@example.org").await;
    assert!(of_nobody.iter().all(|(code, _)| *code == Code::NotFound), "{of_nobody:?}");
    assert_eq!(refused(known).await, of_nobody);

    change_role(&ada, &bob.account, &project, true).await.expect("by his id");
    change_role(&ada, known, &org, true).await.expect("he belongs to it now");
    change_role(&ada, known, &org, false).await.expect("and can be named to take it back");
    change_role(&ada, &bob.account, &project, false).await.expect("by his id");
    assert_eq!(refused(known).await, of_nobody, "he does not belong to it any more");
    change_role(&root, known, &org, true).await.expect("a sys-admin sees all accounts");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_taken_back_from_who_is_suspended_or_deleted() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    for suspended in [true, false] {
        let email = if suspended { "bob@example.org" } else { "carl@example.org" };
        let person = server.person(email).await;
        ada.grant(&person.account, &org, Guest).await;
        if suspended {
            let request = SuspendAccountRequest { name: person.account.clone(), request_id: String::new() };
            drop(root.account_admin().suspend_account(request).await.expect("he is suspended"));
        } else {
            let request = DeleteAccountRequest {
                name: "account/me".into(),
                password: PASSWORD.into(),
                ..DeleteAccountRequest::default()
            };
            drop(person.accounts().delete_account(request).await.expect("it is deleted"));
        }
        change_role(&ada, &format!("account/{email}"), &org, false).await.expect("it is taken back");
        assert_eq!(held(&members(&ada, &org, 0).await, &person), None);
        assert_eq!(code(change_role(&ada, &person.account, &org, false).await), Code::NotFound, "there is none");
    }
    server.stop().await;
}

/// What is explained is what the gate does: for every method of an org, a
/// project and a chat, by everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_is_explained_as_it_is_enforced() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let web = ada.create_project(&org, "web").await.name;
    let other = ada.create_project(&org, "ops").await.name;
    for (on, role) in [(&web, ProjectAdmin), (&web, Guest), (&org, Guest), (&other, ProjectUser)] {
        ada.grant(&bob.account, on, role).await;
    }
    for (name, role, grants) in [
        (org.clone(), Guest, 1),
        (web.clone(), ProjectAdmin, 3),
        (format!("{web}/chat"), ProjectAdmin, 3),
        (other.clone(), ProjectUser, 2),
    ] {
        let found = explain(&bob, &name.replace(&org, "org/acme"), "").await.expect("an explanation");
        assert_eq!((&found.name, &found.account), (&name, &bob.account));
        assert_eq!((found.role(), found.grants.len()), (role, grants), "{name}");
        assert!(found.methods.len() > 5, "{name}: {}", found.methods.len());
        for method in &found.methods {
            let rule = &rules()[method.method.as_str()];
            let least = match rule.requires {
                Requirement::Least(least) => least,
                _ => Role::Unspecified,
            };
            assert_eq!(method.least(), least, "{}", method.method);
            assert_eq!(method.allowed, role as i32 >= least as i32, "{}: {}", method.method, method.reason);
            assert!(method.reason.contains(if least == Role::Unspecified { "anybody" } else { least.as_str_name() }));
        }
        assert_eq!(explain(&ada, &name, &bob.account).await.expect("an org-admin asks for him"), found);
        let by_root = explain(&root, &name, "").await.expect("a sys-admin");
        assert_eq!((by_root.role(), by_root.grants.len()), (Role::SysAdmin, 0));
        assert!(by_root.methods.iter().all(|method| method.allowed));
    }
    assert_eq!(code(explain(&bob, &web, &ada.account).await), Code::PermissionDenied, "he runs a project alone");
    assert_eq!(code(explain(&ada, &web, "account/me").await), Code::InvalidArgument);
    assert_eq!(code(explain(&ada, &format!("{org}/project/web/chat/channel/x"), "").await), Code::InvalidArgument);
    let eve = server.person("eve@example.org").await;
    assert_eq!(code(explain(&eve, &org, "").await), Code::NotFound);
    server.stop().await;
}

/// The predecessor's faults: an inverted check refused admins, and only the
/// first of a person's roles was looked at, so that a second could escalate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_role_neither_raises_elsewhere_nor_lowers() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let web = ada.create_project(&org, "web").await.name;
    let ops = ada.create_project(&org, "ops").await.name;
    let there = bob.create_org("there").await.name;
    let grant = |on: &str, role: Role| {
        let grant = Grant { account: bob.account.clone(), on: on.into(), role: role.into(), ..Grant::default() };
        Some(Wire::new(&grant))
    };
    ada.grant(&bob.account, &web, ProjectAdmin).await;
    ada.grant(&bob.account, &ops, Guest).await;
    let attempt = async |on: &str, role: Role| {
        let request = GrantRoleRequest { grant: grant(on, role), request_id: String::new() };
        bob.orgs().grant_role(request).await.map(drop).map_err(|status| status.code())
    };
    // Org-admin of his own org, project-admin of one project: neither counts
    // where he asks, by whichever name the nested message gives.
    assert_eq!(attempt(&ops, ProjectUser).await, Err(Code::PermissionDenied));
    assert_eq!(attempt(&org, Guest).await, Err(Code::NotFound));
    assert_eq!(attempt(&web, OrgAdmin).await, Err(Code::InvalidArgument));
    assert_eq!(attempt(&web, Guest).await, Ok(()), "a lower role of his own, where he runs the project");
    assert_eq!(attempt(&web, ProjectUser).await, Ok(()), "and he still runs it");
    assert_eq!(attempt(&there, ProjectUser).await, Ok(()), "an admin is not refused");
    // Nor does it count that he once more takes a lower one away.
    let revoke = RevokeRoleRequest { grant: grant(&web, Guest), request_id: String::new() };
    bob.orgs().revoke_role(revoke).await.expect("a revocation");
    assert_eq!(attempt(&web, ProjectAdmin).await, Ok(()));
    server.stop().await;
}
