//! A letter as a message of RFC 5322. Whatever people chose stands in encoded
//! headers and an encoded body: it can end neither.

use std::time::{Duration, UNIX_EPOCH};

use canopy_actors::{Outbound, Undelivered};
use lettre::Address;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, Message};

use super::PostError;

/// Whom letters are from, and what their links begin with.
#[derive(Debug, Clone)]
pub struct Sender {
    from: Mailbox,
    link_base: String,
}

impl Sender {
    /// `Name <local@domain>`, or the address alone.
    ///
    /// # Errors
    /// It is no address.
    pub fn new(from: &str, link_base: &str) -> Result<Self, PostError> {
        let (name, address) = match from.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, address)) => (Some(name.trim().to_owned()).filter(|name| !name.is_empty()), address),
            None => (None, from),
        };
        let address: Address = address.parse().map_err(|e| PostError::From(format!("`{address}`: {e}")))?;
        Ok(Self { from: Mailbox::new(name, address), link_base: link_base.to_owned() })
    }

    /// The message that a letter becomes: the same bytes each time.
    ///
    /// # Errors
    /// Its address is none, or it is no letter.
    pub fn message(&self, outbound: &Outbound) -> Result<Message, Undelivered> {
        let never = |why: String| Undelivered::Never(why);
        let text = canopy_system::message_of(&outbound.letter, &self.link_base);
        let text = text.ok_or_else(|| never("there are no words for it".into()))?;
        let to: Address = outbound.letter.to.parse().map_err(|e| never(format!("no address: {e}")))?;
        let written = UNIX_EPOCH + Duration::from_millis(u64::try_from(outbound.time_ms).unwrap_or(0));
        // RFC 3834: nobody's machine answers.
        let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into());
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(text.subject)
            .date(written)
            .message_id(Some(format!("<{}@{}>", outbound.id, self.from.email.domain())))
            .raw_header(automatic)
            .header(ContentType::TEXT_PLAIN)
            .body(body(text.body))
            .map_err(|e| never(e.to_string()))
    }
}

/// Longest line that needs no encoding (RFC 5322, 2.1.1).
const LINE_BYTES_MAX: usize = 998;

/// Tokens are longer than a line of quoted-printable: unencoded, they can be
/// copied from the file as well.
fn body(text: String) -> Body {
    let is_plain = |line: &str| line.len() <= LINE_BYTES_MAX && line.bytes().all(|c| (b' '..=b'~').contains(&c));
    if text.lines().all(is_plain) {
        let bytes = text.replace('\n', "\r\n").into_bytes();
        Body::dangerous_pre_encoded(bytes, ContentTransferEncoding::SevenBit)
    } else {
        Body::new(text)
    }
}
