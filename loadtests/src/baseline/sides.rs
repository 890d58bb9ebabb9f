//! The baselines as sides of the scenarios.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::raw_fjall::{RawVaults, Shape};
use super::{Kind, echo, fanout};
use crate::LoadError;
use crate::client::{Call, Endpoint};
use crate::process::{Ready, ServerProcess};
use crate::scenario::{chat, commit, edge, start};

/// Starts baselines as children of `program`, which must be `canopy-load` itself.
#[derive(Clone, Debug)]
pub struct Baseline {
    pub program: PathBuf,
}

impl Baseline {
    fn command(&self, kind: Kind, tls: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("serve-baseline").arg(match kind {
            Kind::Echo => "echo",
            Kind::Fanout => "fanout",
        });
        if tls {
            command.arg("--tls");
        }
        command
    }

    /// Starts a baseline server.
    ///
    /// # Errors
    /// As [`ServerProcess::spawn`].
    pub async fn serve(&self, kind: Kind, tls: bool) -> Result<ServerProcess, LoadError> {
        ServerProcess::spawn(self.command(kind, tls)).await
    }
}

/// The endpoint of a server that says in its ready line where it listens and whom to trust.
pub(crate) fn endpoint(ready: &Ready) -> Endpoint {
    Endpoint { ca_pem: ready.ca.clone(), ..Endpoint::plain(ready.address) }
}

impl edge::Target for Baseline {
    fn launch(&self, tls: bool, payload_bytes: usize) -> BoxFuture<'_, Result<edge::Side, LoadError>> {
        async move {
            let server = self.serve(Kind::Echo, tls).await?;
            let endpoint = endpoint(server.ready());
            Ok(edge::Side { server, endpoint, call: Call::new(&echo::PATH, &vec![b'x'; payload_bytes]) })
        }
        .boxed()
    }
}

impl chat::Target for Baseline {
    fn launch(&self, _subscribers: usize) -> BoxFuture<'_, Result<chat::Side, LoadError>> {
        async move {
            let server = self.serve(Kind::Fanout, false).await?;
            let endpoint = endpoint(server.ready());
            Ok(chat::Side {
                server,
                endpoint,
                subscribe: Arc::new(|_| Call::new(&fanout::SUBSCRIBE, &[])),
                send: Arc::new(|text| Call::new(&fanout::SEND, text.as_bytes())),
            })
        }
        .boxed()
    }
}

impl commit::Target for Baseline {
    fn shape(&self) -> Shape {
        Shape::default()
    }

    fn open<'a>(
        &'a self,
        directory: &'a Path,
        vaults: usize,
    ) -> BoxFuture<'a, Result<Arc<dyn commit::Committer>, LoadError>> {
        commit::raw(directory, vaults, self.shape()).boxed()
    }
}

impl commit::Committer for RawVaults {
    fn commit(&self, vault: usize) -> BoxFuture<'_, Result<(), LoadError>> {
        Self::commit(self, vault).boxed()
    }

    fn close_and_count(self: Arc<Self>) -> BoxFuture<'static, Result<u64, LoadError>> {
        async move {
            let vaults =
                Arc::into_inner(self).ok_or_else(|| LoadError::Subject("raw vaults closed while in use".to_owned()))?;
            tokio::task::spawn_blocking(move || vaults.close_and_count())
                .await
                .map_err(|error| LoadError::Subject(error.to_string()))?
        }
        .boxed()
    }
}

impl start::Target for Baseline {
    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    fn command(&self, _data: &Path) -> Command {
        Self::command(self, Kind::Echo, false)
    }

    fn prepare<'a>(&'a self, _data: &'a Path) -> BoxFuture<'a, Result<(), LoadError>> {
        async { Ok(()) }.boxed()
    }

    /// An echo stores nothing, so there is no full directory to start on.
    fn fill<'a>(&'a self, _server: &'a ServerProcess, _messages: u64) -> BoxFuture<'a, Result<u64, LoadError>> {
        async { Ok(0) }.boxed()
    }

    fn first_read(&self, ready: &Ready) -> Result<(Endpoint, Call), LoadError> {
        Ok((endpoint(ready), Call::new(&echo::PATH, b"first")))
    }
}
