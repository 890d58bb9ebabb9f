//! Rules of numbers, which are the same for all twelve types of them.

use std::fmt::{Debug, Display};

use super::rules::Report;

#[derive(Debug)]
pub(super) struct Number<T> {
    pub(super) constant: Option<T>,
    pub(super) lower: Option<Bound<T>>,
    pub(super) upper: Option<Bound<T>>,
    pub(super) one_of: Vec<T>,
    pub(super) none_of: Vec<T>,
    pub(super) is_finite: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<T> {
    pub(super) value: T,
    pub(super) is_inclusive: bool,
}

impl<T> Default for Number<T> {
    fn default() -> Self {
        Self { constant: None, lower: None, upper: None, one_of: Vec::new(), none_of: Vec::new(), is_finite: false }
    }
}

/// Ids of the rules of one type.
#[derive(Debug)]
pub(super) struct NumberIds {
    constant: &'static str,
    one_of: &'static str,
    none_of: &'static str,
    finite: &'static str,
    lt: &'static str,
    lte: &'static str,
    gt: &'static str,
    gte: &'static str,
    gt_lt: [&'static str; 2],
    gt_lte: [&'static str; 2],
    gte_lt: [&'static str; 2],
    gte_lte: [&'static str; 2],
}

macro_rules! number_ids {
    ($($constant:ident = $kind:literal),+ $(,)?) => {
        $(pub(super) static $constant: NumberIds = NumberIds {
            constant: concat!($kind, ".const"),
            one_of: concat!($kind, ".in"),
            none_of: concat!($kind, ".not_in"),
            finite: concat!($kind, ".finite"),
            lt: concat!($kind, ".lt"),
            lte: concat!($kind, ".lte"),
            gt: concat!($kind, ".gt"),
            gte: concat!($kind, ".gte"),
            gt_lt: [concat!($kind, ".gt_lt"), concat!($kind, ".gt_lt_exclusive")],
            gt_lte: [concat!($kind, ".gt_lte"), concat!($kind, ".gt_lte_exclusive")],
            gte_lt: [concat!($kind, ".gte_lt"), concat!($kind, ".gte_lt_exclusive")],
            gte_lte: [concat!($kind, ".gte_lte"), concat!($kind, ".gte_lte_exclusive")],
        };)+
    };
}

number_ids! {
    DOUBLE = "double", FLOAT = "float", INT32 = "int32", INT64 = "int64",
    UINT32 = "uint32", UINT64 = "uint64", SINT32 = "sint32", SINT64 = "sint64",
    FIXED32 = "fixed32", FIXED64 = "fixed64", SFIXED32 = "sfixed32", SFIXED64 = "sfixed64",
}

/// A number as rules are given in, wide enough for every type of its sort.
pub(super) trait Numeric: Copy + PartialOrd + Display + Debug {
    fn is_finite(self) -> bool {
        true
    }
}

impl Numeric for i64 {}

impl Numeric for u64 {}

impl Numeric for f64 {
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

impl<T: Numeric> Bound<T> {
    fn least(self) -> String {
        format!("{} {}", if self.is_inclusive { "at least" } else { "more than" }, self.value)
    }

    fn most(self) -> String {
        format!("{} {}", if self.is_inclusive { "at most" } else { "less than" }, self.value)
    }
}

impl<T: Numeric> Number<T> {
    pub(super) fn check(&self, value: T, ids: &NumberIds, is_secret: bool, report: Report<'_>) {
        let mut say = |id, must: String| {
            let is = if is_secret { String::new() } else { format!(", is {value}") };
            report(id, format!("must {must}{is}"));
        };
        if let Some(constant) = self.constant.filter(|constant| value != *constant) {
            say(ids.constant, format!("be {constant}"));
        }
        if let Some((id, must)) = self.out_of_bounds(value, ids) {
            say(id, format!("be {must}"));
        }
        if !self.one_of.is_empty() && !self.one_of.contains(&value) {
            say(ids.one_of, format!("be one of {:?}", self.one_of));
        }
        if self.none_of.contains(&value) {
            say(ids.none_of, format!("not be one of {:?}", self.none_of));
        }
        if self.is_finite && !value.is_finite() {
            say(ids.finite, "be finite".into());
        }
    }

    /// With an upper bound below the lower one, what lies between the two is
    /// refused. A NaN is out of any bounds.
    fn out_of_bounds(&self, value: T, ids: &NumberIds) -> Option<(&'static str, String)> {
        let is_above = |bound: Bound<T>| value > bound.value || (bound.is_inclusive && value == bound.value);
        let is_below = |bound: Bound<T>| value < bound.value || (bound.is_inclusive && value == bound.value);
        match (self.lower, self.upper) {
            (None, None) => None,
            (Some(lower), None) => {
                (!is_above(lower)).then(|| (if lower.is_inclusive { ids.gte } else { ids.gt }, lower.least()))
            }
            (None, Some(upper)) => {
                (!is_below(upper)).then(|| (if upper.is_inclusive { ids.lte } else { ids.lt }, upper.most()))
            }
            (Some(lower), Some(upper)) => {
                let [between, outside] = match (lower.is_inclusive, upper.is_inclusive) {
                    (false, false) => ids.gt_lt,
                    (false, true) => ids.gt_lte,
                    (true, false) => ids.gte_lt,
                    (true, true) => ids.gte_lte,
                };
                let (fits, id, and) = if upper.value < lower.value {
                    (is_above(lower) || is_below(upper), outside, "or")
                } else {
                    (is_above(lower) && is_below(upper), between, "and")
                };
                (!fits).then(|| (id, format!("{} {and} {}", lower.least(), upper.most())))
            }
        }
    }
}
