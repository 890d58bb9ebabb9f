//! A message kept as the bytes it travels in.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost::{DecodeError, Message, Name};

use crate::schema;

/// A `T` as its encoded bytes. Decoding it as a field copies it verbatim,
/// unknown fields included; encoding it writes the same bytes again.
///
/// Rows, requests and answers hold resources in this form, so a read hands
/// stored bytes to the client without decoding them, and a client's fields
/// that this release does not know come back to it.
pub struct Wire<T> {
    bytes: Bytes,
    of: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Wire<T> {
    /// Encodes `value`.
    pub fn new(value: &T) -> Self {
        Self::from_bytes(value.encode_to_vec().into())
    }

    /// Takes bytes that are, or are to be checked as, an encoded `T`.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes, of: PhantomData }
    }

    /// The encoded message.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The encoded message.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Reads the message; fields unknown to this release are left out.
    ///
    /// # Errors
    /// The bytes are not an encoded `T`.
    pub fn decode(&self) -> Result<T, DecodeError> {
        T::decode(self.bytes.clone())
    }
}

impl<T: Message + Name + Default> Wire<T> {
    /// The same message with `value`'s known fields, keeping the fields of
    /// `self` that this release does not know.
    pub fn with(&self, value: &T) -> Self {
        let schema = schema::message(&T::full_name());
        Self::from_bytes(schema.splice(value.encode_to_vec().into(), &self.bytes))
    }

    /// A row after an update: `value`'s known fields, with the fields unknown
    /// to this release that the row holds, and over them those that the
    /// request brings.
    pub fn updated(&self, value: &T, request: Option<&Self>) -> Self {
        let schema = schema::message(&T::full_name());
        let known = value.encode_to_vec().into();
        Self::from_bytes(match request {
            Some(request) => schema.merge_unknown(known, &[&self.bytes, &request.bytes]),
            None => schema.splice(known, &self.bytes),
        })
    }

    /// Whether the message holds fields that this release does not know.
    pub fn has_unknown(&self) -> bool {
        schema::message(&T::full_name()).has_unknown(&self.bytes)
    }
}

impl<T> Clone for Wire<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), of: PhantomData }
    }
}

impl<T> Default for Wire<T> {
    fn default() -> Self {
        Self { bytes: Bytes::new(), of: PhantomData }
    }
}

impl<T> PartialEq for Wire<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Eq for Wire<T> {}

impl<T> Hash for Wire<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

/// Prints the size alone: the content may be private.
impl<T> fmt::Debug for Wire<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({} bytes)", self.bytes.len())
    }
}

impl<T: Send + Sync> Message for Wire<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.bytes);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let mut bytes = match std::mem::take(&mut self.bytes).try_into_mut() {
            Ok(bytes) => bytes,
            Err(shared) => BytesMut::from(&shared[..]),
        };
        copy_field(tag, wire_type, buf, &mut bytes, DEPTH_MAX)?;
        let _ = ctx;
        self.bytes = bytes.freeze();
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes = Bytes::new();
    }
}

/// Groups inside groups, as prost's own recursion limit.
const DEPTH_MAX: u32 = 100;

fn copy_field(
    tag: u32,
    wire_type: WireType,
    buf: &mut impl Buf,
    out: &mut BytesMut,
    depth: u32,
) -> Result<(), DecodeError> {
    encode_key(tag, wire_type, out);
    match wire_type {
        WireType::Varint => encode_varint(decode_varint(buf)?, out),
        WireType::ThirtyTwoBit => copy_bytes(4, buf, out)?,
        WireType::SixtyFourBit => copy_bytes(8, buf, out)?,
        WireType::LengthDelimited => {
            let len = decode_varint(buf)?;
            encode_varint(len, out);
            copy_bytes(len, buf, out)?;
        }
        WireType::StartGroup => {
            let depth = depth.checked_sub(1).ok_or_else(|| malformed("groups nest too deeply"))?;
            loop {
                let (inner, inner_type) = decode_key(buf)?;
                if inner_type == WireType::EndGroup {
                    if inner != tag {
                        return Err(malformed("a group ends that was not begun"));
                    }
                    encode_key(tag, WireType::EndGroup, out);
                    break;
                }
                copy_field(inner, inner_type, buf, out, depth)?;
            }
        }
        WireType::EndGroup => return Err(malformed("a group ends that was not begun")),
    }
    Ok(())
}

fn copy_bytes(len: u64, buf: &mut impl Buf, out: &mut BytesMut) -> Result<(), DecodeError> {
    let len = usize::try_from(len).ok().filter(|len| *len <= buf.remaining());
    let len = len.ok_or_else(|| malformed("a field is longer than its message"))?;
    out.put(buf.take(len));
    Ok(())
}

/// prost keeps the constructor of its error to itself, so that a truncated
/// message is read to obtain one.
fn malformed(_why: &'static str) -> DecodeError {
    decode_varint(&mut &[][..]).expect_err("an empty buffer holds no varint")
}
