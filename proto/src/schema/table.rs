//! What is known of a message type, laid out for one pass over its bytes.

use super::kind::Kind;
use super::rules::Rules;

/// Numbers up to this one are looked up in a list, greater ones searched.
const DENSE_NUMBER_MAX: u32 = 255;

#[derive(Debug)]
pub(super) struct Table {
    pub(super) full_name: String,
    /// In the order of numbers.
    fields: Vec<FieldTable>,
    /// By number: the field's index plus one, or zero.
    dense: Vec<u16>,
    pub(super) oneofs: Vec<OneofTable>,
    /// Fields whose last value is remembered during a check.
    pub(super) slots: usize,
    pub(super) is_map_entry: bool,
    /// Kept in partitions as it travels.
    pub(super) is_stored: bool,
    /// Holds an `update_mask`: the stored message beside it is in parts.
    pub(super) is_update: bool,
}

#[derive(Debug)]
pub(super) struct FieldTable {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Lists and maps.
    pub(super) is_repeated: bool,
    pub(super) is_map: bool,
    /// Absence differs from the zero value.
    pub(super) has_presence: bool,
    pub(super) oneof: Option<usize>,
    pub(super) slot: Option<usize>,
    pub(super) rules: Option<Rules>,
    pub(super) is_secret: bool,
    /// Content is not looked at: what the server sets itself, and what is
    /// exempt by `IGNORE_ALWAYS`.
    pub(super) is_exempt: bool,
}

#[derive(Debug)]
pub(super) struct OneofTable {
    pub(super) name: String,
    pub(super) is_required: bool,
    /// Slots of its members.
    pub(super) slots: Vec<usize>,
    /// Numbers of its members.
    pub(super) numbers: Vec<u32>,
}

impl Table {
    pub(super) fn new(full_name: String, mut fields: Vec<FieldTable>, mut oneofs: Vec<OneofTable>) -> Self {
        fields.sort_by_key(|field| field.number);
        let mut slots = 0;
        for field in &mut fields {
            let is_message = matches!(field.kind, Kind::Message(_));
            let is_needed =
                field.rules.is_some() || field.is_repeated || field.oneof.is_some() || (is_message && !field.is_exempt);
            if is_needed {
                field.slot = Some(slots);
                if let Some(oneof) = field.oneof.and_then(|index| oneofs.get_mut(index)) {
                    oneof.slots.push(slots);
                    oneof.numbers.push(field.number);
                }
                slots += 1;
            }
        }
        let dense_len = fields.iter().map(|f| f.number).filter(|n| *n <= DENSE_NUMBER_MAX).max();
        let mut dense = vec![0; dense_len.map_or(0, |n| n as usize + 1)];
        for (index, field) in (1..).zip(&fields) {
            if let Some(entry) = dense.get_mut(field.number as usize) {
                *entry = index;
            }
        }
        Self { full_name, fields, dense, oneofs, slots, is_map_entry: false, is_stored: false, is_update: false }
    }

    pub(super) fn fields(&self) -> &[FieldTable] {
        &self.fields
    }

    #[inline]
    pub(super) fn field(&self, number: u32) -> Option<&FieldTable> {
        if number <= DENSE_NUMBER_MAX {
            let index = usize::from(*self.dense.get(number as usize)?).checked_sub(1)?;
            self.fields.get(index)
        } else {
            let index = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
            self.fields.get(index)
        }
    }
}
