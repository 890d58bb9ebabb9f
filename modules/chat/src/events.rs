//! What subscribers see: a view with one key per change of a channel, which
//! points into the feed.

use bytes::Bytes;
use canopy_domain::{Change, Context, Refusal, Source, State, View, ViewWrite, Watch, Wire};
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{Channel, Opened, SubscribeRequest, SubscribeResponse};
use canopy_proto::identity::v1::SessionExpiring;
use prost::Message;

use crate::channels::{self, CHANNELS};
use crate::messages::MESSAGES;

/// Channel id, seq, n: the changes of a channel in order. The keys say all.
pub(crate) const CHANNEL_EVENTS: View =
    View { id: View::FIRST_ID, name: "channel_events", version: 1, source: Source::Changes, apply };

/// Bytes of a channel's id, with which both tables' keys start.
const CHANNEL_ID_BYTES: usize = 16;

fn apply(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if !is_event(change) {
        return;
    }
    if let Some(channel) = change.key.get(..CHANNEL_ID_BYTES) {
        let mut key = channel.to_vec();
        key.extend(seq.to_be_bytes());
        key.extend(n.to_be_bytes());
        writes.push(ViewWrite::Put { key, value: Bytes::new() });
    }
}

/// Sent, edited or deleted messages, and the channel's end. Rows that vanish
/// after the channel's end show nothing.
fn is_event(change: &Change) -> bool {
    (change.table == MESSAGES.id && change.after.is_some()) || (change.table == CHANNELS.id && change.after.is_none())
}

pub(crate) fn open(state: &State<'_>, request: &Bytes, cx: &Context<'_>) -> Result<Vec<Watch>, Refusal> {
    let request = SubscribeRequest::decode(request.clone())
        .map_err(|e| Refusal::new(canopy_domain::Code::InvalidArgument, e.to_string()))?;
    let own = |name: &str| {
        name.strip_prefix(cx.address.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut watches = Vec::new();
    for position in request.channels.iter().filter(|position| own(&position.name)) {
        let (id, _) = channels::find(state, cx, "channels.name", &position.name)?;
        if watches.iter().any(|watch: &Watch| watch.prefix == id.as_bytes()) {
            return Err(Refusal::invalid("channels.name", format!("`{}` is named twice", position.name))
                .hint("name each channel once, with one cursor"));
        }
        watches.push(Watch {
            view: CHANNEL_EVENTS.id,
            prefix: id.as_bytes().to_vec(),
            label: format!("{}/channel/{id}", cx.address),
            cursor: position.cursor,
            end: None,
        });
    }
    Ok(watches)
}

pub(crate) fn opened(label: &str, cursor: u64) -> Bytes {
    let event = Some(Event::Opened(Opened {}));
    SubscribeResponse { channel: label.to_owned(), cursor, event }.encode_to_vec().into()
}

pub(crate) fn expiring(expire_time_ms: i64) -> Bytes {
    let event = Some(Event::Expiring(SessionExpiring { expire_time_ms }));
    SubscribeResponse { event, ..SubscribeResponse::default() }.encode_to_vec().into()
}

pub(crate) fn show(label: &str, seq: u64, change: &Change) -> Option<Bytes> {
    let event = match (&change.before, &change.after) {
        // Its keys may be destroyed already: what it was called, and no more.
        (_, None) if change.table == CHANNELS.id => {
            Event::Closed(Wire::new(&Channel { name: label.to_owned(), ..Channel::default() }))
        }
        (None, Some(after)) => Event::Sent(MESSAGES.row(after.clone())),
        (Some(_), Some(after)) => {
            let row = MESSAGES.row(after.clone());
            match row.decode() {
                Ok(message) if message.delete_time_ms > 0 => Event::Deleted(row),
                _ => Event::Edited(row),
            }
        }
        _ => return None,
    };
    Some(SubscribeResponse { channel: label.to_owned(), cursor: seq, event: Some(event) }.encode_to_vec().into())
}
