//! Channels. Each has keys of its own, under which it is written with its
//! messages: they are destroyed when it is deleted.

use canopy_domain::{Code, Context, Draft, Id, Mask, Order, PageRequest, Refusal, Span, State, Table, Wire, decode};
use canopy_proto::chat::v1::{
    Channel, CreateChannelRequest, DeleteChannelRequest, GetChannelRequest, ListChannelsRequest, ListChannelsResponse,
    ListShredCertificatesRequest, ListShredCertificatesResponse, ShredCertificate, UpdateChannelRequest,
};
use canopy_proto::system::v1::Reservation;

use crate::messages::MESSAGES;

/// By channel id.
pub(crate) const CHANNELS: Table<Channel> = Table::new(1, "channels", 1).of_subjects();
/// Which channel holds a slug, by the slug's keyed digest.
const SLUGS: Table<Reservation> = Table::new(2, "channel_slugs", 1);
/// Deleted channels whose messages are still to be removed, by channel id.
const CLEARING: Table<Channel> = Table::new(4, "channels_clearing", 1).of_subjects();
/// What is left of shredded channels, by channel id.
const CERTIFICATES: Table<ShredCertificate> = Table::new(5, "shred_certificates", 1);

/// Messages removed in one transaction, so that a large channel's end holds
/// nobody up.
const CLEAR_MAX: usize = 500;

/// The channel named `<chat>/channel/<id or slug>`: its id and its row.
pub(crate) fn find(
    state: &State<'_>,
    cx: &Context<'_>,
    field: &str,
    name: &str,
) -> Result<(Id, Wire<Channel>), Refusal> {
    let [segment] = cx.address.held(field, name, ["channel"])?;
    let id = id_of(state, segment)?.ok_or_else(|| Refusal::not_found(name))?;
    let row = state.get(&CHANNELS, id.as_bytes())?.ok_or_else(|| Refusal::not_found(name))?;
    Ok((id, row))
}

/// The id behind an id or slug.
pub(crate) fn id_of(state: &State<'_>, segment: &str) -> Result<Option<Id>, Refusal> {
    if let Some(id) = Id::parse(segment) {
        return Ok(Some(id));
    }
    let held = state.read(&SLUGS, &state.digest(segment))?;
    Ok(held.and_then(|held| held.holder.rsplit('/').next().and_then(Id::parse)))
}

fn take_slug(state: &State<'_>, draft: &mut Draft, slug: &str, channel: &str) -> Result<(), Refusal> {
    if slug.is_empty() {
        return Err(Refusal::invalid("channel.slug", "must not be empty"));
    }
    let key = state.digest(slug);
    if state.get(&SLUGS, &key)?.is_some() {
        let message = format!("the slug `{slug}` is taken in this project");
        return Err(Refusal::new(Code::AlreadyExists, message).hint("choose another one"));
    }
    let held =
        Reservation { space: "channel".into(), holder: channel.to_owned(), confirmed: true, ..Reservation::default() };
    draft.insert(&SLUGS, key, &Wire::new(&held));
    Ok(())
}

fn free_slug(state: &State<'_>, draft: &mut Draft, slug: &str) -> Result<(), Refusal> {
    let key = state.digest(slug);
    if let Some(held) = state.get(&SLUGS, &key)? {
        draft.delete(&SLUGS, key, &held);
    }
    Ok(())
}

pub(crate) fn create(
    state: &State<'_>,
    request: CreateChannelRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Channel>, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let sent = request.channel.unwrap_or_default();
    let wanted = decode(&sent)?;
    let id = cx.fresh_id(0);
    let channel = Channel {
        name: format!("{}/channel/{id}", cx.address),
        slug: wanted.slug,
        topic: wanted.topic,
        create_time_ms: cx.now_ms,
        update_time_ms: cx.now_ms,
        etag: cx.etag(),
    };
    take_slug(state, draft, &channel.slug, &channel.name)?;
    let row = sent.with(&channel);
    draft.insert(&CHANNELS, *id.as_bytes(), &row);
    draft.detail("channel", &channel.name);
    Ok(row)
}

