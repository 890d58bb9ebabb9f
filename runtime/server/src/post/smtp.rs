//! Letters to a mail server, a connection each.

use std::path::Path;
use std::time::Duration;

use canopy_actors::{Delivering, Outbound, Post, Undelivered};
use canopy_config::{NodeConfig, SmtpTls};
use canopy_domain::Secret;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;

use super::PostError;
use super::message::Sender;

/// Time for the connection, and for each answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Time for a letter in all.
const LETTER: Duration = Duration::from_secs(60);

/// Hands letters to a mail server.
pub(super) struct Smtp {
    sender: Sender,
    server: (String, u16),
    tls: Option<(SmtpTls, TlsParameters)>,
    credentials: Option<(String, Secret)>,
    hello: ClientId,
}

impl Smtp {
    pub(super) fn new(config: &NodeConfig, sender: Sender) -> Result<Self, PostError> {
        let mail = &config.mail;
        let tls = match mail.smtp_tls {
            SmtpTls::Off => None,
            how => {
                let mut parameters = TlsParameters::builder(mail.smtp_host.clone());
                if let Some(path) = &mail.smtp_ca_file {
                    let certificate = Certificate::from_pem(read(path)?.as_bytes());
                    let certificate =
                        certificate.map_err(|e| PostError::File(path.display().to_string(), e.to_string()))?;
                    parameters = parameters.add_root_certificate(certificate);
                }
                Some((how, parameters.build().map_err(|e| PostError::Tls(told(&e)))?))
            }
        };
        let credentials = mail.smtp_credentials_file.as_deref().map(credentials).transpose()?;
        // A server that looks the name up finds the installation's own.
        let hello = config.edge.hostnames.iter().find(|name| name.parse::<std::net::IpAddr>().is_err());
        let hello = hello.map_or_else(ClientId::default, |name| ClientId::Domain(name.clone()));
        let port = u16::try_from(mail.smtp_port).unwrap_or(u16::MAX);
        Ok(Self { sender, server: (mail.smtp_host.clone(), port), tls, credentials, hello })
    }

    /// Everything before the letter itself: if it fails, it is not the letter's
    /// fault, whatever the server says.
    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let wrapped = self.tls.as_ref().filter(|(how, _)| *how == SmtpTls::Tls).map(|(_, tls)| tls.clone());
        let (host, port) = (self.server.0.as_str(), self.server.1);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1((host, port), Some(ANSWER), &self.hello, wrapped, None).await?;
        if let Some((SmtpTls::StartTls, tls)) = &self.tls {
            connection.starttls(tls.clone(), &self.hello).await?;
        }
        if let Some((user, password)) = &self.credentials {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            connection.auth(DEFAULT_MECHANISMS, &credentials).await?;
        }
        Ok(connection)
    }

    async fn send(&self, outbound: &Outbound) -> Result<(), Undelivered> {
        let message = self.sender.message(outbound)?;
        let later = |e: Error| Undelivered::Later(told(&e));
        let mut connection = self.connect().await.map_err(later)?;
        match connection.send(message.envelope(), &message.formatted()).await {
            Ok(_) => {
                // The letter is the server's: how it says goodbye changes nothing.
                let _ = connection.quit().await;
                Ok(())
            }
            Err(error) if error.is_permanent() || error.is_client() => Err(Undelivered::Never(told(&error))),
            Err(error) => Err(later(error)),
        }
    }
}

impl Post for Smtp {
    fn deliver<'a>(&'a self, outbound: &'a Outbound) -> Delivering<'a> {
        Box::pin(async move {
            let sent = tokio::time::timeout(LETTER, self.send(outbound)).await;
            sent.unwrap_or_else(|_| Err(Undelivered::Later("the mail server takes too long".into())))
        })
    }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn read(path: &Path) -> Result<String, PostError> {
    std::fs::read_to_string(path).map_err(|e| PostError::File(path.display().to_string(), e.to_string()))
}

/// User name and password, a line each.
fn credentials(path: &Path) -> Result<(String, Secret), PostError> {
    let text = Secret::new(read(path)?);
    let mut lines = text.expose().lines();
    match (lines.next(), lines.next()) {
        (Some(user), Some(password)) if !user.is_empty() && !password.is_empty() => {
            Ok((user.to_owned(), Secret::new(password)))
        }
        _ => Err(PostError::File(path.display().to_string(), "holds no two lines, user name and password".into())),
    }
}
