//! Messages. A message's number is the seq of the transaction that sent it,
//! so that numbers grow in the order of sending.

use canopy_domain::{Code, Context, Draft, Id, Order, PageRequest, Refusal, Role, State, Table, Wire, decode};
use canopy_proto::chat::v1::{
    DeleteMessageRequest, EditMessageRequest, GetMessageRequest, ListMessagesRequest, ListMessagesResponse, Message,
    Order as ListOrder, SendMessageRequest,
};

use crate::channels;

/// By channel id, then number (big-endian).
pub(crate) const MESSAGES: Table<Message> = Table::new(3, "messages", 1).of_subjects();

pub(crate) fn key(channel: Id, number: u64) -> Vec<u8> {
    let mut key = channel.as_bytes().to_vec();
    key.extend(number.to_be_bytes());
    key
}

fn sent(message: Option<&Wire<Message>>) -> Result<Message, Refusal> {
    let message = message.ok_or_else(|| Refusal::invalid("message", "is required"))?;
    let message = message.decode().map_err(|e| Refusal::invalid("message", e.to_string()))?;
    if message.text.trim().is_empty() {
        return Err(Refusal::invalid("message.text", "must not be empty"));
    }
    Ok(message)
}

/// The message named `<chat>/channel/<id or slug>/message/<number>`.
fn find(state: &State<'_>, cx: &Context<'_>, field: &str, name: &str) -> Result<(Vec<u8>, Wire<Message>), Refusal> {
    let [channel, number] = cx.address.held(field, name, ["channel", "message"])?;
    let not_found = || Refusal::not_found(name);
    // One name a message: `007` names none.
    let number = number.parse::<u64>().ok().filter(|n| n.to_string() == number).ok_or_else(not_found)?;
    let channel = channels::id_of(state, channel)?.ok_or_else(not_found)?;
    if state.get(&channels::CHANNELS, channel.as_bytes())?.is_none() {
        return Err(not_found());
    }
    let key = key(channel, number);
    let row = state.get(&MESSAGES, &key)?.ok_or_else(not_found)?;
    Ok((key, row))
}

pub(crate) fn send(
    state: &State<'_>,
    request: SendMessageRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Message>, Refusal> {
    let (channel, _) = channels::find(state, cx, "parent", &request.parent)?;
    let wanted = sent(request.message.as_ref())?;
    let message = Message {
        name: format!("{}/channel/{channel}/message/{}", cx.address, cx.seq),
        author: cx.caller()?.to_string(),
        text: wanted.text,
        create_time_ms: cx.now_ms,
        edit_time_ms: 0,
        delete_time_ms: 0,
    };
    let row = request.message.unwrap_or_default().with(&message);
    draft.insert(&MESSAGES, key(channel, cx.seq), &row);
    Ok(row)
}

pub(crate) fn get(state: &State<'_>, request: GetMessageRequest, cx: &Context<'_>) -> Result<Wire<Message>, Refusal> {
    Ok(find(state, cx, "name", &request.name)?.1)
}

pub(crate) fn edit(
    state: &State<'_>,
    request: EditMessageRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Message>, Refusal> {
    let wanted = sent(request.message.as_ref())?;
    let (key, before) = find(state, cx, "message.name", &wanted.name)?;
    let mut message = decode(&before)?;
    if message.author != cx.caller()?.as_str() {
        return Err(Refusal::new(Code::PermissionDenied, "only its author edits a message"));
    }
    if message.delete_time_ms > 0 {
        return Err(Refusal::new(Code::FailedPrecondition, "the message is deleted"));
    }
    message.text = wanted.text;
    message.edit_time_ms = cx.now_ms;
    let after = before.updated(&message, request.message.as_ref());
    draft.put(&MESSAGES, key, Some(&before), &after);
    Ok(after)
}

/// Keeps the message as a mark that there was one, without its text.
pub(crate) fn delete(
    state: &State<'_>,
    request: DeleteMessageRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Message>, Refusal> {
    let (key, before) = find(state, cx, "name", &request.name)?;
    let message = decode(&before)?;
    if message.author != cx.caller()?.as_str() && !cx.holds(Role::ProjectAdmin) {
        return Err(Refusal::new(Code::PermissionDenied, "only its author or a project-admin deletes a message"));
    }
    if message.delete_time_ms > 0 {
        return Ok(before);
    }
    // A fresh row: fields that this release does not know may hold content.
    let after = Wire::new(&Message { text: String::new(), delete_time_ms: cx.now_ms, ..message });
    draft.put(&MESSAGES, key, Some(&before), &after);
    Ok(after)
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListMessagesRequest,
    cx: &Context<'_>,
) -> Result<ListMessagesResponse, Refusal> {
    let (channel, _) = channels::find(state, cx, "parent", &request.parent)?;
    let order = match request.order() {
        ListOrder::Unspecified => Order::Ascending,
        ListOrder::NewestFirst => Order::Descending,
    };
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, MESSAGES.id, channel.as_bytes(), order)?;
    let messages = rows.into_iter().map(|(_, row)| MESSAGES.row(row)).collect();
    Ok(ListMessagesResponse { messages, next_page_token, cursor: state.seq()? })
}
