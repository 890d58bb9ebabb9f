//! What letters say. Every text that a person reads in a mail stands here, so
//! that a translation is another of these files.

use canopy_domain::utc;
use canopy_proto::system::v1::{Letter, LetterKind};

/// A letter in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The line that is read first.
    pub subject: String,
    /// Plain text, lines ended by `\n`.
    pub body: String,
}

/// Characters of a name or title that a letter repeats: what others chose is
/// not to make up a letter of its own.
const REPEATED_CHARS_MAX: usize = 100;

/// What to do about somebody who knows a password.
const STOLEN: &str = "If it was not you, change your password, which ends all other sessions:\n\n    \
                      canopy identity change-password --name account/me\n";
/// What to do about somebody who has changed it.
const FORGOTTEN: &str = "If it was not you, ask for a new one, which ends all sessions:\n\n    \
                         canopy identity request-password-reset --email <this address>\n";

/// A letter's words; none where it is no letter. `link_base` is where the
/// installation's pages are, or empty.
#[must_use]
pub fn message_of(letter: &Letter, link_base: &str) -> Option<Text> {
    let about = one_line(&letter.about);
    let sender = one_line(&letter.sender);
    let act = |page: &str, command: &str| how(link_base, page, command, &letter.token);
    let (subject, body) = match letter.kind() {
        LetterKind::Unspecified | LetterKind::ResetRequested | LetterKind::VerificationRequested => return None,
        LetterKind::Verification => (
            "Verify your e-mail address".to_owned(),
            format!(
                "An account was registered with this address. To show that the address is yours, within 24 hours:\n\n\
                 {}\n\nIf it was not you, do nothing: nobody can log in before that.\n",
                act("verify-email", "verify-email")
            ),
        ),
        LetterKind::AccountExists => (
            "You have an account already".to_owned(),
            "Somebody wanted to register an account with this address, and there is one already.\n\n\
             If it was you: log in, or ask for a new password with\n\n    \
             canopy identity request-password-reset --email <this address>\n\n\
             If it was not you, there is nothing to do: nothing was changed.\n"
                .to_owned(),
        ),
        LetterKind::PasswordReset => (
            "Set a new password".to_owned(),
            format!(
                "Somebody asked for a new password of your account. To set one, within an hour:\n\n{}\n\n\
                 If it was not you, do nothing: your password stays as it is.\n",
                act("reset-password", "reset-password")
            ),
        ),
        LetterKind::PasswordWasReset => (
            "Your password was changed".to_owned(),
            "The password of your account was set by a link that was mailed to this address, and all sessions were \
             ended.\n\nIf it was not you, somebody reads your mail: change the password of your mailbox, then ask \
             for a new one here.\n"
                .to_owned(),
        ),
        LetterKind::EmailChange => (
            "Confirm your new e-mail address".to_owned(),
            format!(
                "Somebody wants this to be the address of their account. If it was you, within 24 hours:\n\n{}\n\n\
                 If it was not you, do nothing.\n",
                act("confirm-email", "confirm-email")
            ),
        ),
        LetterKind::EmailWasChanged => (
            "The e-mail address of your account was changed".to_owned(),
            format!(
                "Your account has another address now: {about}\n\nIf it was not you, take it back within 7 days. It \
                 ends all sessions; then ask for a new password:\n\n{}\n",
                act("undo-email-change", "undo-change-email")
            ),
        ),
        LetterKind::AccountDeleted => (
            "Your account was deleted".to_owned(),
            format!(
                "Your account was deleted, and all its sessions were ended. Until {} you can take that back, with \
                 your password:\n\n    canopy identity undelete-account --email <this address> --password @<file>\n\n\
                 After that it is destroyed, and nobody can bring it back.\n\nIf it was not you, somebody knows your \
                 password: take the deletion back, then set another password.\n",
                utc(letter.expire_time_ms)
            ),
        ),
        LetterKind::AccountUndeleted => (
            "Your account is not deleted any more".to_owned(),
            "The deletion of your account was taken back, and you can log in again.\n\nIf it was not you, somebody \
             knows your password: set another one.\n"
                .to_owned(),
        ),
        LetterKind::Invitation => (
            format!("{sender} invites you to {about}"),
            format!(
                "{sender} invites you to join {about}. You need an account with this address; whoever has none \
                 registers with this invitation as the sign-up token:\n\n{}\n",
                how(link_base, "invitation", "accept-invitation", &letter.token)
                    .replace("canopy identity", "canopy org")
            ),
        ),
        LetterKind::ApiKeyExpires => {
            let name = one_line(&letter.resource);
            let called = if about.is_empty() { "without a name".to_owned() } else { format!("`{about}`") };
            (
                format!("An API key of your account expires on {}", utc(letter.expire_time_ms)),
                format!(
                    "The key {called}\n\n    {name}\n\nexpires on {}. What uses it is refused from then on.\n\n\
                     If it is still needed, make another one with the same role and scope, give it to whatever uses \
                     this one, then revoke this one:\n\n    canopy identity create-api-key --parent account/me \
                     --display-name <its name> --role-max <role> --scope <scope> --expire-time-ms <time> \
                     --show-secrets\n    canopy identity revoke-api-key --name {name}\n\nIf nothing uses it any more, \
                     there is nothing to do.\n",
                    utc(letter.expire_time_ms)
                ),
            )
        }
        LetterKind::PasswordWasChanged
        | LetterKind::SecondFactorAdded
        | LetterKind::SecondFactorRemoved
        | LetterKind::RecoveryCodesReplaced
        | LetterKind::RecoveryCodeUsed
        | LetterKind::ApiKeyCreated
        | LetterKind::NewPlace
        | LetterKind::CodeRefused
        | LetterKind::RefreshTokenReused
        | LetterKind::PasskeyAdded
        | LetterKind::PasskeyRemoved
        | LetterKind::PasskeySuspected
        | LetterKind::FactorsForgotten => return warning(letter.kind(), &about),
    };
    Some(Text { subject, body })
}

