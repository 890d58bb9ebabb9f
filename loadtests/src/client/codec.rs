//! A tonic codec that passes message bytes through, so that a baseline pays for no encoding.

use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A call's replies fit in what the allocator hands out fastest (glibc: 1,032 bytes); larger ones grow.
const UNARY_BUFFER_BYTES: usize = 1_000;
/// A stream fills its buffer to tonic's threshold before it yields, so it starts at that size.
const STREAM_BUFFER_BYTES: usize = 32 * 1024;

/// The pass-through codec, with buffers as large as its use needs.
#[derive(Clone, Copy, Debug)]
pub struct RawCodec {
    buffers: BufferSettings,
}

impl RawCodec {
    pub fn unary() -> Self {
        Self { buffers: BufferSettings::new(UNARY_BUFFER_BYTES, STREAM_BUFFER_BYTES) }
    }

    pub fn streaming() -> Self {
        Self { buffers: BufferSettings::new(STREAM_BUFFER_BYTES, STREAM_BUFFER_BYTES) }
    }
}

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.buffers
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.buffers
    }
}
