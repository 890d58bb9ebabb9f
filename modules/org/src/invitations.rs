//! Invitations: rows of the org's partition, and the hashes of their secrets.
//! An invitation is good for as long as whoever made it could still make it.

use canopy_domain::{
    Address, Code, Context, Draft, Id, Kind, Order, PageRequest, Prepared, Refusal, Role, Span, State, Step, Table,
    Wire, decode,
};
use canopy_proto::identity::v1::{Account, GetAccountRequest};
use canopy_proto::methods::{identity, mail_effects};
use canopy_proto::org::v1::{
    AcceptInvitationRequest, CreateInvitationRequest, CreateInvitationResponse, GetInvitationRequest,
    GetInvitationResponse, Grant, Invitation, ListInvitationsRequest, ListInvitationsResponse, RevokeInvitationRequest,
};
use canopy_proto::system::v1::{
    CheckInvitationRequest, CheckInvitationResponse, InvitationSecret, InvitationTotals, Letter, LetterKind,
    PostLetterRequest,
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::grants::{self, GRANTS};
use crate::org::{SELF, tell_member, the_org};
use crate::projects::PROJECTS;
use crate::quota;

/// By id of the org or project, then the invitation's own.
const INVITATIONS: Table<Invitation> = Table::new(20, "invitations", 1);
/// By the same key.
const SECRETS: Table<InvitationSecret> = Table::new(21, "invitation_secrets", 1);
/// The one row, under [`SELF`].
const TOTALS: Table<InvitationTotals> = Table::new(22, "invitation_totals", 1);

/// Invitations of an org at once, those that were used up or have expired
/// included; they make room for new ones.
const INVITATIONS_MAX: usize = 1_000;
const DAY_MS: i64 = 86_400_000;
/// Life of an invitation where the request does not say.
const LIFE_MS_DEFAULT: i64 = 7 * DAY_MS;
/// Longest life of an invitation.
const LIFE_MS_MAX: i64 = 30 * DAY_MS;

const COLLECTION: &str = "invitation";

/// An invitation's place: what it is to, and its id.
struct Place {
    on: Address,
    id: Id,
}

impl Place {
    fn key(&self) -> Result<Vec<u8>, Refusal> {
        let on = self.on.id().ok_or_else(|| Refusal::new(Code::Internal, "a scope holds no id"))?;
        Ok([on.as_bytes().as_slice(), self.id.as_bytes().as_slice()].concat())
    }

    fn name(&self) -> String {
        format!("{}/{COLLECTION}/{}", self.on, self.id)
    }

    /// Of `<on>/invitation/<id>`, and what follows.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let (on, rest) = text.split_once(&format!("/{COLLECTION}/"))?;
        let (id, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let on = Address::parse(on).ok()?;
        let fits = matches!(on.kind(), Some(Kind::Org | Kind::Project)) && on.id().is_some();
        fits.then_some((Self { on, id: Id::parse(id)? }, rest))
    }
}

fn no_good() -> Refusal {
    Refusal::new(Code::NotFound, "the invitation was used up or taken back, has expired, or never was one")
        .hint("ask for another one")
}

fn is_open(invitation: &Invitation, cx: &Context<'_>) -> bool {
    invitation.uses < invitation.uses_max && invitation.expire_time_ms > cx.now_ms
}

/// The invitation that a token opens, if it is still good.
fn open(state: &State<'_>, token: &str, cx: &Context<'_>) -> Result<(Place, Wire<Invitation>, Invitation), Refusal> {
    let (place, secret) = Place::parse(token).ok_or_else(no_good)?;
    if place.on.org_address().as_ref() != Some(cx.address) {
        return Err(no_good());
    }
    let key = place.key()?;
    let (Some(row), Some(kept)) = (state.get(&INVITATIONS, &key)?, state.read(&SECRETS, &key)?) else {
        return Err(no_good());
    };
    // Hashes are compared: how long that takes tells nothing of the secret.
    let fits = kept.hash[..] == Sha256::digest(secret.as_bytes())[..];
    let invitation = decode(&row)?;
    if !fits || !is_open(&invitation, cx) || !may_still(state, &place, &invitation)? {
        return Err(no_good());
    }
    Ok((place, row, invitation))
}

/// Whether what it is to still stands, and whoever made it still holds as much
/// as it gives. A sys-admin holds no grants here, and is taken at their word.
fn may_still(state: &State<'_>, place: &Place, invitation: &Invitation) -> Result<bool, Refusal> {
    if !stands(state, &place.on)? {
        return Ok(false);
    }
    Ok(invitation.by_sys_admin || holds(state, &invitation.inviter, &place.on)? >= invitation.role)
}

/// The highest role that an account holds at an org or project, as a number.
fn holds(state: &State<'_>, account: &str, on: &Address) -> Result<i32, Refusal> {
    let account = Address::parse(account).ok().and_then(|address| address.id());
    let Some(account) = account else { return Ok(0) };
    let mut highest = 0;
    for scope in [Some(on.clone()), on.org_address()].into_iter().flatten() {
        let Some(id) = scope.id() else { continue };
        let prefix = [id.as_bytes().as_slice(), account.as_bytes().as_slice()].concat();
        let span = Span { prefix: &prefix, after: None, order: Order::Descending, limit: 1 };
        for (_, row) in state.scan(&GRANTS, span)? {
            highest = highest.max(decode(&row)?.role);
        }
    }
    Ok(highest)
}

fn stands(state: &State<'_>, on: &Address) -> Result<bool, Refusal> {
    match (on.kind(), on.id()) {
        (Some(Kind::Project), Some(id)) => {
            Ok(state.read(&PROJECTS, id.as_bytes())?.is_some_and(|project| project.delete_time_ms == 0))
        }
        _ => Ok(true),
    }
}

/// Whether a project is; of an org, its own row tells.
fn is_archived(state: &State<'_>, on: &Address) -> Result<bool, Refusal> {
    match (on.kind(), on.id()) {
        (Some(Kind::Project), Some(id)) => {
            Ok(state.read(&PROJECTS, id.as_bytes())?.is_some_and(|project| project.archive_time_ms > 0))
        }
        _ => Ok(false),
    }
}

fn sent(invitation: Option<&Wire<Invitation>>) -> Result<Invitation, Refusal> {
    let invitation = invitation.ok_or_else(|| Refusal::invalid("invitation", "is required"))?;
    invitation.decode().map_err(|e| Refusal::invalid("invitation", e.to_string()))
}

/// The caller's own account: what others see of them, and their address.
fn ask_caller(cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => {
            let target = cx.caller()?.clone();
            let request = GetAccountRequest { name: target.to_string() }.encode_to_vec().into();
            Ok(Some(Step::Ask { target, method: identity::GET_ACCOUNT.path, request }))
        }
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

fn caller(cx: &Context<'_>) -> Result<Account, Refusal> {
    match cx.prepared {
        [Prepared::Answer(Ok(account))] => {
            Account::decode(account.clone()).map_err(|e| Refusal::new(Code::Internal, e.to_string()))
        }
        _ => Err(Refusal::new(Code::Internal, "an invitation came without its prepared steps")),
    }
}

pub(crate) fn prepare_create(
    _: &State<'_>,
    _: &CreateInvitationRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    ask_caller(cx)
}

pub(crate) fn create(
    state: &State<'_>,
    request: CreateInvitationRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<CreateInvitationResponse, Refusal> {
    let org = decode(&the_org(state, cx)?)?;
    let wanted = sent(request.invitation.as_ref())?;
    let on = Address::parse(&request.parent).map_err(|e| Refusal::invalid("parent", e.to_string()))?;
    if !matches!(on.kind(), Some(Kind::Org | Kind::Project)) {
        return Err(Refusal::invalid("parent", "invitations are to an org or a project"));
    }
    let grant = Grant { on: on.to_string(), role: wanted.role, ..Grant::default() };
    grants::check(&grant, cx)?;
    if !stands(state, &on)? {
        return Err(Refusal::not_found(&request.parent));
    }
    let latest = cx.now_ms + LIFE_MS_MAX;
    let expire_time_ms = if wanted.expire_time_ms == 0 { cx.now_ms + LIFE_MS_DEFAULT } else { wanted.expire_time_ms };
    if expire_time_ms <= cx.now_ms || expire_time_ms > latest {
        return Err(Refusal::invalid("invitation.expire_time_ms", "lies within 30 days from now"));
    }
    let by_mail = !wanted.email.is_empty();
    if by_mail && !is_address(&wanted.email) {
        return Err(Refusal::invalid("invitation.email", "is no e-mail address"));
    }
    if by_mail && wanted.uses_max > 1 {
        return Err(Refusal::invalid("invitation.uses_max", "is 1 for an invitation by mail"));
    }
    if by_mail && !cx.issuer.policy().mails {
        return Err(Refusal::new(Code::FailedPrecondition, "this server sends no mail")
            .hint("leave out the e-mail address, and hand the token over yourself"));
    }
    make_room(state, cx, draft)?;
    let inviter = caller(cx)?;
    let place = Place { on, id: cx.hidden_id("invitation id") };
    let secret = cx.secret(COLLECTION);
    let invitation = Invitation {
        name: place.name(),
        role: wanted.role,
        email: wanted.email,
        uses_max: wanted.uses_max.max(1),
        uses: 0,
        expire_time_ms,
        create_time_ms: cx.now_ms,
        inviter_name: if inviter.display_name.is_empty() { "Somebody".into() } else { inviter.display_name },
        inviter: inviter.name,
        by_sys_admin: cx.role == Some(Role::SysAdmin),
    };
    let row = request.invitation.unwrap_or_default().with(&invitation);
    let key = place.key()?;
    draft.insert(&INVITATIONS, key.clone(), &row);
    let hash = Sha256::digest(secret.expose().as_bytes()).to_vec().into();
    draft.insert(&SECRETS, key, &Wire::new(&InvitationSecret { hash }));
    let token = format!("{}/{}", invitation.name, secret.expose());
    if !by_mail {
        return Ok(CreateInvitationResponse { invitation: Some(row), token });
    }
    let letter = Letter {
        to: invitation.email,
        kind: LetterKind::Invitation.into(),
        token,
        about: if org.title.is_empty() { org.slug } else { org.title },
        sender: invitation.inviter_name,
        sender_account: invitation.inviter,
        expire_time_ms,
        ..Letter::default()
    };
    let post = PostLetterRequest { letter: Some(letter), request_id: String::new() };
    draft.effect(Address::system("mail"), mail_effects::POST_LETTER, &post);
    Ok(CreateInvitationResponse { invitation: Some(row), token: String::new() })
}

fn is_address(text: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control());
    text.split_once('@').is_some_and(|(local, domain)| plain(local) && plain(domain) && !domain.contains(['@', '/']))
        && !text.contains('/')
}

fn total(state: &State<'_>) -> Result<usize, Refusal> {
    Ok(state.read(&TOTALS, &SELF)?.unwrap_or_default().invitations as usize)
}

fn set_total(state: &State<'_>, invitations: usize, draft: &mut Draft) -> Result<(), Refusal> {
    let before = state.get(&TOTALS, &SELF)?;
    let invitations = u32::try_from(invitations).unwrap_or(u32::MAX);
    draft.put(&TOTALS, SELF, before.as_ref(), &Wire::new(&InvitationTotals { invitations }));
    Ok(())
}

/// Counts one more. Where there are as many as may be, those that are of no use
/// any more are forgotten.
fn make_room(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let total = total(state)?;
    let mut gone = 0;
    if total >= INVITATIONS_MAX {
        let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: INVITATIONS_MAX };
        for (key, row) in state.scan(&INVITATIONS, span)? {
            if !is_open(&decode(&row)?, cx) {
                forget(state, &key, &row, draft)?;
                gone += 1;
            }
        }
        if gone == 0 {
            let message = format!("an org has {INVITATIONS_MAX} open invitations at most");
            return Err(Refusal::new(Code::ResourceExhausted, message)
                .hint("take some back with `canopy org revoke-invitation`"));
        }
    }
    set_total(state, total.saturating_sub(gone) + 1, draft)
}

fn forget(state: &State<'_>, key: &[u8], row: &Wire<Invitation>, draft: &mut Draft) -> Result<(), Refusal> {
    draft.delete(&INVITATIONS, key.to_vec(), row);
    if let Some(secret) = state.get(&SECRETS, key)? {
        draft.delete(&SECRETS, key.to_vec(), &secret);
    }
    Ok(())
}

/// Forgets invitations by somebody, and those that were mailed to them.
pub(crate) fn forget_of(state: &State<'_>, account: &str, email: &str, draft: &mut Draft) -> Result<(), Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: INVITATIONS_MAX };
    let mut gone = 0;
    for (key, row) in state.scan(&INVITATIONS, span)? {
        let invitation = decode(&row)?;
        if invitation.inviter == account || same(&invitation.email, email) {
            forget(state, &key, &row, draft)?;
            gone += 1;
        }
    }
    if gone > 0 {
        set_total(state, total(state)?.saturating_sub(gone), draft)?;
    }
    Ok(())
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListInvitationsRequest,
    cx: &Context<'_>,
) -> Result<ListInvitationsResponse, Refusal> {
    the_org(state, cx)?;
    let parent = Address::parse(&request.parent).map_err(|e| Refusal::invalid("parent", e.to_string()))?;
    let prefix = match (parent.kind(), parent.id()) {
        (Some(Kind::Project), Some(id)) => id.as_bytes().to_vec(),
        (Some(Kind::Org), _) => Vec::new(),
        _ => return Err(Refusal::invalid("parent", "invitations are listed of an org or a project")),
    };
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, INVITATIONS.id, &prefix, Order::Ascending)?;
    let invitations = rows.into_iter().map(|(_, row)| INVITATIONS.row(row)).collect();
    Ok(ListInvitationsResponse { invitations, next_page_token })
}

