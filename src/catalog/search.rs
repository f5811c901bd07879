//! Finding tools by words: which of a list of tools a query means, best first.
//!
//! Decides by the words in a tool's name, parameters, title and description, and by nothing else: no tool's rank depends
//! on a tool that is not in the list, so what is hidden from a caller cannot show in what they find. Never decides whose
//! tools are searched: they are handed in.

use memchr::memmem::Finder;

/// Most words of a query that count.
const MAX_QUERY_WORDS: usize = 16;
/// Most bytes of a title or description that are searched.
const MAX_PROSE: usize = 4_096;
/// How much a word counts where it stands: in the name, a parameter, the title, the description.
const WEIGHTS: [f64; FIELDS] = [4.0, 2.0, 2.0, 1.0];
const FIELDS: usize = 4;
/// Shorter words are not looked for inside others.
const MIN_INNER: usize = 3;

/// The words of one tool, ready to be searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// Lower-case words, a blank before and behind each; the fields one after the other.
    text: Box<str>,
    /// Where each field ends.
    ends: [usize; FIELDS],
}

impl Words {
    /// The words of a tool that is called by these names, takes these parameters and says this of itself.
    pub fn new<'t>(
        names: impl IntoIterator<Item = &'t str>,
        parameters: impl IntoIterator<Item = &'t str>,
        title: &str,
        description: &str,
    ) -> Self {
        let mut text = String::from(" ");
        let mut ends = [0; FIELDS];
        names.into_iter().for_each(|name| push_words(name, &mut text));
        ends[0] = text.len();
        parameters.into_iter().for_each(|parameter| push_words(parameter, &mut text));
        ends[1] = text.len();
        push_words(&title[..title.floor_char_boundary(MAX_PROSE)], &mut text);
        ends[2] = text.len();
        push_words(&description[..description.floor_char_boundary(MAX_PROSE)], &mut text);
        ends[3] = text.len();
        Self { text: text.into(), ends }
    }

    /// How much this tool is about the word: more for a better fit, and for a better place.
    fn fit(&self, word: &Word<'_>) -> f64 {
        let mut best = [0.0_f64; FIELDS];
        for at in word.finder.find_iter(self.text.as_bytes()) {
            let field = self.ends.iter().position(|end| at < *end).unwrap_or(FIELDS - 1);
            best[field] = best[field].max(word.fit_at(&self.text, at));
        }
        best.iter().zip(WEIGHTS).map(|(fit, weight)| fit * weight).sum()
    }
}

/// A word of a query.
struct Word<'q> {
    text: &'q str,
    stem: &'q str,
    finder: Finder<'q>,
}

impl<'q> Word<'q> {
    fn new(text: &'q str) -> Self {
        let stem = stem(text);
        Self { text, stem, finder: Finder::new(stem) }
    }

    /// How well the word at this place of `text`, where the stem was found, is the one looked for.
    fn fit_at(&self, text: &str, at: usize) -> f64 {
        let bytes = text.as_bytes();
        if at.checked_sub(1).is_none_or(|before| bytes[before] != b' ') {
            return if self.stem.len() >= MIN_INNER { 0.3 } else { 0.0 };
        }
        let end = memchr::memchr(b' ', &bytes[at..]).map_or(text.len(), |length| at + length);
        let found = &text[at..end];
        if found == self.text {
            return 1.0;
        }
        if stem(found) == self.stem {
            return 0.9;
        }
        if self.stem.len() >= MIN_INNER { 0.6 } else { 0.0 }
    }
}

/// A tool that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found<T> {
    /// What was found.
    pub item: T,
    /// How well it fits: more is better. Comparable within one answer alone.
    pub score: f64,
}

