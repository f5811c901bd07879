//! Finding tools by words: which of a caller's tools a question means, best first.
//!
//! Decides by the words in a tool's name, parameters, title and description, by what else those words are called, and
//! by how many of the caller's own tools have them. No tool's rank depends on a tool that is not handed in, so what is
//! hidden from a caller cannot show in what they find. Never decides whose tools are searched.

mod synonyms;
mod text;
mod words;

use synonyms::Synonyms;
use words::Postings;
pub use words::{Text, Words};

/// Most words of a question that count.
const MAX_QUERY_WORDS: usize = 16;
/// How much a word counts that is called otherwise in the question, or only begins alike or is misspelt there.
const SYNONYM: f32 = 0.5;
const ALIKE: f32 = 0.8;
/// Of a shorter word no more is made, and none is taken for misspelt.
const MIN_BEGINNING: usize = 3;
const MIN_MISSPELT: usize = 5;
/// A word this long may have two letters wrong.
const LONG: usize = 9;
/// How soon more of a word adds little (`k1` of BM25).
const SATURATION: f32 = 1.2;

/// Tools of one server, to be searched.
#[derive(Debug)]
pub struct Part<'w> {
    /// The words of all its tools.
    pub words: &'w Words,
    /// Which of them count, by their place in its list; all of them where this is none.
    pub only: Option<Vec<bool>>,
}

impl Part<'_> {
    fn has(&self, place: usize) -> bool {
        self.only.as_ref().is_none_or(|only| only.get(place).is_some_and(|is| *is))
    }
}

/// A tool that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Of which part it is.
    pub part: usize,
    /// Its place in its server's list.
    pub place: usize,
    /// How well it fits: more is better. Comparable within one answer alone.
    pub score: f64,
}

/// The tools of these parts that the question's words speak of, best first, then in the order given: the first
/// `limit`, and how many there are. A question without words finds everything.
pub fn search(question: &str, parts: &[Part<'_>], limit: usize) -> (Vec<Found>, usize) {
    let mut asked: Vec<String> = Vec::new();
    for stem in text::asked(question) {
        if asked.len() < MAX_QUERY_WORDS && !asked.contains(&stem) {
            asked.push(stem);
        }
    }
    let mut tools = Tools::new(parts);
    if asked.is_empty() {
        let all = parts.iter().enumerate().flat_map(|(part, tools)| {
            let places = (0..tools.words.count()).filter(|place| tools.has(*place));
            places.map(move |place| Found { part, place, score: 0.0 })
        });
        return (all.take(limit).collect(), tools.count);
    }
    for stem in &asked {
        tools.look_for(stem);
    }
    tools.best(limit)
}

/// The tools that are searched, numbered through, and how well they fit so far.
struct Tools<'p> {
    parts: &'p [Part<'p>],
    /// The number of each part's first tool.
    firsts: Vec<usize>,
    count: usize,
    scores: Vec<f32>,
    /// How much of the present word each has.
    fits: Vec<f32>,
    /// Those that have any of it.
    fitting: Vec<usize>,
    postings: Postings,
}

impl<'p> Tools<'p> {
    fn new(parts: &'p [Part<'p>]) -> Self {
        let mut firsts = Vec::with_capacity(parts.len());
        let mut all = 0;
        for part in parts {
            firsts.push(all);
            all += part.words.count();
        }
        let counts = parts.iter().map(|part| match &part.only {
            None => part.words.count(),
            Some(only) => only.iter().take(part.words.count()).filter(|is| **is).count(),
        });
        Self {
            parts,
            firsts,
            count: counts.sum(),
            scores: vec![0.0; all],
            fits: vec![0.0; all],
            fitting: Vec::new(),
            postings: Postings::new(),
        }
    }

    /// Adds what the tools have of a word, or of what it may stand for.
    fn look_for(&mut self, stem: &str) {
        self.take(stem, 1.0);
        for synonym in Synonyms::get().of(stem) {
            self.take(synonym, SYNONYM);
        }
        // A word that no tool has may be the beginning of one, or misspelt.
        if self.fitting.is_empty() && stem.len() >= MIN_BEGINNING {
            self.take_alike(stem, |_| true);
        }
        if self.fitting.is_empty() && stem.len() >= MIN_MISSPELT {
            let first = stem.chars().next().map_or(0, char::len_utf8);
            let wrong = if stem.len() >= LONG { 2 } else { 1 };
            self.take_alike(&stem[..first], |word| {
                word.len().abs_diff(stem.len()) <= wrong && strsim::osa_distance(word, stem) <= wrong
            });
        }
        self.score();
    }

    fn take_alike(&mut self, beginning: &str, is_alike: impl Fn(&str) -> bool) {
        let mut alike: Vec<String> = Vec::new();
        for part in self.parts {
            part.words.beginning(beginning, |word| {
                if is_alike(word) && !alike.iter().any(|known| known == word) {
                    alike.push(word.to_owned());
                }
            });
        }
        for word in alike {
            self.take(&word, ALIKE);
        }
    }

    fn take(&mut self, stem: &str, weight: f32) {
        let Self { parts, firsts, fits, fitting, postings, .. } = self;
        for (part, first) in parts.iter().zip(&*firsts) {
            part.words.holders(stem, postings, |place, times| {
                if part.has(place) {
                    let fit = &mut fits[first + place];
                    if *fit == 0.0 {
                        fitting.push(first + place);
                    }
                    *fit = fit.max(times * weight);
                }
            });
        }
    }

    /// Counts the present word: BM25 with the word and what it stands for as one, over the tools that are searched.
    fn score(&mut self) {
        let (count, holders) = (self.count as f32, self.fitting.len() as f32);
        // A word that few tools have says more than one that most have.
        let rarity = (1.0 + count / holders.max(1.0)).ln();
        for tool in self.fitting.drain(..) {
            let fit = std::mem::take(&mut self.fits[tool]);
            self.scores[tool] += rarity * fit * (SATURATION + 1.0) / (fit + SATURATION);
        }
    }

    fn best(self, limit: usize) -> (Vec<Found>, usize) {
        // Rounded, so that the order does not hang on the last bit of a sum.
        let scored = self.scores.iter().enumerate().filter(|(_, score)| **score > 0.0);
        let mut scored: Vec<_> =
            scored.map(|(tool, score)| (tool, (score * 1000.0).round() as u64)).collect();
        let total = scored.len();
        let order = |one: &(usize, u64), other: &(usize, u64)| other.1.cmp(&one.1).then(one.0.cmp(&other.0));
        if limit < total {
            scored.select_nth_unstable_by(limit, order);
            scored.truncate(limit);
        }
        scored.sort_unstable_by(order);
        let found = scored.into_iter().map(|(tool, score)| {
            let part = self.firsts.partition_point(|first| *first <= tool) - 1;
            Found { part, place: tool - self.firsts[part], score: score as f64 / 1000.0 }
        });
        (found.collect(), total)
    }
}

#[cfg(test)]
mod tests;
