//! The words of one server's tools, ready to be searched: an inverted index in memory.
//!
//! Decides how much a word counts by where it stands. Each server has an index of its own, made when its tools are
//! read, so that a search opens those of the caller's servers and no other.

use std::{collections::HashMap, fmt, sync::Arc};

use super::text;

/// Most bytes of a title or description that are searched.
const MAX_PROSE: usize = 4_096;
/// Most bytes that count as a description's first sentence.
const MAX_FIRST: usize = 160;

/// What is searched of a tool.
#[derive(Debug, Clone, Copy)]
pub struct Text<'t> {
    /// Its name at its server.
    pub name: &'t str,
    /// What its arguments are called.
    pub parameters: &'t [String],
    /// Its short title.
    pub title: &'t str,
    /// What it does.
    pub description: &'t str,
}

/// The words of one server's tools.
#[derive(Clone, Default)]
pub struct Words(Arc<Index>);

#[derive(Default)]
struct Index {
    count: usize,
    holders: HashMap<Box<str>, Box<[Holder]>>,
    /// The words in order.
    sorted: Box<[Box<str>]>,
}

/// A tool that has a word.
#[derive(Clone, Copy)]
struct Holder {
    /// Its place in the list.
    place: u16,
    /// How much it has of the word, in steps of one `SCALE`th.
    times: u16,
}

impl Words {
    /// The words of these tools of this server, in the order of its list.
    pub fn new<'t>(server: &str, tools: impl IntoIterator<Item = Text<'t>>) -> Self {
        let server = text::stems(server);
        let mut found: HashMap<String, Vec<Holder>> = HashMap::new();
        let mut count = 0;
        // A list has at most `catalog::tools::MAX_TOOLS`, which is less.
        for (place, tool) in (0..=u16::MAX).zip(tools) {
            weigh(&server, &tool, |stem, times| {
                let holders = found.entry(stem.to_owned()).or_default();
                match holders.last_mut() {
                    Some(last) if last.place == place => last.times = last.times.saturating_add(times),
                    Some(_) | None => holders.push(Holder { place, times }),
                }
            });
            count += 1;
        }
        let mut sorted: Vec<Box<str>> = found.keys().map(|word| word.as_str().into()).collect();
        sorted.sort_unstable();
        let holders = found.into_iter().map(|(word, holders)| (word.into(), holders.into())).collect();
        Self(Arc::new(Index { count, holders, sorted: sorted.into() }))
    }

    /// How many tools there are.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// The tools that have this word, by their place, and how much they have of it.
    pub fn holders(&self, word: &str) -> impl Iterator<Item = (usize, f32)> {
        let holders = self.0.holders.get(word).into_iter().flatten();
        holders.map(|holder| (usize::from(holder.place), f32::from(holder.times) / SCALE))
    }

    /// The words that begin like this.
    pub fn beginning(&self, beginning: &str) -> impl Iterator<Item = &str> {
        let from = self.0.sorted.partition_point(|word| **word < *beginning);
        self.0.sorted[from..].iter().map(|word| &**word).take_while(move |word| word.starts_with(beginning))
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Words").field("count", &self.0.count).finish_non_exhaustive()
    }
}

/// Where words stand.
struct Field {
    /// How much a word counts there.
    weight: f32,
    /// How many words are usual there: fewer make each count more.
    usual: f32,
    /// How much their number matters, from 0 to 1.
    by_length: f32,
}

const SERVER: Field = Field { weight: 8.0, usual: 1.0, by_length: 0.0 };
const NAME: Field = Field { weight: 6.0, usual: 4.0, by_length: 0.8 };
const TITLE: Field = Field { weight: 1.0, usual: 3.0, by_length: 0.8 };
const PARAMETERS: Field = Field { weight: 1.0, usual: 5.0, by_length: 0.5 };
const FIRST_SENTENCE: Field = Field { weight: 2.0, usual: 12.0, by_length: 0.5 };
const DESCRIPTION: Field = Field { weight: 1.0, usual: 12.0, by_length: 0.5 };
/// Weights are kept as whole numbers of this part of 1.
const SCALE: f32 = 4.0;

/// Hands over each word of a tool with what it weighs. Nothing but the tool itself has a say in it.
fn weigh(server: &[String], tool: &Text<'_>, mut word: impl FnMut(&str, u16)) {
    let mut push = |field: &Field, stems: &[String]| {
        let length = stems.len() as f32 / field.usual;
        let weight = field.weight / (1.0 - field.by_length + field.by_length * length);
        // Rounded; at least one step, and far below what the type holds.
        let times = ((weight * SCALE).round() as u16).max(1);
        stems.iter().for_each(|stem| word(stem, times));
    };
    let cut = |text: &str| text.floor_char_boundary(MAX_PROSE);
    let (first, rest) = tool.description[..cut(tool.description)].split_at(end_of_first(tool.description));
    push(&SERVER, server);
    push(&NAME, &text::stems(tool.name));
    push(&TITLE, &text::stems(&tool.title[..cut(tool.title)]));
    let parameters = tool.parameters.join(" ");
    push(&PARAMETERS, &text::stems(&parameters[..cut(&parameters)]));
    push(&FIRST_SENTENCE, &text::stems(first));
    push(&DESCRIPTION, &text::stems(rest));
}

/// Where the first sentence of a description ends.
fn end_of_first(description: &str) -> usize {
    let start = &description[..description.floor_char_boundary(MAX_FIRST)];
    let ends = [". ", "! ", "? ", ".\n", "\n"].iter().filter_map(|end| Some(start.find(end)? + end.len()));
    ends.min().unwrap_or(start.len())
}
