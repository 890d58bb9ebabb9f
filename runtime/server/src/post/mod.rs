//! Where letters go: to a mail server, or into files.

mod files;
mod message;
mod smtp;

use canopy_actors::Post;
use canopy_config::{MailMode, NodeConfig};

pub use message::Sender;

/// Why letters cannot be delivered as the configuration has it.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The sender is no address.
    #[error("mail.from: {0}")]
    From(String),
    /// A file that the configuration names.
    #[error("{0}: {1}")]
    File(String, String),
    /// TLS to the mail server.
    #[error("mail.smtp_tls: {0}")]
    Tls(String),
}

/// Who delivers letters; nobody where none are written.
///
/// # Errors
/// See [`PostError`].
pub fn post(config: &NodeConfig) -> Result<Option<Box<dyn Post>>, PostError> {
    let sender = Sender::new(&config.mail.from, &config.mail.link_base)?;
    Ok(match config.mail.mode {
        MailMode::None => None,
        MailMode::Files => Some(Box::new(files::Files::new(config.mail_dir(), sender))),
        MailMode::Smtp => Some(Box::new(smtp::Smtp::new(config, sender)?)),
    })
}