pub(crate) fn get(state: &State<'_>, request: GetChannelRequest, cx: &Context<'_>) -> Result<Wire<Channel>, Refusal> {
    Ok(find(state, cx, "name", &request.name)?.1)
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListChannelsRequest,
    cx: &Context<'_>,
) -> Result<ListChannelsResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, CHANNELS.id, &[], Order::Ascending)?;
    let channels = rows.into_iter().map(|(_, row)| CHANNELS.row(row)).collect();
    Ok(ListChannelsResponse { channels, next_page_token })
}

pub(crate) fn update(
    state: &State<'_>,
    request: UpdateChannelRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Channel>, Refusal> {
    let sent = request.channel.unwrap_or_default();
    let wanted = decode(&sent)?;
    let (id, before) = find(state, cx, "channel.name", &wanted.name)?;
    let mut channel = decode(&before)?;
    if !wanted.etag.is_empty() && wanted.etag != channel.etag {
        return Err(Refusal::stale_etag());
    }
    let fixed = ["name", "create_time_ms", "update_time_ms", "etag"];
    let mask = Mask::new(request.update_mask.as_ref(), &["slug", "topic"], &fixed, sent.has_unknown())?;
    let named = request.update_mask.as_ref().is_some_and(|mask| !mask.paths.is_empty());
    if mask.includes("slug") && (named || !wanted.slug.is_empty()) && wanted.slug != channel.slug {
        take_slug(state, draft, &wanted.slug, &channel.name)?;
        free_slug(state, draft, &channel.slug)?;
        channel.slug = wanted.slug;
    }
    if mask.includes("topic") {
        channel.topic = wanted.topic;
    }
    channel.update_time_ms = cx.now_ms;
    channel.etag = cx.etag();
    let after = before.updated(&channel, mask.takes_unknown().then_some(&sent));
    draft.put(&CHANNELS, *id.as_bytes(), Some(&before), &after);
    draft.detail("channel", &channel.name);
    Ok(after)
}

pub(crate) fn delete(
    state: &State<'_>,
    request: DeleteChannelRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Channel>, Refusal> {
    let (id, row) = find(state, cx, "name", &request.name)?;
    let channel = decode(&row)?;
    if !request.etag.is_empty() && request.etag != channel.etag {
        return Err(Refusal::stale_etag());
    }
    draft.delete(&CHANNELS, *id.as_bytes(), &row);
    free_slug(state, draft, &channel.slug)?;
    draft.insert(&CLEARING, *id.as_bytes(), &row);
    draft.wake_at_ms(cx.now_ms);
    draft.detail("channel", &channel.name);
    Ok(row)
}

pub(crate) fn list_certificates(
    state: &State<'_>,
    request: ListShredCertificatesRequest,
    cx: &Context<'_>,
) -> Result<ListShredCertificatesResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, CERTIFICATES.id, &[], Order::Ascending)?;
    let certificates = rows.into_iter().map(|(_, row)| CERTIFICATES.row(row)).collect();
    Ok(ListShredCertificatesResponse { certificates, next_page_token })
}

/// Removes messages of deleted channels, some at a time, and in the end the
/// keys that they were written under.
pub(crate) fn clear(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let first = Span { prefix: &[], after: None, order: Order::Ascending, limit: 1 };
    let Some((id, channel)) = state.scan(&CLEARING, first)?.into_iter().next() else {
        return Ok(());
    };
    let span = Span { prefix: &id, after: None, order: Order::Ascending, limit: CLEAR_MAX };
    let messages = state.scan(&MESSAGES, span)?;
    for (key, row) in &messages {
        draft.delete(&MESSAGES, key.to_vec(), row);
    }
    if messages.len() < CLEAR_MAX {
        draft.delete(&CLEARING, id.to_vec(), &channel);
        if let Ok(subject) = <[u8; 16]>::try_from(&*id) {
            let fingerprints = state.0.subject_fingerprints(&subject)?;
            let certificate = ShredCertificate {
                name: decode(&channel)?.name,
                shred_time_ms: cx.now_ms,
                key_fingerprints: fingerprints.iter().map(|fingerprint| fingerprint.to_vec().into()).collect(),
            };
            draft.insert(&CERTIFICATES, subject, &Wire::new(&certificate));
            draft.shred(subject);
        }
    }
    draft.wake_at_ms(cx.now_ms);
    Ok(())
}
