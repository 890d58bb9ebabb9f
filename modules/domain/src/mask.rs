//! Update masks (AIP-134).

use prost_types::FieldMask;

use crate::Refusal;

/// Which fields an update changes.
#[derive(Debug)]
pub struct Mask<'a> {
    paths: &'a [String],
    takes_unknown: bool,
}

impl<'a> Mask<'a> {
    /// Checks a mask against the fields that may change. A path that this
    /// release does not know is fine if the resource brings fields that it
    /// does not know either: a newer client set them.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: a path that cannot be changed.
    pub fn new(
        mask: Option<&'a FieldMask>,
        changeable: &[&str],
        fixed: &[&str],
        has_unknown: bool,
    ) -> Result<Self, Refusal> {
        let paths = mask.map_or(&[][..], |mask| &mask.paths);
        let mut takes_unknown = paths.is_empty();
        for path in paths {
            if changeable.contains(&path.as_str()) {
                continue;
            }
            if fixed.contains(&path.as_str()) || !has_unknown {
                return Err(Refusal::invalid("update_mask", format!("`{path}` cannot be changed"))
                    .hint(format!("change one of: {}", changeable.join(", "))));
            }
            takes_unknown = true;
        }
        Ok(Self { paths, takes_unknown })
    }

    /// Whether the update changes a field.
    pub fn includes(&self, field: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|path| path == field)
    }

    /// Whether fields unknown to this release are taken over.
    pub fn takes_unknown(&self) -> bool {
        self.takes_unknown
    }
}
