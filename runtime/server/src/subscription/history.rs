//! Events read from the store, for who starts in the past or fell behind.

use bytes::Bytes;
use canopy_actors::Node;
use canopy_domain::{Address, Change, Order, Reader, Refusal, Span, Watch};
use canopy_proto::system::v1::Transaction;

use super::topic::{Event, TAKE_BYTES_MAX};

/// View rows read at once.
const ROWS_MAX: usize = 256;
/// Bytes after the prefix in a view's key: seq and n.
const POINTER_BYTES: usize = 12;

/// Shows a change to subscribers.
pub(crate) type Show = fn(label: &str, seq: u64, change: &Change) -> Option<Bytes>;

/// A stretch of a topic's past.
pub(crate) struct Stretch {
    pub(crate) events: Vec<Event>,
    /// Everything up to here has been read.
    pub(crate) position: u64,
}

/// The events after `position`, as far as one reading goes.
///
/// # Errors
/// `OUT_OF_RANGE`: they are no longer kept; the store failed.
pub(crate) async fn read(
    node: &Node,
    address: &Address,
    watch: &Watch,
    show: Show,
    position: u64,
) -> Result<Stretch, Refusal> {
    let snapshot = node.snapshot(address).await?;
    check_kept(&snapshot, &watch.label, position)?;
    let mut limit = ROWS_MAX;
    loop {
        let mut after = watch.prefix.clone();
        after.extend(position.to_be_bytes());
        after.extend(u32::MAX.to_be_bytes());
        let span = Span { prefix: &watch.prefix, after: Some(&after), order: Order::Ascending, limit };
        let rows = snapshot.scan(watch.view, span)?;
        let mut pointers: Vec<(u64, u32)> = rows.iter().filter_map(|(key, _)| pointer(key)).collect();
        let mut reached = snapshot.seq()?;
        if rows.len() == limit {
            // The last transaction may go on: it is left for the next reading.
            let last = pointers.last().map_or(0, |(seq, _)| *seq);
            pointers.retain(|(seq, _)| *seq < last);
            match pointers.last() {
                Some((seq, _)) => reached = *seq,
                None => {
                    limit *= 2;
                    continue;
                }
            }
        }
        let (events, cut) = events(&snapshot, &pointers, &watch.label, show)?;
        return Ok(Stretch { events, position: cut.unwrap_or(reached) });
    }
}

/// That the feed holds all that came after `cursor`.
pub(crate) fn check_kept(reader: &dyn Reader, label: &str, cursor: u64) -> Result<(), Refusal> {
    let floor = reader.floor()?;
    match cursor.saturating_add(1) < floor {
        true => Err(Refusal::below_floor(label, cursor, floor)),
        false => Ok(()),
    }
}

fn pointer(key: &[u8]) -> Option<(u64, u32)> {
    let (seq, n) = key.get(key.len().checked_sub(POINTER_BYTES)?..)?.split_at_checked(8)?;
    Some((u64::from_be_bytes(seq.try_into().ok()?), u32::from_be_bytes(n.try_into().ok()?)))
}

/// The events that are pointed to, and where they were cut off for their size, if they were.
fn events(
    reader: &dyn Reader,
    pointers: &[(u64, u32)],
    label: &str,
    show: Show,
) -> Result<(Vec<Event>, Option<u64>), Refusal> {
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut current: Option<Transaction> = None;
    for (seq, n) in pointers {
        let last = current.as_ref().map(|transaction| transaction.seq);
        if last != Some(*seq) {
            if bytes >= TAKE_BYTES_MAX {
                return Ok((events, last));
            }
            current = reader.transaction(*seq)?;
        }
        let change = current.as_ref().and_then(|t| t.changes.get(*n as usize));
        if let Some(shown) = change.and_then(|change| show(label, *seq, &domain_change(change))) {
            bytes += shown.len();
            events.push(Event { seq: *seq, bytes: shown });
        }
    }
    Ok((events, None))
}

/// A change as it stands in a feed, as modules see it.
pub(crate) fn domain_change(change: &canopy_proto::system::v1::Change) -> Change {
    Change {
        table: u16::try_from(change.table).unwrap_or(u16::MAX),
        key: change.key.to_vec(),
        before: change.before.clone(),
        after: change.after.clone(),
        schema_version: change.schema_version,
        of_subject: change.of_subject,
    }
}
