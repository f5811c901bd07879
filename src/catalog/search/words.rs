//! The words of one server's tools, ready to be searched: a full-text index in memory.
//!
//! Decides how much a word counts by where it stands. Each server has an index of its own, made when its tools are
//! read, so that a search opens those of the caller's servers and no other.

use std::{fmt, sync::Arc};

use anyhow::{Context, Result};
use tantivy::{
    Index, IndexSettings, InvertedIndexReader, SegmentReader, SingleSegmentIndexWriter, TERMINATED,
    TantivyDocument,
    directory::RamDirectory,
    postings::BlockSegmentPostings,
    schema::{IndexRecordOption, Schema, TextFieldIndexing, TextOptions},
};

use super::text;

/// Most bytes of a title or description that are searched.
const MAX_PROSE: usize = 4_096;
/// Most bytes that count as a description's first sentence.
const MAX_FIRST: usize = 160;
/// Room that the writer of an index begins with; it takes more where there is more to write.
const WRITER_BYTES: usize = 1_000_000;

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
pub struct Words {
    count: usize,
    /// None where there are no tools.
    index: Option<Arc<InvertedIndexReader>>,
}

/// How often a tool has a word, by its place in the list: more in a better place.
pub struct Postings(Option<BlockSegmentPostings>);

impl Words {
    /// The words of these tools of this server, in the order of its list.
    pub fn new<'t>(server: &str, tools: impl IntoIterator<Item = Text<'t>>) -> Result<Self> {
        let mut schema = Schema::builder();
        let indexing = TextFieldIndexing::default().set_tokenizer("whitespace").set_fieldnorms(false);
        let indexing = indexing.set_index_option(IndexRecordOption::WithFreqs);
        let words = schema.add_text_field("words", TextOptions::default().set_indexing_options(indexing));
        // Without this the writer has a thread for texts that it is not asked to store.
        let settings =
            IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() };
        let index = Index::builder().schema(schema.build()).settings(settings);
        let mut writer: SingleSegmentIndexWriter =
            index.single_segment_index_writer(RamDirectory::create(), WRITER_BYTES)?;
        let server = text::stems(server);
        let mut count = 0;
        for tool in tools {
            let mut document = TantivyDocument::new();
            document.add_text(words, weighed(&server, &tool));
            writer.add_document(document)?;
            count += 1;
        }
        if count == 0 {
            return Ok(Self { count, index: None });
        }
        let index = writer.finalize()?;
        let segment =
            index.searchable_segments()?.pop().context("an index that was written has no segment")?;
        Ok(Self { count, index: Some(SegmentReader::open(&segment)?.inverted_index(words)?) })
    }

    /// How many tools there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Hands over each tool that has this word, by its place, and how much it has of it.
    pub fn holders(&self, word: &str, postings: &mut Postings, mut holder: impl FnMut(usize, f32)) {
        let Some(index) = &self.index else { return };
        // In memory nothing can fail to be read, and a word that cannot be is not there.
        let Ok(Some(term)) = index.terms().get(word) else { return };
        if let Some(known) = &mut postings.0 {
            if index.reset_block_postings_from_terminfo(&term, known).is_err() {
                return;
            }
        } else {
            postings.0 = index.read_block_postings_from_terminfo(&term, IndexRecordOption::WithFreqs).ok();
        }
        let Some(found) = &mut postings.0 else { return };
        while found.docs().first().is_some_and(|first| *first != TERMINATED) {
            for (place, times) in found.docs().iter().zip(found.freqs()) {
                holder(*place as usize, *times as f32 / SCALE);
            }
            found.advance();
        }
    }

    /// Hands over each word that tools have and that begins like this.
    pub fn beginning(&self, beginning: &str, mut word: impl FnMut(&str)) {
        let Some(index) = &self.index else { return };
        let Ok(mut found) = index.terms().range().ge(beginning).into_stream() else { return };
        while let Some((key, _)) = found.next() {
            match std::str::from_utf8(key) {
                Ok(key) if key.starts_with(beginning) => word(key),
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl Postings {
    /// Room for what is read of an index, used again and again.
    pub fn new() -> Self {
        Self(None)
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Words").field("count", &self.count).finish_non_exhaustive()
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
/// An index counts words: what weighs 1 is written so many times.
const SCALE: f32 = 4.0;

/// All words of a tool with a blank behind each, as often as they weigh. Nothing but the tool itself has a say in it.
fn weighed(server: &[String], tool: &Text<'_>) -> String {
    let mut all = String::new();
    let mut push = |field: &Field, stems: &[String]| {
        let length = stems.len() as f32 / field.usual;
        let weight = field.weight / (1.0 - field.by_length + field.by_length * length);
        for _ in 0..((weight * SCALE).round() as usize).max(1) {
            for stem in stems {
                all.push_str(stem);
                all.push(' ');
            }
        }
    };
    let cut = |text: &'_ str| text.floor_char_boundary(MAX_PROSE);
    let (first, rest) = tool.description[..cut(tool.description)].split_at(end_of_first(tool.description));
    push(&SERVER, server);
    push(&NAME, &text::stems(tool.name));
    push(&TITLE, &text::stems(&tool.title[..cut(tool.title)]));
    let parameters = tool.parameters.join(" ");
    push(&PARAMETERS, &text::stems(&parameters[..cut(&parameters)]));
    push(&FIRST_SENTENCE, &text::stems(first));
    push(&DESCRIPTION, &text::stems(rest));
    all
}

/// Where the first sentence of a description ends.
fn end_of_first(description: &str) -> usize {
    let start = &description[..description.floor_char_boundary(MAX_FIRST)];
    let ends = [". ", "! ", "? ", ".\n", "\n"].iter().filter_map(|end| Some(start.find(end)? + end.len()));
    ends.min().unwrap_or(start.len())
}
