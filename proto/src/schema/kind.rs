//! Types of fields, and how their values stand on the wire.

use super::reader::Raw;

/// A field's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum,
    /// Index of the message's table.
    Message(usize),
}

/// How a value stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Varint,
    Fixed32,
    Fixed64,
    Delimited,
}

impl Kind {
    #[inline]
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Int32
            | Self::Int64
            | Self::Uint32
            | Self::Uint64
            | Self::Sint32
            | Self::Sint64
            | Self::Bool
            | Self::Enum => Shape::Varint,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => Shape::Fixed32,
            Self::Double | Self::Fixed64 | Self::Sfixed64 => Shape::Fixed64,
            Self::String | Self::Bytes | Self::Message(_) => Shape::Delimited,
        }
    }

    #[inline]
    pub(super) fn fits(self, raw: Raw<'_>) -> bool {
        matches!(
            (self.shape(), raw),
            (Shape::Varint, Raw::Varint(_))
                | (Shape::Fixed32, Raw::Fixed32(_))
                | (Shape::Fixed64, Raw::Fixed64(_))
                | (Shape::Delimited, Raw::Bytes(_))
        )
    }

    /// What an absent field reads as.
    pub(super) fn zero(self) -> Raw<'static> {
        match self.shape() {
            Shape::Varint => Raw::Varint(0),
            Shape::Fixed32 => Raw::Fixed32(0),
            Shape::Fixed64 => Raw::Fixed64(0),
            Shape::Delimited => Raw::Bytes(&[]),
        }
    }

    pub(super) fn is_zero(self, raw: Raw<'_>) -> bool {
        match raw {
            Raw::Varint(value) => match self {
                Self::Int64 | Self::Uint64 | Self::Sint64 | Self::Bool => value == 0,
                _ => low(value) == 0,
            },
            Raw::Fixed32(value) => value == 0,
            Raw::Fixed64(value) => value == 0,
            Raw::Bytes(value) => value.is_empty(),
            Raw::Group => false,
        }
    }

    /// The value of a signed integer or an enum; 0 for what is neither.
    pub(super) fn signed(self, raw: Raw<'_>) -> i64 {
        match (self, raw) {
            (Self::Int32 | Self::Enum, Raw::Varint(value)) => low(value).cast_signed().into(),
            (Self::Int64, Raw::Varint(value)) => value.cast_signed(),
            (Self::Sint32, Raw::Varint(value)) => {
                let value = low(value);
                ((value >> 1).cast_signed() ^ -(value & 1).cast_signed()).into()
            }
            (Self::Sint64, Raw::Varint(value)) => (value >> 1).cast_signed() ^ -(value & 1).cast_signed(),
            (Self::Sfixed32, Raw::Fixed32(value)) => value.cast_signed().into(),
            (Self::Sfixed64, Raw::Fixed64(value)) => value.cast_signed(),
            _ => 0,
        }
    }

    /// The value of an unsigned integer or a bool; 0 for what is neither.
    pub(super) fn unsigned(self, raw: Raw<'_>) -> u64 {
        match (self, raw) {
            (Self::Uint32, Raw::Varint(value)) => low(value).into(),
            (Self::Uint64 | Self::Bool, Raw::Varint(value)) => value,
            (Self::Fixed32, Raw::Fixed32(value)) => value.into(),
            (Self::Fixed64, Raw::Fixed64(value)) => value,
            _ => 0,
        }
    }

    /// The value of a float or a double; 0 for what is neither.
    pub(super) fn float(self, raw: Raw<'_>) -> f64 {
        match (self, raw) {
            (Self::Float, Raw::Fixed32(value)) => f32::from_bits(value).into(),
            (Self::Double, Raw::Fixed64(value)) => f64::from_bits(value),
            _ => 0.0,
        }
    }
}

/// A 32-bit field's value: decoders drop the upper bits, and so must checks.
#[expect(clippy::cast_possible_truncation, reason = "decoders truncate in the same way")]
fn low(value: u64) -> u32 {
    value as u32
}
