//! Channels and messages of a project.

mod channels;
mod events;
mod messages;

use canopy_domain::{Module, Subscription};
use canopy_proto::methods::chat as methods;

/// The module of `org/<id>/project/<id>/chat`.
pub fn chat() -> Module {
    Module::new("chat")
        .view(events::CHANNEL_EVENTS)
        .command(methods::CREATE_CHANNEL, channels::create)
        .query(methods::GET_CHANNEL, channels::get)
        .query(methods::LIST_CHANNELS, channels::list)
        .command(methods::UPDATE_CHANNEL, channels::update)
        .command(methods::DELETE_CHANNEL, channels::delete)
        .query(methods::LIST_SHRED_CERTIFICATES, channels::list_certificates)
        .command(methods::SEND_MESSAGE, messages::send)
        .query(methods::GET_MESSAGE, messages::get)
        .command(methods::EDIT_MESSAGE, messages::edit)
        .command(methods::DELETE_MESSAGE, messages::delete)
        .query(methods::LIST_MESSAGES, messages::list)
        .subscription(
            methods::SUBSCRIBE,
            Subscription { open: events::open, opened: events::opened, expiring: events::expiring, show: events::show },
        )
        .on_wake(channels::clear)
}
