//! A valid request for every method that is served.

use canopy_domain::{Role, Wire};
use canopy_proto::chat::v1::{
    Channel, ChannelPosition, CreateChannelRequest, DeleteChannelRequest, DeleteMessageRequest, EditMessageRequest,
    GetChannelRequest, GetMessageRequest, ListChannelsRequest, ListMessagesRequest, ListShredCertificatesRequest,
    Message as ChatMessage, SendMessageRequest, SubscribeRequest, UpdateChannelRequest,
};
use canopy_proto::identity::v1::{
    Account, ApiKey, BeginPasskeyLogInRequest, BeginPasskeyRequest, BlockAccountRequest, ChangeEmailRequest,
    ChangePasswordRequest, ConfirmEmailRequest, ConfirmTotpRequest, CreateApiKeyRequest, CreatePasskeyRequest,
    DeleteAccountRequest, DeletePasskeyRequest, DisableAccountRequest, EndSessionRequest, EnrollTotpRequest,
    ExportAccountRequest, GetAccountRequest, GetSecondFactorsRequest, ListApiKeysRequest, ListBlockedRequest,
    ListPasskeysRequest, ListSecurityEventsRequest, ListSessionsRequest, LogInRequest, LogInWithPasskeyRequest,
    LogOutEverywhereRequest, LogOutRequest, Passkey, RefreshRequest, RegenerateRecoveryCodesRequest, RegisterRequest,
    RemoveTotpRequest, RequestPasswordResetRequest, RequestVerificationRequest, ResetPasswordRequest,
    RevokeApiKeyRequest, UnblockAccountRequest, UndeleteAccountRequest, UndoChangeEmailRequest, UpdateAccountRequest,
    UpdatePasskeyRequest, VerifyEmailRequest,
};
use canopy_proto::ops::v1::{
    AddKeySlotRequest, CreateBackupRequest, DeleteBackupRequest, DeleteMailRequest, EnableAccountRequest,
    ForgetFactorsRequest, GetBackupRequest, ListBackupsRequest, ListOrgKeysRequest, RemoveKeySlotRequest,
    RetryMailRequest, RotateOrgKeyRequest, RotateVaultKeyRequest, SuspendAccountRequest,
};
use canopy_proto::org::v1::{
    AcceptInvitationRequest, ArchiveOrgRequest, CreateEnvironmentRequest, CreateInvitationRequest, CreateOrgRequest,
    CreateProjectRequest, DeleteEnvironmentRequest, DeleteOrgRequest, DeleteProjectRequest, Environment,
    ExplainAccessRequest, ExportAuditRequest, GetEnvironmentRequest, GetInvitationRequest, GetOrgRequest,
    GetProjectRequest, GetQuotaRequest, GetShredCertificateRequest, Grant, GrantRoleRequest, Invitation,
    LeaveOrgRequest, ListAuditEntriesRequest, ListEnvironmentsRequest, ListGrantsRequest, ListInvitationsRequest,
    ListMembersRequest, ListProjectsRequest, Org, Project, PurgeOrgRequest, Quota, RevokeInvitationRequest,
    RevokeRoleRequest, SearchOrgsRequest, SearchProjectsRequest, SetQuotaRequest, TransferOwnershipRequest,
    UpdateEnvironmentRequest, UpdateOrgRequest, UpdateProjectRequest,
};
use prost::Message;
use prost_types::FieldMask;

use super::PASSWORD;

/// Whom and what a request is about.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// `account/me`, say.
    pub account: String,
    /// `session/me`, say.
    pub session: String,
    pub email: String,
    pub refresh_token: String,
    pub org: String,
    pub project: String,
    pub channel: String,
    pub message: String,
    pub backup: String,
    /// Of the account; none that exists where empty.
    pub api_key: String,
    /// One of the account's; none that there is, where empty.
    pub passkey: String,
    pub environment: String,
    /// Whose roles are granted and revoked.
    pub grantee: String,
    /// Where: the org or the project.
    pub on: String,
    /// For new e-mail addresses and slugs.
    pub unique: String,
    /// Of what is purged.
    pub etag: String,
}

