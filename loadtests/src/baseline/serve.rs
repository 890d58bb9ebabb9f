//! The baselines as processes of their own, so that their CPU time can be told from the client's.

use std::io::Write as _;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::{echo::Echo, fanout::Fanout};
use crate::LoadError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Echo,
    Fanout,
}

/// Serves a baseline on a free loopback port, prints the ready line, and returns when stdin closes.
///
/// # Errors
/// When no port can be bound, or the certificate cannot be made.
pub async fn serve(kind: Kind, tls: bool) -> Result<(), LoadError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(LoadError::io("bind a loopback port"))?;
    let address = listener.local_addr().map_err(LoadError::io("read the bound address"))?;
    let mut server = Server::builder();
    let mut ca = None;
    if tls {
        let made = |reason: String| LoadError::Tls(reason);
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).map_err(|error| made(error.to_string()))?;
        let identity = Identity::from_pem(cert.pem(), signing_key.serialize_pem());
        server =
            server.tls_config(ServerTlsConfig::new().identity(identity)).map_err(|error| made(error.to_string()))?;
        ca = Some(cert.pem());
    }
    let router = match kind {
        Kind::Echo => server.add_service(Echo),
        Kind::Fanout => server.add_service(Fanout::default()),
    };
    let ready = serde_json::json!({ "ready": true, "address": address, "ca": ca });
    print_line(&ready)?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // Open streams never end by themselves: the accept loop is dropped, not drained.
    tokio::select! {
        served = router.serve_with_incoming(incoming) => {
            served.map_err(|error| LoadError::Io { context: "serve".to_owned(), source: std::io::Error::other(error) })
        }
        () = stdin_closed() => Ok(()),
    }
}

/// Burns CPU on one thread until the system's own clock says `cpu_ms`, prints a ready line with the
/// milliseconds burnt, and returns when stdin closes. The self-test holds CPU accounting against it.
///
/// # Errors
/// When stdout is closed.
pub async fn spin(cpu_ms: u64) -> Result<(), LoadError> {
    let burnt_ms = tokio::task::spawn_blocking(move || {
        loop {
            let burnt_ms = process_cpu_ms();
            if burnt_ms >= cpu_ms {
                return burnt_ms;
            }
            std::hint::spin_loop();
        }
    });
    let burnt_ms = burnt_ms.await.map_err(|error| LoadError::Subject(error.to_string()))?;
    print_line(&serde_json::json!({ "ready": true, "address": "127.0.0.1:0", "burnt_ms": burnt_ms }))?;
    stdin_closed().await;
    Ok(())
}

fn process_cpu_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let spent = Duration::try_from(time).unwrap_or_default();
    u64::try_from(spent.as_millis()).unwrap_or(u64::MAX)
}

fn print_line(value: &serde_json::Value) -> Result<(), LoadError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{value}").and_then(|()| stdout.flush()).map_err(LoadError::io("print the ready line"))
}

/// Returns when the parent is gone or has closed our stdin.
async fn stdin_closed() {
    let (closed, wait) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = closed.send(());
    });
    let _ = wait.await;
}
