//! Names, addresses, ids, and tokens of pages.

use bytes::Bytes;
use canopy_domain::{Address, Id, Name, Order, PageRequest, Reader, Refusal, Span};
use canopy_proto::system::v1::Transaction;

/// What is accepted is written as it was read, and its parts are parts of it.
pub(crate) fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(id) = Id::parse(text) {
        assert_eq!(id.to_string(), text, "an id has two forms");
    }
    if let Ok(address) = Address::parse(text) {
        assert_eq!(address.as_str(), text, "an address has two forms");
        assert!(Name::parse(text).is_ok(), "an address is no name");
        for outer in [address.org_address(), address.project_address()].into_iter().flatten() {
            assert!(text.starts_with(outer.as_str()), "{outer} does not hold {text}");
            assert_eq!(Address::parse(outer.as_str()).as_ref(), Ok(&outer));
        }
        let _ = (address.kind(), address.id());
    }
    if let Ok(name) = Name::parse(text) {
        assert!(text.len() <= Name::BYTES_MAX, "a name is too long");
        assert!(!text.split('/').any(|segment| segment.is_empty() || segment == ".."), "a name leads elsewhere");
        assert!(!text.chars().any(char::is_control), "a name holds a control character");
        assert_eq!(name.segments().collect::<Vec<_>>().join("/"), text);
        for kind in ["account", "session", "org", "project", "chat"] {
            if let Ok(owner) = name.owner(kind) {
                assert!(text.starts_with(owner), "the owner of a name is no part of it");
            }
        }
    }
}

/// Rows whose keys and digests are known.
struct Rows(u8);

impl Reader for Rows {
    fn get(&self, _: u16, _: &[u8]) -> Result<Option<Bytes>, Refusal> {
        Ok(None)
    }

    fn scan(&self, _: u16, span: Span<'_>) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
        if let Some(after) = span.after {
            assert!(after.starts_with(span.prefix), "a page token leads out of its list");
        }
        let row = |n: u8| (Bytes::from([span.prefix, &[n]].concat()), Bytes::new());
        Ok((0..3).map(row).take(span.limit).collect())
    }

    fn seq(&self) -> Result<u64, Refusal> {
        Ok(0)
    }

    fn floor(&self) -> Result<u64, Refusal> {
        Ok(1)
    }

    fn transaction(&self, _: u64) -> Result<Option<Transaction>, Refusal> {
        Ok(None)
    }

    /// Keyed, as the store's: FNV-1a is no MAC, but differs with the key.
    fn subject_fingerprints(&self, _: &[u8; 16]) -> Result<Vec<[u8; 32]>, Refusal> {
        Ok(Vec::new())
    }

    fn digest(&self, text: &[u8]) -> [u8; 16] {
        let step =
            |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B);
        text.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d ^ u128::from(self.0), step).to_be_bytes()
    }
}

/// A page token leads on in its own list, and in no other.
pub(crate) fn page_token(data: &[u8]) {
    let (prefix, token) = data.split_at(data.len().min(4));
    if let Ok(token) = std::str::from_utf8(token) {
        // The bounds of what it leads to are held by the reader above.
        let _ = PageRequest { size: 2, token }.read(&Rows(1), 1, prefix, Order::Ascending);
    }
    let page =
        |rows: u8, token: &str, table, order| PageRequest { size: 2, token }.read(&Rows(rows), table, prefix, order);
    let (_, token) = page(1, "", 1, Order::Ascending).unwrap();
    assert!(page(1, &token, 1, Order::Ascending).is_ok(), "a token of this list is refused");
    assert!(page(2, &token, 1, Order::Ascending).is_err(), "a token of another partition is taken");
    assert!(page(1, &token, 2, Order::Ascending).is_err(), "a token of another table is taken");
    assert!(page(1, &token, 1, Order::Descending).is_err(), "a token of another direction is taken");
}
