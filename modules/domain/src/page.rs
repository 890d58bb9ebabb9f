//! Pages of lists (AIP-158).

use bytes::Bytes;

use crate::{Code, Order, Reader, Refusal, Span};

/// Rows a page where the request does not say.
pub const PAGE_SIZE_DEFAULT: usize = 50;
/// Rows a page at most.
pub const PAGE_SIZE_MAX: usize = 1000;

/// Rows read at once where it is not known how many make a page.
const ROWS_READ_MAX: usize = 1000;

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
    /// Rows on the page at most.
    pub fn rows(&self) -> usize {
        match usize::try_from(self.size) {
            Ok(0) | Err(_) => PAGE_SIZE_DEFAULT,
            Ok(size) => size.min(PAGE_SIZE_MAX),
        }
    }

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
        let size = self.rows();
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

    /// Reads a page of those rows that are wanted, in ascending order. Looks at
    /// `rows_max` at most: a page may hold fewer, or none, and others follow.
    ///
    /// # Errors
    /// As [`PageRequest::read`], and those of `is_wanted`.
    pub fn read_where(
        &self,
        reader: &dyn Reader,
        table: u16,
        rows_max: usize,
        mut is_wanted: impl FnMut(&Bytes) -> Result<bool, Refusal>,
    ) -> Result<(Vec<Bytes>, String), Refusal> {
        let size = match usize::try_from(self.size) {
            Ok(0) | Err(_) => PAGE_SIZE_DEFAULT,
            Ok(size) => size.min(PAGE_SIZE_MAX),
        };
        let order = Order::Ascending;
        let mut after = match self.token {
            "" => None,
            token => Some(self.open(reader, table, &[], order, token)?),
        };
        let (mut wanted, mut looked_at) = (Vec::new(), 0);
        loop {
            let limit = ROWS_READ_MAX.min(rows_max.saturating_sub(looked_at)).max(1);
            let read = reader.scan(table, Span { prefix: &[], after: after.as_deref(), order, limit })?;
            let is_end = read.len() < limit;
            for (key, row) in read {
                if is_wanted(&row)? {
                    if wanted.len() == size {
                        // This one is the next page's first.
                        let last = after.map(|last| seal(reader, table, &[], order, &last));
                        return Ok((wanted, last.unwrap_or_default()));
                    }
                    wanted.push(row);
                }
                looked_at += 1;
                after = Some(key.to_vec());
            }
            if is_end {
                return Ok((wanted, String::new()));
            }
            if looked_at >= rows_max {
                let last = after.map(|last| seal(reader, table, &[], order, &last));
                return Ok((wanted, last.unwrap_or_default()));
            }
        }
    }

    /// Reads a page of groups of rows, each with all rows whose keys start with
    /// the same `group_bytes`: a page has as many groups as were asked for, or
    /// fewer where their rows are more than `rows_max`, but for one whole group.
    ///
    /// # Errors
    /// As [`PageRequest::read`].
    pub fn read_groups(
        &self,
        reader: &dyn Reader,
        table: u16,
        group_bytes: usize,
        rows_max: usize,
    ) -> Result<(Vec<(Bytes, Bytes)>, String), Refusal> {
        let size = match usize::try_from(self.size) {
            Ok(0) | Err(_) => PAGE_SIZE_DEFAULT,
            Ok(size) => size.min(PAGE_SIZE_MAX),
        };
        let order = Order::Ascending;
        let mut after = match self.token {
            "" => None,
            token => Some(self.open(reader, table, &[], order, token)?),
        };
        let group = |key: &[u8]| key.get(..group_bytes).map(<[u8]>::to_vec);
        // What came to the last page's last group since is not a group anew.
        let mut last = after.as_deref().and_then(group);
        let (mut rows, mut groups) = (Vec::<(Bytes, Bytes)>::new(), 0);
        loop {
            let span = Span { prefix: &[], after: after.as_deref(), order, limit: ROWS_READ_MAX };
            let read = reader.scan(table, span)?;
            let is_end = read.len() < ROWS_READ_MAX;
            for (key, row) in read {
                after = Some(key.to_vec());
                if group(&key) == last && rows.is_empty() {
                    continue;
                }
                if group(&key) != last {
                    if groups == size || (groups > 0 && rows.len() >= rows_max) {
                        let end = rows.last().map(|(key, _)| seal(reader, table, &[], order, key));
                        return Ok((rows, end.unwrap_or_default()));
                    }
                    groups += 1;
                    last = group(&key);
                }
                rows.push((key, row));
            }
            if is_end {
                return Ok((rows, String::new()));
            }
        }
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
