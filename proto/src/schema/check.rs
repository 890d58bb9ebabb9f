//! Checks the bytes of a message in one pass.

use std::ops::ControlFlow;

use super::kind::{Kind, Shape};
use super::place::{Place, ROOT, Step};
use super::reader::{DEPTH_MAX, Malformed, Raw, Reader};
use super::rules::{Rules, RulesOf};
use super::table::{FieldTable, Table};
use super::violation::{VIOLATIONS_MAX, Violation, push};

/// How closely to look at a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Full,
    /// Part of an update: what is absent is meant to stay as it is.
    Partial,
    /// Whether it can be decoded, and no rule.
    Structure,
}

/// What was seen of a field so far.
#[derive(Debug, Clone, Copy)]
struct Slot<'a> {
    last: Option<Raw<'a>>,
    count: usize,
    /// Offset, in its message, of the first occurrence that counts.
    first: usize,
    /// Offset, in the outermost message, of the last value.
    last_at: usize,
}

impl Slot<'_> {
    const EMPTY: Self = Self { last: None, count: 0, first: 0, last_at: 0 };
}

/// Kept on the stack; messages with more take one allocation.
const SLOTS_INLINE: usize = 8;

/// A message being looked at.
struct Part<'t, 'a> {
    table: &'t Table,
    bytes: &'a [u8],
    /// Offset in the outermost message.
    at: usize,
    depth: u32,
    mode: Mode,
    place: &'a Place<'a>,
}

impl Part<'_, '_> {
    fn place_of<'p>(&'p self, name: &'p str) -> Place<'p> {
        let is_inside = self.table.is_map_entry;
        self.place.child(if is_inside { Step::Inside } else { Step::Field(name) })
    }
}

struct Checker<'t> {
    tables: &'t [Table],
    violations: Vec<Violation>,
}

pub(super) fn check(tables: &[Table], table: &Table, bytes: &[u8]) -> Result<(), Vec<Violation>> {
    let mut checker = Checker { tables, violations: Vec::new() };
    let whole = Part { table, bytes, at: 0, depth: DEPTH_MAX, mode: Mode::Full, place: &ROOT };
    let _ = checker.message(&whole);
    if checker.violations.is_empty() { Ok(()) } else { Err(checker.violations) }
}

impl<'t> Checker<'t> {
    fn message(&mut self, part: &Part<'t, '_>) -> ControlFlow<()> {
        let needed = if part.mode == Mode::Structure { 0 } else { part.table.slots };
        let mut inline = [Slot::EMPTY; SLOTS_INLINE];
        let mut allocated = Vec::new();
        let slots = match inline.get_mut(..needed) {
            Some(slots) => slots,
            None => {
                allocated.resize(needed, Slot::EMPTY);
                allocated.as_mut_slice()
            }
        };
        let mut reader = Reader::new(part.bytes);
        loop {
            let start = reader.offset();
            let field = match reader.field(part.depth) {
                Ok(Some(field)) => field,
                Ok(None) => break,
                Err(malformed) => return self.malformed(malformed, part.at, part.place),
            };
            let Some(known) = part.table.field(field.number) else {
                continue;
            };
            let at = part.at
                + match field.raw {
                    Raw::Bytes(payload) => reader.offset() - payload.len(),
                    _ => start,
                };
            let slot = known.slot.filter(|slot| *slot < slots.len());
            if known.is_repeated {
                let slot = slot.and_then(|slot| slots.get_mut(slot));
                self.repeated(part, known, field.raw, at, slot)?;
            } else if let Some(index) = slot {
                self.fits(part, known, field.raw, start, at)?;
                self.remember(part, known, index, Seen { raw: field.raw, start, at }, slots)?;
            } else {
                self.fits(part, known, field.raw, start, at)?;
                self.structure(part, known, field.raw, at)?;
            }
        }
        if part.mode == Mode::Structure { ControlFlow::Continue(()) } else { self.rules(part, slots) }
    }