impl Target {
    fn audit(&self) -> String {
        match self.org.as_str() {
            "system" => "system/audit".into(),
            org => format!("{org}/audit"),
        }
    }
}

fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![path.into()] })
}

/// The encoded request of `package.Service/Method` for a target.
pub fn request(method: &str, target: &Target) -> Vec<u8> {
    let t = target.clone();
    let request_id = String::new();
    let grant = || {
        let grant =
            Grant { account: t.grantee.clone(), on: t.on.clone(), role: Role::Guest.into(), ..Grant::default() };
        Some(Wire::new(&grant))
    };
    let org = Org { name: t.org.clone(), slug: t.unique.clone(), title: "a title".into(), ..Org::default() };
    let project =
        Project { name: t.project.clone(), slug: t.unique.clone(), title: "a title".into(), ..Project::default() };
    let channel =
        Channel { name: t.channel.clone(), slug: t.unique.clone(), topic: "a topic".into(), ..Channel::default() };
    let message = ChatMessage { name: t.message.clone(), text: "a text".into(), ..ChatMessage::default() };
    match method.strip_prefix("canopy.").unwrap_or(method) {
        "org.v1.Orgs/CreateOrg" => CreateOrgRequest { org: Some(Wire::new(&org)), request_id }.encode_to_vec(),
        "org.v1.Orgs/GetOrg" => GetOrgRequest { name: t.org }.encode_to_vec(),
        "org.v1.Orgs/ListOrgs" => Vec::new(),
        "org.v1.Orgs/UpdateOrg" => {
            UpdateOrgRequest { org: Some(Wire::new(&org)), update_mask: mask("title"), request_id }.encode_to_vec()
        }
        "org.v1.Orgs/DeleteOrg" => DeleteOrgRequest { name: t.org, etag: String::new(), request_id }.encode_to_vec(),
        "org.v1.Orgs/GrantRole" => GrantRoleRequest { grant: grant(), request_id }.encode_to_vec(),
        "org.v1.Orgs/RevokeRole" => RevokeRoleRequest { grant: grant(), request_id }.encode_to_vec(),
        "org.v1.Orgs/ListGrants" => ListGrantsRequest { parent: t.on, ..ListGrantsRequest::default() }.encode_to_vec(),
        "org.v1.Projects/CreateProject" => {
            CreateProjectRequest { parent: t.org, project: Some(Wire::new(&project)), request_id }.encode_to_vec()
        }
        "org.v1.Projects/GetProject" => GetProjectRequest { name: t.project }.encode_to_vec(),
        "org.v1.Projects/ListProjects" => {
            ListProjectsRequest { parent: t.org, ..ListProjectsRequest::default() }.encode_to_vec()
        }
        "org.v1.Projects/UpdateProject" => {
            UpdateProjectRequest { project: Some(Wire::new(&project)), update_mask: mask("title"), request_id }
                .encode_to_vec()
        }
        "org.v1.Projects/DeleteProject" => {
            DeleteProjectRequest { name: t.project, etag: String::new(), request_id }.encode_to_vec()
        }
        method if is_of_ends(method) => of_ends(method, target),
        method if method.starts_with("org.v1.Environments/") => of_environments(method, target),
        method if is_of_members(method) => of_members(method, target),
        "chat.v1.Chat/CreateChannel" => CreateChannelRequest {
            parent: format!("{}/chat", t.project),
            channel: Some(Wire::new(&channel)),
            request_id,
        }
        .encode_to_vec(),
        "chat.v1.Chat/GetChannel" => GetChannelRequest { name: t.channel }.encode_to_vec(),
        "chat.v1.Chat/ListChannels" => {
            let parent = format!("{}/chat", t.project);
            ListChannelsRequest { parent, ..ListChannelsRequest::default() }.encode_to_vec()
        }
        "chat.v1.Chat/UpdateChannel" => {
            UpdateChannelRequest { channel: Some(Wire::new(&channel)), update_mask: mask("topic"), request_id }
                .encode_to_vec()
        }
        "chat.v1.Chat/DeleteChannel" => {
            DeleteChannelRequest { name: t.channel, etag: String::new(), request_id }.encode_to_vec()
        }
        "chat.v1.Chat/ListShredCertificates" => {
            let parent = format!("{}/chat", t.project);
            ListShredCertificatesRequest { parent, ..ListShredCertificatesRequest::default() }.encode_to_vec()
        }
        "chat.v1.Chat/SendMessage" => {
            SendMessageRequest { parent: t.channel, message: Some(Wire::new(&message)), request_id }.encode_to_vec()
        }
        "chat.v1.Chat/GetMessage" => GetMessageRequest { name: t.message }.encode_to_vec(),
        "chat.v1.Chat/EditMessage" => {
            EditMessageRequest { message: Some(Wire::new(&message)), request_id }.encode_to_vec()
        }
        "chat.v1.Chat/DeleteMessage" => DeleteMessageRequest { name: t.message, request_id }.encode_to_vec(),
        "chat.v1.Chat/ListMessages" => {
            ListMessagesRequest { parent: t.channel, ..ListMessagesRequest::default() }.encode_to_vec()
        }
        "chat.v1.Chat/Subscribe" => {
            let channels = vec![ChannelPosition { name: t.channel, cursor: None }];
            SubscribeRequest { channels }.encode_to_vec()
        }
        method if method.starts_with("identity.v1.SecondFactors/") => of_second_factors(method, target),
        method if method.starts_with("identity.v1.Passkeys/") => of_passkeys(method, target),
        "identity.v1.Security/ListSecurityEvents" => {
            ListSecurityEventsRequest { parent: t.account, ..ListSecurityEventsRequest::default() }.encode_to_vec()
        }
        "org.v1.Audit/ListAuditEntries" => {
            ListAuditEntriesRequest { parent: t.audit(), ..ListAuditEntriesRequest::default() }.encode_to_vec()
        }
        "org.v1.Audit/ExportAudit" => {
            ExportAuditRequest { parent: t.audit(), ..ExportAuditRequest::default() }.encode_to_vec()
        }
        "ops.v1.Ops/GetInstallation" | "ops.v1.Ops/Observe" => Vec::new(),
        method if method.starts_with("identity.v1.Verification/") => of_verification(method, target),
        method if method.starts_with("identity.v1.Accounts/") => of_accounts(method, target),
        "ops.v1.AccountAdmin/SuspendAccount" => SuspendAccountRequest { name: t.account, request_id }.encode_to_vec(),
        "ops.v1.AccountAdmin/EnableAccount" => EnableAccountRequest { name: t.account, request_id }.encode_to_vec(),
        "ops.v1.AccountAdmin/ForgetFactors" => ForgetFactorsRequest { name: t.account, request_id }.encode_to_vec(),
        method if method.starts_with("org.v1.Invitations/") => of_invitations(method, target),
        "org.v1.Quotas/GetQuota" => GetQuotaRequest { name: t.org }.encode_to_vec(),
        "org.v1.Quotas/SetQuota" => {
            let quota = Quota { org: t.org, people_max: Some(0), ..Quota::default() };
            SetQuotaRequest { quota: Some(Wire::new(&quota)), update_mask: None, request_id }.encode_to_vec()
        }
        method if method.starts_with("ops.v1.Mails/") => of_mails(method),
        method if method.starts_with("identity.v1.") => of_identity(method, target),
        method if method.starts_with("ops.v1.Keys/") => of_keys(method, target),
        method if method.starts_with("ops.v1.Backups/") => of_backups(method, target),
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_second_factors(method: &str, t: &Target) -> Vec<u8> {
    let (name, password) = (t.account.clone(), PASSWORD.to_owned());
    let (code, request_id) = ("none".to_owned(), String::new());
    match method {
        "identity.v1.SecondFactors/GetSecondFactors" => GetSecondFactorsRequest { name }.encode_to_vec(),
        "identity.v1.SecondFactors/EnrollTotp" => {
            EnrollTotpRequest { name, password, request_id, ..Default::default() }.encode_to_vec()
        }
        "identity.v1.SecondFactors/ConfirmTotp" => ConfirmTotpRequest { name, code, request_id }.encode_to_vec(),
        "identity.v1.SecondFactors/RemoveTotp" => {
            RemoveTotpRequest { name, password, code, request_id }.encode_to_vec()
        }
        "identity.v1.SecondFactors/RegenerateRecoveryCodes" => {
            RegenerateRecoveryCodesRequest { name, password, code, request_id }.encode_to_vec()
        }
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_passkeys(method: &str, t: &Target) -> Vec<u8> {
    let (parent, password) = (t.account.clone(), PASSWORD.to_owned());
    let request_id = String::new();
    let name = match t.passkey.as_str() {
        "" => format!("{parent}/passkey/{}", "0".repeat(26)),
        name => name.to_owned(),
    };
    let passkey = Some(Wire::new(&Passkey { name: name.clone(), display_name: "phone".into(), ..Passkey::default() }));
    let answer = "{}".to_owned();
    match method {
        "identity.v1.Passkeys/BeginPasskey" => {
            BeginPasskeyRequest { name: parent, password, request_id }.encode_to_vec()
        }
        "identity.v1.Passkeys/CreatePasskey" => {
            CreatePasskeyRequest { parent, passkey, answer, request_id }.encode_to_vec()
        }
        "identity.v1.Passkeys/ListPasskeys" => {
            ListPasskeysRequest { parent, ..ListPasskeysRequest::default() }.encode_to_vec()
        }
        "identity.v1.Passkeys/UpdatePasskey" => {
            UpdatePasskeyRequest { passkey, update_mask: mask("display_name"), request_id }.encode_to_vec()
        }
        "identity.v1.Passkeys/DeletePasskey" => DeletePasskeyRequest { name, password, request_id }.encode_to_vec(),
        "identity.v1.Passkeys/BeginPasskeyLogIn" => BeginPasskeyLogInRequest::default().encode_to_vec(),
        "identity.v1.Passkeys/LogInWithPasskey" => {
            LogInWithPasskeyRequest { challenge: "none".into(), answer, device: String::new(), request_id }
                .encode_to_vec()
        }
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_identity(method: &str, target: &Target) -> Vec<u8> {
    let t = target.clone();
    let request_id = String::new();
    let account = |email: &str| Account {
        name: t.account.clone(),
        email: email.into(),
        display_name: "somebody".into(),
        ..Account::default()
    };
    match method {
        "identity.v1.Identity/Register" => RegisterRequest {
            account: Some(Wire::new(&account(&format!("{}@example.org", t.unique)))),
            password: PASSWORD.into(),
            sign_up_token: String::new(),
            request_id,
        }
        .encode_to_vec(),
        "identity.v1.Identity/LogIn" => LogInRequest {
            email: t.email,
            password: PASSWORD.into(),
            device: "a test".into(),
            request_id,
            code: String::new(),
        }
        .encode_to_vec(),
        "identity.v1.Identity/Refresh" => {
            RefreshRequest { session: t.session, refresh_token: t.refresh_token, request_id }.encode_to_vec()
        }
        "identity.v1.Identity/LogOut" => LogOutRequest { name: t.session, request_id }.encode_to_vec(),
        "identity.v1.Identity/EndSession" => EndSessionRequest { name: t.session, request_id }.encode_to_vec(),
        "identity.v1.Identity/LogOutEverywhere" => {
            LogOutEverywhereRequest { name: t.account, keep_current: true, request_id }.encode_to_vec()
        }
        "identity.v1.Identity/ChangePassword" => ChangePasswordRequest {
            name: t.account,
            old_password: PASSWORD.into(),
            new_password: PASSWORD.into(),
            request_id,
        }
        .encode_to_vec(),
        "identity.v1.ApiKeys/CreateApiKey" => CreateApiKeyRequest {
            parent: t.account,
            api_key: Some(Wire::new(&ApiKey {
                display_name: "a machine".into(),
                role_max: Role::Guest.into(),
                expire_time_ms: canopy_actors::now_ms() + 3_600_000,
                ..ApiKey::default()
            })),
            request_id,
        }
        .encode_to_vec(),
        "identity.v1.ApiKeys/ListApiKeys" => {
            ListApiKeysRequest { parent: t.account, ..ListApiKeysRequest::default() }.encode_to_vec()
        }
        "identity.v1.ApiKeys/RevokeApiKey" => {
            let name = if t.api_key.is_empty() { format!("{}/key/{}", t.account, "0".repeat(26)) } else { t.api_key };
            RevokeApiKeyRequest { name, request_id }.encode_to_vec()
        }
        "identity.v1.Identity/GetAccount" => GetAccountRequest { name: t.account }.encode_to_vec(),
        "identity.v1.Identity/UpdateAccount" => UpdateAccountRequest {
            account: Some(Wire::new(&account(&t.email))),
            update_mask: mask("display_name"),
            request_id,
        }
        .encode_to_vec(),
        "identity.v1.Identity/ListSessions" => {
            ListSessionsRequest { parent: t.account, ..ListSessionsRequest::default() }.encode_to_vec()
        }
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_verification(method: &str, t: &Target) -> Vec<u8> {
    let request_id = String::new();
    // Of an account that nobody has.
    let token = |kind: &str| format!("account/{}/{kind}/{}", canopy_domain::Id::from_bytes([9; 16]), "0".repeat(64));
    match method {
        "identity.v1.Verification/RequestVerification" => {
            RequestVerificationRequest { email: t.email.clone(), request_id }.encode_to_vec()
        }
        "identity.v1.Verification/VerifyEmail" => {
            VerifyEmailRequest { token: token("verification"), request_id }.encode_to_vec()
        }
        "identity.v1.Verification/ResetPassword" => {
            ResetPasswordRequest { token: token("password-reset"), new_password: PASSWORD.into(), request_id }
                .encode_to_vec()
        }
        "identity.v1.Verification/ConfirmEmail" => {
            ConfirmEmailRequest { token: token("email-change"), request_id }.encode_to_vec()
        }
        "identity.v1.Verification/UndoChangeEmail" => {
            UndoChangeEmailRequest { token: token("email-undo"), request_id }.encode_to_vec()
        }
        "identity.v1.Verification/ChangeEmail" => ChangeEmailRequest {
            name: t.account.clone(),
            new_email: format!("{}@example.com", t.unique),
            password: PASSWORD.into(),
            request_id,
        }
        .encode_to_vec(),
        "identity.v1.Verification/RequestPasswordReset" => {
            RequestPasswordResetRequest { email: t.email.clone(), request_id }.encode_to_vec()
        }
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_accounts(method: &str, t: &Target) -> Vec<u8> {
    let (name, request_id) = (t.account.clone(), String::new());
    let blocked = format!("account/{}", canopy_domain::Id::from_bytes([9; 16]));
    match method {
        "identity.v1.Accounts/DisableAccount" => DisableAccountRequest { name, request_id }.encode_to_vec(),
        "identity.v1.Accounts/DeleteAccount" => {
            let (password, code) = (PASSWORD.to_owned(), String::new());
            DeleteAccountRequest { name, password, code, request_id }.encode_to_vec()
        }
        "identity.v1.Accounts/UndeleteAccount" => {
            let (email, password, code) = (t.email.clone(), PASSWORD.to_owned(), String::new());
            UndeleteAccountRequest { email, password, code, request_id }.encode_to_vec()
        }
        "identity.v1.Accounts/ExportAccount" => ExportAccountRequest { name }.encode_to_vec(),
        "identity.v1.Accounts/BlockAccount" => BlockAccountRequest { name, blocked, request_id }.encode_to_vec(),
        "identity.v1.Accounts/UnblockAccount" => UnblockAccountRequest { name, blocked, request_id }.encode_to_vec(),
        "identity.v1.Accounts/ListBlocked" => {
            ListBlockedRequest { parent: name, ..ListBlockedRequest::default() }.encode_to_vec()
        }
        other => panic!("no request is known for {other}: add one here"),
    }
}

/// Of an invitation that is not there, but for those that are made.
fn of_invitations(method: &str, t: &Target) -> Vec<u8> {
    let request_id = String::new();
    let name = format!("{}/invitation/{}", t.project, canopy_domain::Id::from_bytes([9; 16]));
    let token = format!("{name}/{}", "0".repeat(64));
    match method {
        "org.v1.Invitations/CreateInvitation" => {
            let invitation = Invitation { role: Role::Guest.into(), ..Invitation::default() };
            let invitation = Some(Wire::new(&invitation));
            CreateInvitationRequest { parent: t.on.clone(), invitation, request_id }.encode_to_vec()
        }
        "org.v1.Invitations/ListInvitations" => {
            ListInvitationsRequest { parent: t.on.clone(), ..ListInvitationsRequest::default() }.encode_to_vec()
        }
        "org.v1.Invitations/RevokeInvitation" => RevokeInvitationRequest { name, request_id }.encode_to_vec(),
        "org.v1.Invitations/GetInvitation" => GetInvitationRequest { token }.encode_to_vec(),
        "org.v1.Invitations/AcceptInvitation" => AcceptInvitationRequest { token, request_id }.encode_to_vec(),
        other => panic!("no request is known for {other}: add one here"),
    }
}

/// Of a mail that is not there.
fn of_mails(method: &str) -> Vec<u8> {
    let (name, request_id) = ("mail/1-1".to_owned(), String::new());
    match method {
        "ops.v1.Mails/ListMails" => Vec::new(),
        "ops.v1.Mails/RetryMail" => RetryMailRequest { name, request_id }.encode_to_vec(),
        "ops.v1.Mails/DeleteMail" => DeleteMailRequest { name, request_id }.encode_to_vec(),
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn is_of_ends(method: &str) -> bool {
    let name = method.rsplit('/').next().unwrap_or_default();
    let verbs = ["Archive", "Unarchive", "Undelete", "Purge"];
    method.starts_with("org.v1.") && (verbs.iter().any(|verb| name.starts_with(verb)) || name.contains("Certificate"))
}

fn of_ends(method: &str, t: &Target) -> Vec<u8> {
    let request_id = String::new();
    let name = if method.ends_with("Org") { t.org.clone() } else { t.project.clone() };
    // One that is certainly wrong, where the target has none.
    let etag = if t.etag.is_empty() { "none".to_owned() } else { t.etag.clone() };
    let verb = method.rsplit('/').next().unwrap_or_default();
    match verb.trim_end_matches("Org").trim_end_matches("Project") {
        // Archiving and undeleting have the same fields for both.
        "Archive" | "Unarchive" | "Undelete" => {
            ArchiveOrgRequest { name, etag: String::new(), request_id }.encode_to_vec()
        }
        "Purge" => PurgeOrgRequest { name, etag, request_id }.encode_to_vec(),
        "GetShredCertificate" => GetShredCertificateRequest { name }.encode_to_vec(),
        "ListShredCertificates" => Vec::new(),
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn is_of_members(method: &str) -> bool {
    ["ListMembers", "LeaveOrg", "TransferOwnership", "ExplainAccess", "SearchOrgs", "SearchProjects"]
        .iter()
        .any(|name| method.ends_with(name))
}

fn of_members(method: &str, t: &Target) -> Vec<u8> {
    let request_id = String::new();
    match method.rsplit('/').next().unwrap_or_default() {
        "ListMembers" => ListMembersRequest { parent: t.org.clone(), ..ListMembersRequest::default() }.encode_to_vec(),
        "LeaveOrg" => LeaveOrgRequest { name: t.org.clone(), request_id }.encode_to_vec(),
        "TransferOwnership" => {
            TransferOwnershipRequest { name: t.org.clone(), account: t.grantee.clone(), keep_role: 0, request_id }
                .encode_to_vec()
        }
        "SearchOrgs" => SearchOrgsRequest { query: "a".into(), ..SearchOrgsRequest::default() }.encode_to_vec(),
        "SearchProjects" => {
            let query = "a".into();
            SearchProjectsRequest { parent: t.org.clone(), query, ..SearchProjectsRequest::default() }.encode_to_vec()
        }
        "ExplainAccess" => ExplainAccessRequest { name: t.on.clone(), account: String::new() }.encode_to_vec(),
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_environments(method: &str, t: &Target) -> Vec<u8> {
    let request_id = String::new();
    let environment = Environment {
        name: t.environment.clone(),
        slug: t.unique.clone(),
        title: "a title".into(),
        ..Environment::default()
    };
    let environment = Some(Wire::new(&environment));
    match method.rsplit('/').next().unwrap_or_default() {
        "CreateEnvironment" => {
            CreateEnvironmentRequest { parent: t.project.clone(), environment, request_id }.encode_to_vec()
        }
        "GetEnvironment" => GetEnvironmentRequest { name: t.environment.clone() }.encode_to_vec(),
        "ListEnvironments" => ListEnvironmentsRequest { parent: t.project.clone() }.encode_to_vec(),
        "UpdateEnvironment" => {
            UpdateEnvironmentRequest { environment, update_mask: mask("title"), request_id }.encode_to_vec()
        }
        "DeleteEnvironment" => {
            DeleteEnvironmentRequest { name: t.environment.clone(), etag: String::new(), request_id }.encode_to_vec()
        }
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_backups(method: &str, t: &Target) -> Vec<u8> {
    let request_id = String::new();
    match method {
        "ops.v1.Backups/CreateBackup" => CreateBackupRequest { parent: t.on.clone(), request_id }.encode_to_vec(),
        "ops.v1.Backups/GetBackup" => GetBackupRequest { name: t.backup.clone() }.encode_to_vec(),
        "ops.v1.Backups/ListBackups" => {
            ListBackupsRequest { parent: t.org.clone(), ..ListBackupsRequest::default() }.encode_to_vec()
        }
        "ops.v1.Backups/DeleteBackup" => DeleteBackupRequest { name: t.backup.clone(), request_id }.encode_to_vec(),
        other => panic!("no request is known for {other}: add one here"),
    }
}

fn of_keys(method: &str, t: &Target) -> Vec<u8> {
    match method {
        "ops.v1.Keys/ListOrgKeys" => ListOrgKeysRequest { name: t.org.clone() }.encode_to_vec(),
        "ops.v1.Keys/RotateOrgKey" => RotateOrgKeyRequest { name: t.org.clone() }.encode_to_vec(),
        "ops.v1.Keys/RotateVaultKey" => RotateVaultKeyRequest { name: t.on.clone() }.encode_to_vec(),
        "ops.v1.Keys/AddKeySlot" => {
            AddKeySlotRequest { key: "5e".repeat(32), ..AddKeySlotRequest::default() }.encode_to_vec()
        }
        // The one that was added: the first is what the server came in by.
        "ops.v1.Keys/RemoveKeySlot" => RemoveKeySlotRequest { id: 2 }.encode_to_vec(),
        "ops.v1.Keys/ListKeys"
        | "ops.v1.Keys/ListKeySlots"
        | "ops.v1.Keys/RotateRootKey"
        | "ops.v1.Keys/RotateInstallationKey" => Vec::new(),
        other => panic!("no request is known for {other}: add one here"),
    }
}
