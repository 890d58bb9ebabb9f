//! Search by words, in memory: stored keys hold no text.

/// The words that somebody looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(Vec<String>);

impl Words {
    /// Words that are looked for at once; what comes after them is ignored.
    pub const MAX: usize = 16;

    /// Reads a query: words are letters and digits, whatever parts them.
    pub fn new(query: &str) -> Self {
        Self(words(query).take(Self::MAX).collect())
    }

    /// Whether each word is how some word of the texts begins, in whichever
    /// case. No words are found everywhere.
    pub fn are_in(&self, texts: &[&str]) -> bool {
        let found: Vec<String> = texts.iter().flat_map(|text| words(text)).collect();
        self.0.iter().all(|wanted| found.iter().any(|word| word.starts_with(wanted)))
    }
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_by_how_they_begin() {
        let check = |query: &str, expected: bool| {
            let found = Words::new(query).are_in(&["The Web-Shop of ACME", "shop-2", "Größe & Gewicht"]);
            assert_eq!(found, expected, "{query:?}");
        };
        check("", true);
        check("  ", true);
        check("web", true);
        check("WE sho", true);
        check("shop 2", true);
        check("shop-2", true);
        check("GRÖ", true);
        check("op", false);
        check("web nothing", false);
        check("acme's", true);
        check("acme'x", false);
        check(&"web ".repeat(Words::MAX), true);
    }
}
