//! A message's stamp, in printable ASCII so that it can travel in a text field.
//!
//! `~cl~`, then in lower-case hexadecimal the sender (4 digits), the number (10) and the sent time
//! in nanoseconds (12, which is 78 hours of [`crate::clock`]).

/// Length of a stamp in bytes.
pub const STAMP_BYTES: usize = MAGIC.len() + SENDER_DIGITS + NUMBER_DIGITS + TIME_DIGITS;

const MAGIC: &[u8] = b"~cl~";
const SENDER_DIGITS: usize = 4;
const NUMBER_DIGITS: usize = 10;
const TIME_DIGITS: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub sender: u16,
    pub number: u64,
    /// When it was sent, or by an open-loop schedule should have been, in [`crate::clock`].
    pub sent_ns: u64,
}

impl Stamp {
    /// A text of `text_bytes` (at least [`STAMP_BYTES`]) that begins with the stamp; the rest is filler.
    pub fn text(&self, text_bytes: usize) -> String {
        let Self { sender, number, sent_ns } = self;
        format!("~cl~{sender:04x}{number:010x}{sent_ns:012x}{:.<1$}", "", text_bytes.saturating_sub(STAMP_BYTES))
    }

    /// Calls `each` for every stamp in `message`, whatever surrounds them: a protobuf envelope,
    /// several rows in one reply.
    pub fn scan(message: &[u8], mut each: impl FnMut(Self)) {
        let mut rest = message;
        while let Some(offset) = rest.iter().position(|&byte| byte == b'~') {
            rest = rest.get(offset..).unwrap_or_default();
            let step = match rest.first_chunk::<STAMP_BYTES>().and_then(Self::parse) {
                Some(stamp) => {
                    each(stamp);
                    STAMP_BYTES
                }
                None => 1,
            };
            rest = rest.get(step..).unwrap_or_default();
        }
    }

    fn parse(bytes: &[u8; STAMP_BYTES]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (sender, rest) = rest.split_at_checked(SENDER_DIGITS)?;
        let (number, sent) = rest.split_at_checked(NUMBER_DIGITS)?;
        Some(Self {
            sender: u16::try_from(hexadecimal(sender)?).ok()?,
            number: hexadecimal(number)?,
            sent_ns: hexadecimal(sent)?,
        })
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, &digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}
