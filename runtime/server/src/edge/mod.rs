//! The edge: where the outside comes in.
//!
//! From the bottom up: [`authority`] makes a local certificate authority on the
//! first run, [`certificate`] keeps the served certificate current, [`tls`] turns
//! it into rustls configurations, [`listener`] accepts connections and drives
//! HTTP/1.1 and HTTP/2 over them into one [`front`]. It hands gRPC calls to
//! [`dispatch`], which asks [`callers`] who calls, [`admission`] for room,
//! [`mod@route`] for the owner and [`gate`] for permission.

pub mod admission;
pub mod authority;
pub mod callers;
pub mod certificate;
pub mod codec;
mod connection;
pub mod credential;
pub mod dispatch;
pub mod front;
pub mod gate;
pub mod grants;
pub mod listener;
pub mod local;
pub mod pages;
pub mod port;
pub mod route;
pub mod status;
pub mod tls;
pub mod watchers;
