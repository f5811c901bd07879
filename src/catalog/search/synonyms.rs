//! What words mean the same for tools: the table in `synonyms.txt`.

use std::{collections::HashMap, sync::LazyLock};

use super::text::stem;

/// The table, by stems.
pub struct Synonyms {
    words: HashMap<String, Vec<String>>,
    pairs: HashMap<(String, String), String>,
}

impl Synonyms {
    /// The one table there is.
    pub fn get() -> &'static Self {
        static TABLE: LazyLock<Synonyms> = LazyLock::new(|| Synonyms::read(include_str!("synonyms.txt")));
        &TABLE
    }

    /// What else somebody may mean who says this word.
    pub fn of(&self, stem: &str) -> &[String] {
        self.words.get(stem).map_or(&[], Vec::as_slice)
    }

    /// What these two words, one after the other, are also called.
    pub fn pair(&self, first: &str, second: &str) -> Option<&str> {
        // The table is small and asked for every two words of every tool: no text is copied for it.
        let mut pairs = self.pairs.iter();
        pairs.find(|((one, two), _)| one == first && two == second).map(|(_, name)| &**name)
    }

    /// A line is `a b c` (each may mean the others), `a b > c d` (who says one on the left may mean those on the
    /// right) or `a b = c` (these two words are also called that). `#` begins a remark.
    fn read(table: &str) -> Self {
        let stems = |words: &str| words.split_whitespace().map(stem).collect::<Vec<_>>();
        let mut read = Self { words: HashMap::new(), pairs: HashMap::new() };
        for line in table.lines().filter_map(|line| line.split('#').next()) {
            if let Some((two, name)) = line.split_once('=') {
                if let (Ok([first, second]), Some(name)) = (<[_; 2]>::try_from(stems(two)), stems(name).pop())
                {
                    read.pairs.insert((first, second), name);
                }
            } else if let Some((said, meant)) = line.split_once('>') {
                read.add(&stems(said), &stems(meant));
            } else {
                let group = stems(line);
                read.add(&group, &group);
            }
        }
        read
    }

    fn add(&mut self, said: &[String], meant: &[String]) {
        for said in said {
            let words = self.words.entry(said.clone()).or_default();
            let new: Vec<_> =
                meant.iter().filter(|word| *word != said && !words.contains(word)).cloned().collect();
            words.extend(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_both_ways_arrows_one_way_and_pairs_have_a_name() {
        let table = Synonyms::read("# remark\nticket issues # bug\nclone > fork\nbig bang = universes\n");
        assert_eq!(
            (table.of("ticket"), table.of("issu")),
            (&["issu".to_owned()][..], &["ticket".to_owned()][..])
        );
        assert_eq!((table.of("clone"), table.of("fork")), (&["fork".to_owned()][..], &[][..]));
        assert_eq!((table.pair("big", "bang"), table.pair("bang", "big")), (Some("univers"), None));
    }

    #[test]
    fn every_line_of_the_table_can_be_read() {
        for line in include_str!("synonyms.txt").lines() {
            let line = line.split('#').next().unwrap_or_default();
            let count = |words: &str| words.split_whitespace().count();
            let is_good = match (line.split_once('='), line.split_once('>')) {
                (Some((two, name)), None) => (count(two), count(name)) == (2, 1),
                (None, Some((said, meant))) => count(said) > 0 && count(meant) > 0,
                (None, None) => count(line) != 1,
                (Some(_), Some(_)) => false,
            };
            let is_lower =
                line.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || " >=".contains(c));
            assert!(
                is_good && is_lower,
                "`synonyms.txt`: `{line}` is no group, arrow or pair of lower-case words"
            );
        }
    }
}