    /// The wire type, and UTF-8. `start` is the key's offset in the message.
    #[inline]
    fn fits(
        &mut self,
        part: &Part<'t, '_>,
        known: &FieldTable,
        raw: Raw<'_>,
        start: usize,
        at: usize,
    ) -> ControlFlow<()> {
        if !known.kind.fits(raw) {
            let malformed = Malformed { at: start, why: "a field has the wire type of another type" };
            return self.malformed(malformed, part.at, &part.place_of(&known.name));
        }
        self.utf8(part, known, raw, at)
    }

    #[inline]
    fn utf8(&mut self, part: &Part<'t, '_>, known: &FieldTable, raw: Raw<'_>, at: usize) -> ControlFlow<()> {
        if let (Kind::String, Raw::Bytes(bytes)) = (known.kind, raw)
            && let Err(error) = str::from_utf8(bytes)
        {
            let malformed = Malformed { at: error.valid_up_to(), why: "a string is not UTF-8" };
            return self.malformed(malformed, at, &part.place_of(&known.name));
        }
        ControlFlow::Continue(())
    }

    /// Looks at a singular message's bytes whose rules do not count.
    fn structure(&mut self, part: &Part<'t, '_>, known: &FieldTable, raw: Raw<'_>, at: usize) -> ControlFlow<()> {
        let place = part.place_of(&known.name);
        self.nested(part, known, raw, at, Mode::Structure, &place)
    }

    fn nested(
        &mut self,
        part: &Part<'t, '_>,
        known: &FieldTable,
        raw: Raw<'_>,
        at: usize,
        mode: Mode,
        place: &Place<'_>,
    ) -> ControlFlow<()> {
        let (Kind::Message(table), Raw::Bytes(bytes)) = (known.kind, raw) else {
            return ControlFlow::Continue(());
        };
        let Some(depth) = part.depth.checked_sub(1) else {
            let malformed = Malformed { at, why: "messages nest too deeply" };
            return self.malformed(malformed, 0, place);
        };
        let table = self.tables.get(table).expect("tables name each other by index");
        self.message(&Part { table, bytes, at, depth, mode, place })
    }

    /// Keeps the last value. What it replaces is not looked at again, but
    /// must be well-formed all the same.
    fn remember<'a>(
        &mut self,
        part: &Part<'t, '_>,
        known: &FieldTable,
        index: usize,
        seen: Seen<'a>,
        slots: &mut [Slot<'a>],
    ) -> ControlFlow<()> {
        if let Some(oneof) = known.oneof.and_then(|oneof| part.table.oneofs.get(oneof)) {
            for rival in oneof.slots.iter().filter(|rival| **rival != index) {
                let Some(slot) = slots.get_mut(*rival) else {
                    continue;
                };
                let Slot { last: Some(raw), last_at, .. } = std::mem::replace(slot, Slot::EMPTY) else {
                    continue;
                };
                let mut fields = part.table.fields().iter();
                if let Some(known) = fields.find(|field| field.slot == Some(*rival)) {
                    self.structure(part, known, raw, last_at)?;
                }
            }
        }
        let Some(slot) = slots.get_mut(index) else {
            return ControlFlow::Continue(());
        };
        let before = *slot;
        slot.last = Some(seen.raw);
        slot.last_at = seen.at;
        slot.count += 1;
        match before.last {
            None => slot.first = seen.start,
            Some(raw) => self.structure(part, known, raw, before.last_at)?,
        }
        ControlFlow::Continue(())
    }

