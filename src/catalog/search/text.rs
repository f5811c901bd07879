//! What words a text is made of, for tools and for questions alike.
//!
//! Decides where a word begins and ends and which words are one. Never decides how much a word counts.

use std::{collections::HashSet, sync::LazyLock};

use frostem::{Algorithm, Stemmer};

use super::synonyms::Synonyms;

/// Longer words are cut.
const MAX_WORD: usize = 64;

/// Words of a question that say nothing of what a tool does. Tools have them nevertheless, for questions of nothing else.
const SAY_NOTHING: &str = "a about all also am an and any are as at be been being but by can could did do does for from \
    had has have her him his how i if in into is it its just like may me might much must my need needs no not now of on \
    onto or our out please right shall she should so some somebody someone something somewhere than that the their them \
    then there these they this those to too up us want was we were what whatever when where which who whole whom whose \
    why will with would you your";

/// The stems of a text's words, in order: those of its runs of letters and digits, of the parts of `camelCase`, and
/// what two words together are also called.
pub fn stems(text: &str) -> Vec<String> {
    stems_of(&words(text))
}

/// The stems of what a question asks for: without the words that say nothing, unless it has no others.
pub fn asked(question: &str) -> Vec<String> {
    static SAYING_NOTHING: LazyLock<HashSet<&str>> =
        LazyLock::new(|| SAY_NOTHING.split_whitespace().collect());
    let mut asked = words(question);
    if asked.iter().any(|word| !SAYING_NOTHING.contains(&**word)) {
        asked.retain(|word| !SAYING_NOTHING.contains(&**word));
    }
    stems_of(&asked)
}

fn stems_of(words: &[String]) -> Vec<String> {
    let mut stems: Vec<_> = words.iter().map(|word| stem(word)).collect();
    let pairs: Vec<_> =
        stems.windows(2).filter_map(|pair| Synonyms::get().pair(&pair[0], &pair[1])).collect();
    stems.extend(pairs.into_iter().map(str::to_owned));
    stems
}

/// The words of a text in lower case: each run of letters and digits, and before it its parts, if it has any.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for run in text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()) {
        let run = &run[..run.floor_char_boundary(MAX_WORD)];
        let mut from = 0;
        for end in ends_of_parts(run) {
            words.push(lower(&run[from..end]));
            from = end;
        }
        if from > 0 {
            words.push(lower(&run[from..]));
        }
        words.push(lower(run));
    }
    words
}

/// Where a part of `camelCase` or of `HTTPServer` ends, the last one excepted.
fn ends_of_parts(run: &str) -> impl Iterator<Item = usize> {
    let next = run.chars().skip(1).map(Some).chain([None]);
    let mut before: Option<char> = None;
    run.char_indices().zip(next).filter_map(move |((at, c), next)| {
        let before = before.replace(c)?;
        let ends_lower = !before.is_uppercase() && c.is_uppercase();
        let ends_upper = before.is_uppercase() && c.is_uppercase() && next.is_some_and(char::is_lowercase);
        (ends_lower || ends_upper).then_some(at)
    })
}

fn lower(word: &str) -> String {
    word.chars().flat_map(char::to_lowercase).collect()
}

/// The part of a word, in lower case, that its forms have in common; in English, which tools are described in.
pub fn stem(word: &str) -> String {
    Stemmer::new(Algorithm::English).stem(word).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(stems(text), expected, "{text}");
    }

    #[test]
    fn words_are_runs_and_the_parts_of_them_by_their_stems() {
        check("Lists the repositories", &["list", "the", "repositori"]);
        check("create_issue-comment", &["creat", "issu", "comment"]);
        check("getForecast", &["get", "forecast", "getforecast"]);
        check("HTTPServer2 k8s", &["http", "server2", "httpserver2", "k8s"]);
        check("\u{c9}t\u{e9} \u{130}\u{df}", &["\u{e9}t\u{e9}", "i\u{307}\u{df}"]);
        check(" --!", &[]);
    }

    #[test]
    fn two_words_are_also_what_they_are_called_together() {
        check("a pull request", &["a", "pull", "request", "pr"]);
        check("timeZone", &["time", "zone", "timezon", "timezon"]);
    }

    #[test]
    fn what_says_nothing_is_left_out_of_a_question_that_has_more() {
        assert_eq!(asked("who is on call right now?"), ["call"]);
        assert_eq!(asked("what can you do"), ["what", "can", "you", "do"]);
    }
}