/// What the holder of an account is told of how people log in to it. `place` is
/// the network address that it was done from.
fn warning(kind: LetterKind, place: &str) -> Option<Text> {
    let (subject, body) = match kind {
        LetterKind::PasswordWasChanged => (
            "Your password was changed",
            format!(
                "The password of your account was changed by somebody who was signed in and knew the one before, from \
                 {place}. All other sessions were ended.\n\n{FORGOTTEN}"
            ),
        ),
        LetterKind::SecondFactorAdded => (
            "Your account has an authenticator app now",
            format!("From now on, log-ins ask for a code of an app that was added from {place}.\n\n{STOLEN}"),
        ),
        LetterKind::SecondFactorRemoved => (
            "Your account has no authenticator app any more",
            format!("The app was removed, from {place}: log-ins ask for the password alone.\n\n{STOLEN}"),
        ),
        LetterKind::RecoveryCodesReplaced => (
            "Your recovery codes were replaced",
            format!("New recovery codes were made, from {place}. The ones before are good no longer.\n\n{STOLEN}"),
        ),
        LetterKind::RecoveryCodeUsed => (
            "A recovery code was used",
            format!("A recovery code of your account was used in place of the app's code, from {place}.\n\n{STOLEN}"),
        ),
        LetterKind::ApiKeyCreated => (
            "An API key was made for your account",
            format!(
                "With it, a machine acts as you. It was made from {place}.\n\nIf it was not you, revoke it:\n\n    \
                 canopy identity list-api-keys --parent account/me\n    \
                 canopy identity revoke-api-key --name <its name>\n\n{STOLEN}"
            ),
        ),
        LetterKind::NewPlace => (
            "Somebody logged in to your account from a new place",
            format!("The network address is {place}: nobody had logged in to your account from there.\n\n{STOLEN}"),
        ),
        LetterKind::CodeRefused => (
            "Somebody was refused at your account",
            format!(
                "Somebody gave the right password of your account and a wrong code; or, signed in as you, a wrong \
                 password or code where these are asked for again. It came from {place}, and nothing was done.\n\n\
                 {STOLEN}"
            ),
        ),
        LetterKind::RefreshTokenReused => (
            "A session of yours was ended",
            format!(
                "A token of one of your sessions was used twice, the second time from {place}: somebody may have \
                 copied it. The session was ended, wherever it was in use.\n\n{STOLEN}"
            ),
        ),
        LetterKind::PasskeyAdded => (
            "Your account has another passkey",
            format!("With it, one logs in without the password. It was added from {place}.\n\n{STOLEN}"),
        ),
        LetterKind::PasskeyRemoved => (
            "A passkey of your account was removed",
            format!("It is good no longer. It was removed from {place}.\n\n{STOLEN}"),
        ),
        LetterKind::FactorsForgotten => (
            "Your account has no passkey and no authenticator app any more",
            format!(
                "Whoever runs the server had them forgotten, with the recovery codes, and all sessions were ended: \
                 log in with your password and set up new ones.\n\nIf you did not ask for it, tell them, and set up \
                 new ones before somebody else does.\n\n{FORGOTTEN}"
            ),
        ),
        LetterKind::PasskeySuspected => (
            "A passkey of your account may have been copied",
            format!(
                "It was used from {place}, and had counted fewer uses than before. It is refused from now on. Delete \
                 it and make another:\n\n    canopy identity list-passkeys --parent account/me\n\n{STOLEN}"
            ),
        ),
        _ => return None,
    };
    Some(Text { subject: subject.to_owned(), body })
}

