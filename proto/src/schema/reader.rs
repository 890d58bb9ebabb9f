//! Reads and writes the wire format of protobuf:
//! <https://protobuf.dev/programming-guides/encoding/>.

/// Messages, map entries and groups inside one another; prost's own limit.
pub const DEPTH_MAX: u32 = 100;

/// A varint holds 64 bits, 7 in each byte.
const VARINT_BYTES_MAX: usize = 10;

/// A field's value as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Group,
}

/// One occurrence of a field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Occurrence<'a> {
    pub(super) number: u32,
    pub(super) raw: Raw<'a>,
    /// Key and value as they travel.
    pub(super) span: &'a [u8],
}

/// Bytes that are no protobuf message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Malformed {
    /// Offset, in bytes, in what was given to the reader.
    pub(super) at: usize,
    pub(super) why: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WireType {
    Varint,
    Fixed64,
    Bytes,
    StartGroup,
    EndGroup,
    Fixed32,
}

#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    len: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { len: bytes.len(), rest: bytes }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> usize {
        self.len - self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field, or `None` at the end. `depth` is how many groups may
    /// yet nest.
    #[inline]
    pub(super) fn field(&mut self, depth: u32) -> Result<Option<Occurrence<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.rest;
        let (number, wire_type) = self.key()?;
        let raw = self.value(number, wire_type, depth)?;
        let span = start.get(..start.len() - self.rest.len()).unwrap_or_default();
        Ok(Some(Occurrence { number, raw, span }))
    }

    #[inline]
    fn value(&mut self, number: u32, wire_type: WireType, depth: u32) -> Result<Raw<'a>, Malformed> {
        Ok(match wire_type {
            WireType::Varint => Raw::Varint(self.varint()?),
            WireType::Fixed64 => Raw::Fixed64(self.fixed64()?),
            WireType::Fixed32 => Raw::Fixed32(self.fixed32()?),
            WireType::Bytes => Raw::Bytes(self.delimited()?),
            WireType::StartGroup => self.group(number, depth)?,
            WireType::EndGroup => return Err(self.malformed("a group ends that was not begun")),
        })
    }

    fn group(&mut self, number: u32, depth: u32) -> Result<Raw<'a>, Malformed> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(self.malformed("groups nest too deeply"));
        };
        loop {
            let (inner, wire_type) = self.key()?;
            if wire_type != WireType::EndGroup {
                self.value(inner, wire_type, depth)?;
            } else if inner == number {
                return Ok(Raw::Group);
            } else {
                return Err(self.malformed("a group ends that was not begun"));
            }
        }
    }

    #[inline]
    fn key(&mut self) -> Result<(u32, WireType), Malformed> {
        let at = self.offset();
        let malformed = |why| Malformed { at, why };
        let key = self.varint()?;
        // 29 bits of field number and 3 of wire type.
        let key = u32::try_from(key).map_err(|_| malformed("a field number is above 2^29-1"))?;
        let number = key >> 3;
        if number == 0 {
            return Err(malformed("a field number is zero"));
        }
        let wire_type = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::Fixed32,
            _ => return Err(malformed("a wire type is unknown")),
        };
        Ok((number, wire_type))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest.split_first() {
            Some((byte, rest)) if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (n, byte) in self.rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * n);
            if *byte < 0x80 {
                if n == VARINT_BYTES_MAX - 1 && *byte > 1 {
                    return Err(self.malformed("a varint is above 64 bits"));
                }
                self.rest = self.rest.get(n + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(self.malformed(if self.rest.len() < VARINT_BYTES_MAX {
            "the bytes end within a varint"
        } else {
            "a varint is longer than 10 bytes"
        }))
    }

    pub(super) fn fixed32(&mut self) -> Result<u32, Malformed> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            return Err(self.malformed("the bytes end within a fixed32"));
        };
        self.rest = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, Malformed> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            return Err(self.malformed("the bytes end within a fixed64"));
        };
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    #[inline]
    fn delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let at = self.offset();
        let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(Malformed { at, why: "a field is longer than its message" });
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn malformed(&self, why: &'static str) -> Malformed {
        Malformed { at: self.offset(), why }
    }
}

/// Writes a length-delimited field.
pub(super) fn put_delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
