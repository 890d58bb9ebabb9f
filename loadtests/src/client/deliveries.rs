//! The receiving end of a server stream.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use tonic::body::Body;

use super::connection::{FRAME_HEADER_BYTES, check_status};
use crate::LoadError;

/// Cuts gRPC messages out of HTTP/2 data as it comes, without copying whole ones.
#[derive(Debug, Default)]
pub struct Framing {
    /// The beginning of a message whose end has not come yet.
    partial: BytesMut,
}

impl Framing {
    /// Calls `each` for every message completed by `data`.
    pub fn feed(&mut self, mut data: Bytes, mut each: impl FnMut(&[u8])) {
        // At most one message crosses a boundary of data: complete that one by copying.
        while !self.partial.is_empty() && !data.is_empty() {
            let wanted = match message_bytes(&self.partial) {
                Some(message) => FRAME_HEADER_BYTES + message,
                None => FRAME_HEADER_BYTES,
            };
            let part = data.split_to(data.len().min(wanted - self.partial.len()));
            self.partial.extend_from_slice(&part);
            if let Some(message) = message_bytes(&self.partial)
                && self.partial.len() == FRAME_HEADER_BYTES + message
            {
                each(self.partial.get(FRAME_HEADER_BYTES..).unwrap_or_default());
                self.partial.clear();
            }
        }
        let mut rest: &[u8] = &data;
        while let Some(length) = message_bytes(rest) {
            let Some(message) = rest.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length) else {
                break;
            };
            each(message);
            rest.advance(FRAME_HEADER_BYTES + length);
        }
        self.partial.extend_from_slice(rest);
    }
}

/// The length of the message at the front of `data`, when its header is all there.
fn message_bytes(data: &[u8]) -> Option<usize> {
    let header = data.get(1..FRAME_HEADER_BYTES)?;
    let length = u32::from_be_bytes(header.try_into().ok()?);
    usize::try_from(length).ok()
}

/// An open server stream.
#[derive(Debug)]
pub struct Deliveries {
    body: Body,
    framing: Framing,
}

impl Deliveries {
    pub(super) fn new(body: Body) -> Self {
        Self { body, framing: Framing::default() }
    }

    /// Waits for data; `None` when the server ended the stream with status OK. Safe to cancel.
    ///
    /// # Errors
    /// [`LoadError::Stream`] when the stream breaks or ends with another status.
    pub async fn data(&mut self) -> Result<Option<Bytes>, LoadError> {
        loop {
            let Some(frame) = self.body.frame().await else {
                return Err(LoadError::Stream("it ended without a status".to_owned()));
            };
            let frame = frame.map_err(|error| LoadError::Stream(error.to_string()))?;
            match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return check_status(&trailers).map(|()| None).map_err(LoadError::Stream);
                    }
                }
            }
        }
    }

    /// Calls `each` for every message completed by `data`, which came from [`Self::data`].
    pub fn messages(&mut self, data: Bytes, each: impl FnMut(&[u8])) {
        self.framing.feed(data, each);
    }
}