/// Those of `items` that the query's words speak of, best first, then in the order given: the first `limit`, and
/// how many there are. A query without words finds everything.
pub fn search<'w, T>(
    query: &str,
    items: impl IntoIterator<Item = (T, &'w Words)>,
    limit: usize,
) -> (Vec<Found<T>>, usize) {
    let mut words = String::from(" ");
    push_words(query, &mut words);
    let mut seen: Vec<&str> = Vec::new();
    for word in words.split_whitespace() {
        if seen.len() < MAX_QUERY_WORDS && !seen.contains(&word) {
            seen.push(word);
        }
    }
    let words: Vec<Word<'_>> = seen.into_iter().map(Word::new).collect();
    let mut found = ranked(&words, items);
    let total = found.len();
    found.truncate(limit);
    (found, total)
}

fn ranked<'w, T>(words: &[Word<'_>], items: impl IntoIterator<Item = (T, &'w Words)>) -> Vec<Found<T>> {
    let items = items.into_iter();
    if words.is_empty() {
        return items.map(|(item, _)| Found { item, score: 0.0 }).collect();
    }
    let mut count = 0_usize;
    let mut holders = vec![0_usize; words.len()];
    let mut fitting = Vec::new();
    for (item, text) in items {
        count += 1;
        let fits: Vec<f64> = words.iter().map(|word| text.fit(word)).collect();
        for (holders, fit) in holders.iter_mut().zip(&fits) {
            *holders += usize::from(*fit > 0.0);
        }
        if fits.iter().any(|fit| *fit > 0.0) {
            fitting.push((item, fits));
        }
    }
    // A word that few tools have says more than one that most have.
    let rarity: Vec<f64> =
        holders.iter().map(|holders| (1.0 + count as f64 / (*holders).max(1) as f64).ln()).collect();
    let mut found: Vec<Found<T>> = fitting
        .into_iter()
        .map(|(item, fits)| {
            let sum: f64 = fits.iter().zip(&rarity).map(|(fit, rarity)| fit * rarity).sum();
            let share = fits.iter().filter(|fit| **fit > 0.0).count() as f64 / words.len() as f64;
            // Rounded, so that the order does not hang on the last bit of a sum.
            Found { item, score: (sum * share * 1000.0).round() / 1000.0 }
        })
        .collect();
    found.sort_by(|one, other| other.score.total_cmp(&one.score));
    found
}

/// Adds the words of a text, each followed by a blank: runs of letters and digits, and the parts of `camelCase`.
fn push_words(text: &str, words: &mut String) {
    for run in text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()) {
        push_lower(run, words);
        let mut from = 0;
        let mut was_lower = false;
        for (at, c) in run.char_indices() {
            if was_lower && c.is_uppercase() {
                push_lower(&run[from..at], words);
                from = at;
            }
            was_lower = c.is_lowercase() || c.is_numeric();
        }
        if from > 0 {
            push_lower(&run[from..], words);
        }
    }
}

fn push_lower(word: &str, words: &mut String) {
    words.extend(word.chars().flat_map(char::to_lowercase));
    words.push(' ');
}

