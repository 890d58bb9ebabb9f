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
    };
    Some(Text { subject, body })
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
