//! Pages of lists (AIP-158).

use bytes::Bytes;

use crate::{Code, Order, Reader, Refusal, Span};

/// Rows a page where the request does not say.
pub const PAGE_SIZE_DEFAULT: usize = 50;
/// Rows a page at most.
pub const PAGE_SIZE_MAX: usize = 1000;

/// Bytes of a key in a page token at most.
const TOKEN_KEY_BYTES_MAX: usize = 96;
/// Bytes of a token's proof.
const PROOF_BYTES: usize = 8;

/// The part of a list that a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest<'a> {
    /// Rows wanted; 0 for the default.
    pub size: i32,
    /// The last page's `next_page_token`, or empty.
    pub token: &'a str,
}

impl PageRequest<'_> {
    /// Reads a page of `table` below `prefix`, and the token for the next one.
    ///
    /// A token holds the last key and a proof keyed by the partition: one of
    /// another partition, list or direction is refused.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a foreign or damaged token; the store failed.
    pub fn read(
        &self,
        reader: &dyn Reader,
        table: u16,
        prefix: &[u8],
        order: Order,
    ) -> Result<(Vec<(Bytes, Bytes)>, String), Refusal> {
        let size = match usize::try_from(self.size) {
            Ok(0) | Err(_) => PAGE_SIZE_DEFAULT,
            Ok(size) => size.min(PAGE_SIZE_MAX),
        };
        let after = match self.token {
            "" => None,
            token => Some(self.open(reader, table, prefix, order, token)?),
        };
        let span = Span { prefix, after: after.as_deref(), order, limit: size + 1 };
        let mut rows = reader.scan(table, span)?;
        let more = rows.len() > size;
        rows.truncate(size);
        let next = match rows.last() {
            Some((key, _)) if more => seal(reader, table, prefix, order, key),
            _ => String::new(),
        };
        Ok((rows, next))
    }

    fn open(
        &self,
        reader: &dyn Reader,
        table: u16,
        prefix: &[u8],
        order: Order,
        token: &str,
    ) -> Result<Vec<u8>, Refusal> {
        let refuse = || {
            let mut refusal =
                Refusal::invalid("page_token", "is not a token of this list").hint("start again without a page token");
            refusal.code = Code::InvalidArgument;
            refusal
        };
        let bytes = from_hex(token).ok_or_else(refuse)?;
        let (proof, key) = bytes.split_at_checked(PROOF_BYTES).ok_or_else(refuse)?;
        let fits = key.len() <= TOKEN_KEY_BYTES_MAX && key.starts_with(prefix);
        if fits && proof == proof_of(reader, table, prefix, order, key) { Ok(key.to_vec()) } else { Err(refuse()) }
    }
}

fn seal(reader: &dyn Reader, table: u16, prefix: &[u8], order: Order, key: &[u8]) -> String {
    let proof = proof_of(reader, table, prefix, order, key);
    proof.iter().chain(key).map(|byte| format!("{byte:02x}")).collect()
}

fn proof_of(reader: &dyn Reader, table: u16, prefix: &[u8], order: Order, key: &[u8]) -> [u8; PROOF_BYTES] {
    let mut text = b"page".to_vec();
    text.extend(table.to_be_bytes());
    text.push(u8::from(order == Order::Descending));
    text.push(u8::try_from(prefix.len()).unwrap_or(u8::MAX));
    text.extend(prefix);
    text.extend(key);
    let digest = reader.digest(&text);
    let mut proof = [0u8; PROOF_BYTES];
    for (to, from) in proof.iter_mut().zip(digest) {
        *to = from;
    }
    proof
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|c| c.to_digit(16)).collect::<Option<Vec<_>>>()?;
    if digits.len() % 2 != 0 {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect()
}