/// What the operator is told that a mail is.
pub(crate) fn kind_name(kind: LetterKind) -> &'static str {
    match kind {
        LetterKind::Unspecified => "unknown",
        LetterKind::Verification => "verification",
        LetterKind::AccountExists => "account exists",
        LetterKind::ResetRequested => "password reset asked for",
        LetterKind::VerificationRequested => "verification asked for",
        LetterKind::PasswordReset => "password reset",
        LetterKind::PasswordWasReset => "password was reset",
        LetterKind::EmailChange => "new e-mail address",
        LetterKind::EmailWasChanged => "e-mail address was changed",
        LetterKind::Invitation => "invitation",
        LetterKind::AccountDeleted => "account was deleted",
        LetterKind::AccountUndeleted => "account was undeleted",
        LetterKind::PasswordWasChanged => "password was changed",
        LetterKind::SecondFactorAdded => "second factor was added",
        LetterKind::SecondFactorRemoved => "second factor was removed",
        LetterKind::RecoveryCodesReplaced => "recovery codes were replaced",
        LetterKind::RecoveryCodeUsed => "recovery code was used",
        LetterKind::ApiKeyCreated => "API key was made",
        LetterKind::NewPlace => "log-in from a new place",
        LetterKind::CodeRefused => "code was refused",
        LetterKind::RefreshTokenReused => "refresh token was used twice",
        LetterKind::PasskeyAdded => "passkey was added",
        LetterKind::PasskeyRemoved => "passkey was removed",
        LetterKind::PasskeySuspected => "passkey was refused as a copy",
        LetterKind::ApiKeyExpires => "API key expires",
        LetterKind::FactorsForgotten => "factors were forgotten",
    }
}

/// Whether strangers can have such letters sent. What warns the holder of an
/// account must not be kept away by a flood of others. Of what somebody does
/// who knows the password, the first ones warn enough.
pub(crate) fn is_counted(kind: LetterKind) -> bool {
    use LetterKind::{
        AccountExists, CodeRefused, EmailChange, Invitation, NewPlace, ResetRequested, Unspecified, Verification,
        VerificationRequested,
    };
    matches!(
        kind,
        Unspecified
            | Verification
            | AccountExists
            | ResetRequested
            | VerificationRequested
            | EmailChange
            | Invitation
            | NewPlace
            | CodeRefused
    )
}

/// What to do with a token. It stands behind `#`, where no server and no log
/// sees it.
fn how(link_base: &str, page: &str, command: &str, token: &str) -> String {
    let command = format!("    canopy identity {command} --token {token}");
    if link_base.is_empty() {
        return command;
    }
    format!("    {}/{page}#{token}\n\nor\n\n{command}", link_base.trim_end_matches('/'))
}

/// What people chose, on one line and of bounded length.
fn one_line(text: &str) -> String {
    // Those that turn the direction of what follows change how a line reads.
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain: String = text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(REPEATED_CHARS_MAX).collect()
}