    /// One occurrence of a list or map: an element, or several packed.
    fn repeated(
        &mut self,
        part: &Part<'t, '_>,
        known: &FieldTable,
        raw: Raw<'_>,
        at: usize,
        mut slot: Option<&mut Slot<'_>>,
    ) -> ControlFlow<()> {
        let mut next = || {
            slot.as_mut().map(|slot| {
                slot.count += 1;
                slot.count - 1
            })
        };
        let shape = known.kind.shape();
        let Raw::Bytes(packed) = raw else {
            // Nothing but bytes starts elsewhere than its value is said to.
            self.fits(part, known, raw, at - part.at, at)?;
            return self.element(part, known, raw, at, next());
        };
        if shape == Shape::Delimited {
            return self.element(part, known, raw, at, next());
        }
        let mut reader = Reader::new(packed);
        while !reader.is_empty() {
            let element_at = at + reader.offset();
            let read = match shape {
                Shape::Varint => reader.varint().map(Raw::Varint),
                Shape::Fixed32 => reader.fixed32().map(Raw::Fixed32),
                Shape::Fixed64 | Shape::Delimited => reader.fixed64().map(Raw::Fixed64),
            };
            match read {
                Ok(raw) => self.element(part, known, raw, element_at, next())?,
                Err(malformed) => {
                    return self.malformed(malformed, at, &part.place_of(&known.name));
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn element(
        &mut self,
        part: &Part<'t, '_>,
        known: &FieldTable,
        raw: Raw<'_>,
        at: usize,
        index: Option<usize>,
    ) -> ControlFlow<()> {
        let step = match (known.is_map, raw, known.kind) {
            (true, Raw::Bytes(entry), Kind::Message(table)) => {
                let key = self.tables.get(table).and_then(|table| table.field(1));
                Step::Entry(&known.name, entry, key.map_or(Kind::String, |key| key.kind))
            }
            _ => Step::Item(&known.name, index),
        };
        let place = part.place.child(step);
        if let (Kind::String, Raw::Bytes(bytes)) = (known.kind, raw)
            && let Err(error) = str::from_utf8(bytes)
        {
            let malformed = Malformed { at: error.valid_up_to(), why: "a string is not UTF-8" };
            return self.malformed(malformed, at, &place);
        }
        if part.mode != Mode::Structure
            && let Some(Rules { of: RulesOf::List { items: Some(rules), .. }, .. }) = &known.rules
        {
            self.value(known, rules, raw, &place)?;
        }
        // An element is sent as a whole, in an update too.
        let is_exempt = part.mode == Mode::Structure || known.is_exempt;
        let mode = if is_exempt { Mode::Structure } else { Mode::Full };
        self.nested(part, known, raw, at, mode, &place)
    }

    /// The rules, once all of the message's fields are seen.
    fn rules(&mut self, part: &Part<'t, '_>, slots: &[Slot<'_>]) -> ControlFlow<()> {
        for known in part.table.fields() {
            let Some(slot) = known.slot.and_then(|slot| slots.get(slot)) else {
                continue;
            };
            match slot.last {
                _ if known.is_repeated => self.counts(part, known, slot)?,
                Some(raw) => self.present(part, known, raw, slot)?,
                None => self.absent(part, known)?,
            }
        }
        if part.mode == Mode::Partial {
            return ControlFlow::Continue(());
        }
        for oneof in part.table.oneofs.iter().filter(|oneof| oneof.is_required) {
            let is_set = |slot: &usize| slots.get(*slot).is_some_and(|slot| slot.last.is_some());
            if !oneof.slots.iter().any(is_set) {
                let place = part.place_of(&oneof.name);
                self.report(&place, "required", "must have one of its fields set".into())?;
            }
        }
        ControlFlow::Continue(())
    }

    fn counts(&mut self, part: &Part<'t, '_>, known: &FieldTable, slot: &Slot<'_>) -> ControlFlow<()> {
        let Some(rules) = &known.rules else {
            return ControlFlow::Continue(());
        };
        if slot.count == 0 && (part.mode == Mode::Partial || rules.ignores_zero) {
            return ControlFlow::Continue(());
        }
        let place = part.place_of(&known.name);
        if slot.count == 0 && rules.is_required {
            return self.report(&place, "required", "must not be empty".into());
        }
        let count = if rules.counts_pairs() { self.distinct_keys(part, known) } else { slot.count };
        let violations = &mut self.violations;
        rules.count(count, &mut |rule, message| {
            push(violations, &place, rule, message);
        });
        self.go_on()
    }

    /// A map's entry replaces an earlier one with the same key.
    fn distinct_keys(&self, part: &Part<'t, '_>, known: &FieldTable) -> usize {
        let Kind::Message(table) = known.kind else {
            return 0;
        };
        let key = self.tables.get(table).and_then(|table| table.field(1));
        let Some(key) = key else { return 0 };
        let mut keys = super::entry::keys(part.bytes, known.number, key.kind);
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }

    fn absent(&mut self, part: &Part<'t, '_>, known: &FieldTable) -> ControlFlow<()> {
        if part.mode == Mode::Partial {
            return ControlFlow::Continue(());
        }
        let place = part.place_of(&known.name);
        if part.table.is_map_entry && matches!(known.kind, Kind::Message(_)) {
            return self.nested(part, known, Raw::Bytes(&[]), part.at, Mode::Full, &place);
        }
        match &known.rules {
            Some(rules) if !known.has_presence => self.value(known, rules, known.kind.zero(), &place),
            Some(rules) if rules.is_required => self.report(&place, "required", "must be set".into()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn present(&mut self, part: &Part<'t, '_>, known: &FieldTable, raw: Raw<'_>, slot: &Slot<'_>) -> ControlFlow<()> {
        let place = part.place_of(&known.name);
        if let Some(rules) = &known.rules {
            self.value(known, rules, raw, &place)?;
        }
        let Kind::Message(table) = known.kind else {
            return ControlFlow::Continue(());
        };
        let is_stored = self.tables.get(table).is_some_and(|table| table.is_stored);
        let mode = match part.mode {
            _ if known.is_exempt => Mode::Structure,
            Mode::Full if part.table.is_update && is_stored => Mode::Partial,
            mode => mode,
        };
        if slot.count == 1 {
            return self.nested(part, known, raw, slot.last_at, mode, &place);
        }
        // Several occurrences of one message are one: its parts in a row.
        self.nested(part, known, raw, slot.last_at, Mode::Structure, &place)?;
        let live = part.bytes.get(slot.first..).unwrap_or_default();
        let merged = super::entry::concatenated(live, known.number);
        self.nested(part, known, Raw::Bytes(&merged), slot.last_at, mode, &place)
    }

    fn value(&mut self, known: &FieldTable, rules: &Rules, raw: Raw<'_>, place: &Place<'_>) -> ControlFlow<()> {
        if !known.has_presence && known.kind.is_zero(raw) {
            if rules.is_required {
                return self.report(place, "required", "must be set".into());
            }
            if rules.ignores_zero {
                return ControlFlow::Continue(());
            }
        }
        let violations = &mut self.violations;
        rules.value(known.kind, raw, known.is_secret, &mut |rule, message| {
            push(violations, place, rule, message);
        });
        self.go_on()
    }

    fn go_on(&self) -> ControlFlow<()> {
        if self.violations.len() < VIOLATIONS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn report(&mut self, place: &Place<'_>, rule: &'static str, message: String) -> ControlFlow<()> {
        push(&mut self.violations, place, rule, message);
        self.go_on()
    }

    /// Ends the check: what follows cannot be trusted.
    #[cold]
    fn malformed(&mut self, malformed: Malformed, base: usize, place: &Place<'_>) -> ControlFlow<()> {
        let at = base + malformed.at;
        let message = format!("cannot be decoded: {} at byte {at}", malformed.why);
        push(&mut self.violations, place, "wire", message);
        ControlFlow::Break(())
    }
}

/// One occurrence of a singular field.
struct Seen<'a> {
    raw: Raw<'a>,
    /// Offset in its message.
    start: usize,
    /// Offset of the value in the outermost message.
    at: usize,
}