/// The part of a word that its singular and plural have in common.
fn stem(word: &str) -> &str {
    let ends = |endings: &[&str]| endings.iter().any(|ending| word.ends_with(ending));
    let cut = match () {
        () if ends(&["ies"]) => 3,
        () if ends(&["sses", "xes", "zes", "ches", "shes"]) => 2,
        () if ends(&["y"]) || ends(&["s"]) && !ends(&["ss"]) => 1,
        () => 0,
    };
    let stem = &word[..word.len() - cut];
    if stem.len() >= MIN_INNER { stem } else { word }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A few tools as servers have them: name, parameters, description.
    const TOOLS: [(&str, &[&str], &str); 7] = [
        ("github create_issue", &["title", "body", "repo"], "Create a new issue in a GitHub repository"),
        ("github search_repositories", &["query", "page"], "Search for GitHub repositories"),
        ("github list_issues", &["repo", "state"], "List issues of a repository"),
        ("time get_current_time", &["timezone"], "Get the current time in a time zone"),
        ("weather getForecast", &["city", "dayCount"], "What the weather will be"),
        ("notes add", &["text"], "Adds a note"),
        ("files read_file", &["path"], "Reads a file; fails with an issue number"),
    ];

    fn words() -> Vec<(&'static str, Words)> {
        let words = |(name, parameters, description): &(&'static str, &[&'static str], &str)| {
            (*name, Words::new([*name], parameters.iter().copied(), "", description))
        };
        TOOLS.iter().map(words).collect()
    }

    /// Checks the names found, best first.
    #[track_caller]
    fn check(query: &str, expected: &[&str]) {
        let words = words();
        let (found, total) = search(query, words.iter().map(|(name, words)| (*name, words)), 100);
        let names: Vec<_> = found.iter().map(|found| found.item).collect();
        assert_eq!((&names[..], total), (expected, expected.len()), "{query}: {found:?}");
    }

    #[test]
    fn a_word_of_the_name_counts_more_than_one_of_the_description() {
        check("issue", &["github create_issue", "github list_issues", "files read_file"]);
        check("create issue", &["github create_issue", "github list_issues", "files read_file"]);
        check("list issues", &["github list_issues", "github create_issue", "files read_file"]);
    }

    #[test]
    fn words_are_found_in_parameters_and_parts_of_camel_case() {
        check("timezone", &["time get_current_time"]);
        check("forecast", &["weather getForecast"]);
        check("GETFORECAST", &["weather getForecast"]);
        check("day", &["weather getForecast"]);
    }

    #[test]
    fn singular_plural_and_beginnings_are_found() {
        check("repository", &["github search_repositories", "github create_issue", "github list_issues"]);
        check("repositories", &["github search_repositories", "github create_issue", "github list_issues"]);
        check("forec", &["weather getForecast"]);
        check("notes", &["notes add"]);
    }

    #[test]
    fn what_no_tool_has_finds_nothing_and_no_words_find_everything() {
        check("quaternion", &[]);
        let everything: Vec<_> = TOOLS.iter().map(|tool| tool.0).collect();
        check("", &everything);
        check(" \t--!", &everything);
    }

    #[test]
    fn short_words_are_not_looked_for_inside_others() {
        check(
            "a",
            &[
                "github create_issue",
                "github list_issues",
                "time get_current_time",
                "notes add",
                "files read_file",
            ],
        );
        let (found, _) = search("ti", words().iter().map(|(name, words)| (*name, words)), 9);
        assert_eq!(found, [], "`ti` is a part of `time` and no word");
    }

    #[test]
    fn a_limit_cuts_the_answer_and_not_the_count() {
        let words = words();
        let (found, total) = search("github", words.iter().map(|(name, words)| (*name, words)), 2);
        assert_eq!((found.len(), total), (2, 3));
    }

    proptest! {
        #[test]
        fn any_text_can_be_searched_for_in_any_other(
            texts in proptest::collection::vec((any::<String>(), ".{0,20}", "[a-zA-Z\u{e9}\u{130}\u{1e9e} s]{0,20}"), 0..5),
            query in any::<String>(),
        ) {
            let words: Vec<_> =
                texts.iter().map(|(name, parameter, text)| Words::new([&**name], [&**parameter], text, text)).collect();
            let (found, total) = search(&query, words.iter().enumerate(), 3);
            prop_assert!(found.len() == total.min(3));
            prop_assert!(found.iter().all(|found| found.score.is_finite() && found.score >= 0.0));
            for ((name, parameter, text), words) in texts.iter().zip(&words) {
                for part in [name, parameter, text].into_iter().flat_map(|text| text.split_whitespace()) {
                    if part.chars().all(char::is_alphanumeric) && part.len() < 1000 {
                        let (found, _) = search(part, [((), words)], 1);
                        prop_assert!(!found.is_empty(), "{:?} is not found", part);
                    }
                }
            }
        }

        #[test]
        fn tools_are_ranked_the_same_whatever_the_limit(query in "(issue|time|get|repo|note|a| ){1,5}", limit in 0_usize..9) {
            let words = words();
            let all = search(&query, words.iter().map(|(name, words)| (*name, words)), 100);
            let some = search(&query, words.iter().map(|(name, words)| (*name, words)), limit);
            prop_assert_eq!(&all.0[..limit.min(all.1)], &some.0[..]);
            prop_assert_eq!(all.1, some.1);
        }
    }
}
