//! The edge: where the outside comes in.
//!
//! From the bottom up: [`authority`] makes a local certificate authority on the
//! first run, [`certificate`] keeps the served certificate current, [`tls`] turns
//! it into rustls configurations, [`listener`] accepts connections and drives
//! HTTP/1.1 and HTTP/2 over them into one [`front`], with a `guard` in between that
//! cuts off who floods (`frames`) or stalls ([`load`]) and gathers what is written. Who is
//! nearly always refused is read in `turns`, and its `streams` run at once. It hands gRPC calls to
//! [`dispatch`], which has [`exchange`] read them, asks [`callers`] who calls,
//! [`mod@route`] for the owner, [`gate`] for permission (of a sys-admin what [`layers`] ask for, of [`devices`]
//! among others), and [`admission`] for room:
//! a fair part of a [`pool`], within a [`rate`], if there is time at the present [`pace`].

pub mod admission;
mod age;
mod answer;
pub mod api_key;
mod attempt;
pub mod authority;
pub mod callers;
pub mod certificate;
pub mod codec;
mod connection;
mod connection_metrics;
pub mod credential;
pub mod devices;
pub mod dispatch;
pub mod exchange;
mod frames;
pub mod front;
pub mod gate;
pub mod grants;
mod guard;
pub mod keys;
pub mod layers;
pub mod listener;
pub mod load;
pub mod local;
pub mod pace;
pub mod pages;
pub mod pool;
pub mod port;
pub mod rate;
pub mod route;
pub mod status;
mod streams;
pub mod tls;
mod turns;
pub mod watchers;