pub(crate) fn revoke(
    state: &State<'_>,
    request: RevokeInvitationRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Invitation>, Refusal> {
    the_org(state, cx)?;
    let absent = || Refusal::not_found(&request.name);
    let (place, _) = Place::parse(&request.name)
        .filter(|(_, rest)| rest.is_empty())
        .ok_or_else(|| Refusal::invalid("name", format!("`{}` names no invitation", request.name)))?;
    let key = place.key()?;
    let row = state.get(&INVITATIONS, &key)?.ok_or_else(absent)?;
    if decode(&row)?.name != request.name {
        return Err(absent());
    }
    forget(state, &key, &row, draft)?;
    set_total(state, total(state)?.saturating_sub(1), draft)?;
    Ok(row)
}

pub(crate) fn get(
    state: &State<'_>,
    request: GetInvitationRequest,
    cx: &Context<'_>,
) -> Result<GetInvitationResponse, Refusal> {
    let org = decode(&the_org(state, cx).map_err(|_| no_good())?)?;
    let (place, _, invitation) = open(state, &request.token, cx)?;
    let project = match (place.on.kind(), place.on.id()) {
        (Some(Kind::Project), Some(id)) => state.read(&PROJECTS, id.as_bytes())?.unwrap_or_default(),
        _ => canopy_proto::org::v1::Project::default(),
    };
    let title = |title: String, slug: String| if title.is_empty() { slug } else { title };
    Ok(GetInvitationResponse {
        on: place.on.to_string(),
        org_title: title(org.title, org.slug),
        project_title: title(project.title, project.slug),
        role: invitation.role,
        inviter_name: invitation.inviter_name,
        expire_time_ms: invitation.expire_time_ms,
        by_mail: !invitation.email.is_empty(),
    })
}

fn same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

/// Whether somebody may register with an invitation: the first step to
/// accepting it, which takes nothing from it.
pub(crate) fn check(
    state: &State<'_>,
    request: CheckInvitationRequest,
    cx: &Context<'_>,
) -> Result<CheckInvitationResponse, Refusal> {
    the_org(state, cx).map_err(|_| no_good())?;
    let (_, _, invitation) = open(state, &request.token, cx)?;
    if invitation.email.is_empty() || same(&invitation.email, &request.email) {
        return Ok(CheckInvitationResponse {});
    }
    Err(of_another())
}

fn of_another() -> Refusal {
    Refusal::new(Code::PermissionDenied, "the invitation is for another e-mail address")
        .hint("use an account with the address that it was mailed to")
}

pub(crate) fn prepare_accept(
    _: &State<'_>,
    _: &AcceptInvitationRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    ask_caller(cx)
}

pub(crate) fn accept(
    state: &State<'_>,
    request: AcceptInvitationRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Grant>, Refusal> {
    let org = the_org(state, cx).map_err(|_| no_good())?;
    let (place, before, mut invitation) = open(state, &request.token, cx)?;
    if decode(&org)?.archive_time_ms > 0 || is_archived(state, &place.on)? {
        return Err(Refusal::new(Code::FailedPrecondition, "what you are invited to is archived: nobody joins it")
            .hint("ask whoever invited you"));
    }
    let account = caller(cx)?;
    if !invitation.email.is_empty() {
        if !same(&invitation.email, &account.email) {
            return Err(of_another());
        }
        if account.email_verify_time_ms == 0 {
            return Err(Refusal::new(Code::FailedPrecondition, "your e-mail address is not verified")
                .hint("use the mail that came when you registered, or `canopy identity request-verification`"));
        }
    }
    let grant = Grant {
        account: account.name,
        on: place.on.to_string(),
        role: invitation.role,
        create_time_ms: cx.now_ms,
        granted_by: invitation.inviter.clone(),
    };
    let key = grants::key(&grant)?;
    if let Some(row) = state.get(&GRANTS, &key)? {
        // They have it already, and leave the place to somebody else.
        return Ok(row);
    }
    quota::check_place(state, &grant.account, cx)?;
    let row = Wire::new(&grant);
    draft.insert(&GRANTS, key, &row);
    invitation.uses += 1;
    draft.put(&INVITATIONS, place.key()?, Some(&before), &before.updated(&invitation, None));
    tell_member(draft, &grant.account, &org, true)?;
    draft.settle();
    Ok(row)
}
