//! Tokens that mails hand over: names with a secret in them, which say where
//! they are good. An account keeps hashes alone.

use canopy_domain::{Address, Code, Context, Draft, Order, Refusal, Span, State, Table, Wire, decode};
use canopy_proto::identity::v1::Account;
use canopy_proto::methods::mail_effects;
use canopy_proto::system::v1::{Letter, LetterKind, PostLetterRequest, Proof};
use sha2::{Digest, Sha256};

/// By purpose (one byte), then the first 16 bytes of the secret's hash.
const PROOFS: Table<Proof> = Table::new(30, "proofs", 1);

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How long an address that was given up can be taken back.
pub(crate) const UNDO_MS: i64 = 7 * DAY_MS;

/// Bytes of a hash that are kept: nobody finds a second secret for them.
const HASH_BYTES: usize = 16;
/// Proofs of a purpose that are good at once.
pub(crate) const PROOFS_MAX: usize = 10;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The address is the account's.
    Verification = 1,
    /// A new password.
    Reset = 2,
    /// A new address.
    Change = 3,
    /// The address from before.
    Undo = 4,
}

impl Purpose {
    fn segment(self) -> &'static str {
        match self {
            Purpose::Verification => "verification",
            Purpose::Reset => "password-reset",
            Purpose::Change => "email-change",
            Purpose::Undo => "email-undo",
        }
    }

    fn life_ms(self) -> i64 {
        match self {
            Purpose::Reset => HOUR_MS,
            Purpose::Verification | Purpose::Change => DAY_MS,
            Purpose::Undo => UNDO_MS,
        }
    }

    fn letter(self) -> LetterKind {
        match self {
            Purpose::Verification => LetterKind::Verification,
            Purpose::Reset => LetterKind::PasswordReset,
            Purpose::Change => LetterKind::EmailChange,
            Purpose::Undo => LetterKind::EmailWasChanged,
        }
    }
}

/// A proof that stands.
pub(crate) struct Standing {
    key: Vec<u8>,
    row: Wire<Proof>,
    pub(crate) proof: Proof,
}

fn key(purpose: Purpose, secret: &str) -> Vec<u8> {
    let hash = Sha256::digest(secret.as_bytes());
    [purpose as u8].into_iter().chain(hash.into_iter().take(HASH_BYTES)).collect()
}

/// All proofs of a purpose, those that have expired included.
pub(crate) fn all(state: &State<'_>, purpose: Purpose) -> Result<Vec<Standing>, Refusal> {
    let prefix = [purpose as u8];
    let span = Span { prefix: &prefix, after: None, order: Order::Ascending, limit: 2 * PROOFS_MAX };
    let rows = state.scan(&PROOFS, span)?.into_iter();
    rows.map(|(key, row)| Ok(Standing { key: key.to_vec(), proof: decode(&row)?, row })).collect()
}

/// What a token proves, if it is good.
pub(crate) fn find(
    state: &State<'_>,
    purpose: Purpose,
    token: &str,
    cx: &Context<'_>,
) -> Result<Option<Standing>, Refusal> {
    let Ok([secret]) = cx.address.held("token", token, [purpose.segment()]) else { return Ok(None) };
    let key = key(purpose, secret);
    let Some(row) = state.get(&PROOFS, &key)? else { return Ok(None) };
    let proof = decode(&row)?;
    Ok((proof.expire_time_ms > cx.now_ms).then_some(Standing { key, row, proof }))
}

/// A token that is not good, for whatever reason.
pub(crate) fn no_good() -> Refusal {
    Refusal::new(Code::FailedPrecondition, "the token was used, has expired, or never was one")
        .hint("ask for another mail, and use the token of the latest")
}

/// Takes a token: it is good no more.
pub(crate) fn take(
    state: &State<'_>,
    purpose: Purpose,
    token: &str,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Proof, Refusal> {
    let found = find(state, purpose, token, cx)?.ok_or_else(no_good)?;
    found.forget(draft);
    Ok(found.proof)
}

impl Standing {
    pub(crate) fn forget(&self, draft: &mut Draft) {
        draft.delete(&PROOFS, self.key.clone(), &self.row);
    }
}

/// Forgets all proofs of a purpose.
pub(crate) fn forget_all(state: &State<'_>, purpose: Purpose, draft: &mut Draft) -> Result<(), Refusal> {
    for standing in all(state, purpose)? {
        standing.forget(draft);
    }
    Ok(())
}

/// Makes a token and has it mailed to `to`. `about` is the address that it is
/// about. But for taking an address back, a later token replaces an earlier.
pub(crate) fn issue(
    state: &State<'_>,
    (purpose, to, about): (Purpose, &str, &str),
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    if purpose != Purpose::Undo {
        forget_all(state, purpose, draft)?;
    }
    let secret = cx.secret(purpose.segment());
    let expire_time_ms = cx.now_ms + purpose.life_ms();
    let kept = if purpose == Purpose::Undo { to } else { about };
    let proof = Proof { create_time_ms: cx.now_ms, expire_time_ms, email: kept.to_owned() };
    draft.insert(&PROOFS, key(purpose, secret.expose()), &Wire::new(&proof));
    let token = format!("{}/{}/{}", cx.address, purpose.segment(), secret.expose());
    let letter = Letter {
        to: to.to_owned(),
        kind: purpose.letter().into(),
        token,
        about: about.to_owned(),
        expire_time_ms,
        ..Letter::default()
    };
    post(draft, letter);
    Ok(())
}

/// Has a letter sent.
pub(crate) fn post(draft: &mut Draft, letter: Letter) {
    let request = PostLetterRequest { letter: Some(letter), request_id: String::new() };
    draft.effect(Address::system("mail"), mail_effects::POST_LETTER, &request);
}

/// Tells the holder of an account what was done to it, and from where, if this
/// server sends mails at all.
pub(crate) fn warn(account: &Account, kind: LetterKind, place: String, cx: &Context<'_>, draft: &mut Draft) {
    if cx.issuer.policy().mails {
        post(draft, Letter { about: place, ..notice(&account.email, kind) });
    }
}

/// A letter that hands over nothing.
pub(crate) fn notice(to: &str, kind: LetterKind) -> Letter {
    Letter { to: to.to_owned(), kind: kind.into(), ..Letter::default() }
}
