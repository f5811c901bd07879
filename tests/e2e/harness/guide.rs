//! Blocks of the documents for operators. The line above each says by which test it is run, or that none does.

/// Documents whose blocks are marked so.
pub const GUIDES: [(&str, &str); 4] = [
    ("systemd/README.md", include_str!("../../../systemd/README.md")),
    ("conf/OPERATING.md", include_str!("../../../conf/OPERATING.md")),
    ("conf/compose/README.md", include_str!("../../../conf/compose/README.md")),
    ("conf/kubernetes/README.md", include_str!("../../../conf/kubernetes/README.md")),
];

/// What stands above a block that no test runs.
pub const NOT_RUN: &str = "(not run by a test";

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    pub document: &'static str,
    /// The last line of text above it.
    pub above: String,
    pub language: String,
    pub text: String,
}

impl Block {
    /// The test that runs it, by what stands above it: `(run by NAME)`.
    pub fn test(&self) -> Option<&str> {
        let (_, rest) = self.above.split_once("(run by `")?;
        rest.split_once('`').map(|(name, _)| name)
    }
}

/// All blocks of all guides.
pub fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for (document, text) in GUIDES {
        let (mut above, mut open): (String, Option<Block>) = (String::new(), None);
        for line in text.lines() {
            let trimmed = line.trim_start();
            match (trimmed.strip_prefix("```"), open.take()) {
                (Some(_), Some(block)) => blocks.push(block),
                (Some(language), None) => {
                    let (above, language) = (above.clone(), language.to_owned());
                    open = Some(Block { document, above, language, text: String::new() });
                }
                (None, Some(mut block)) => {
                    block.text.push_str(trimmed);
                    block.text.push('\n');
                    open = Some(block);
                }
                (None, None) if !trimmed.is_empty() => above = trimmed.to_owned(),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "a block of {document} has no end");
    }
    blocks
}

/// The blocks that this test runs, in their order; there are some.
#[track_caller]
pub fn blocks_of(test: &str) -> Vec<Block> {
    let blocks: Vec<_> = blocks().into_iter().filter(|block| block.test() == Some(test)).collect();
    assert!(
        !blocks.is_empty(),
        "no block of {:?} is said to be run by `{test}`",
        GUIDES.map(|(name, _)| name)
    );
    blocks
}
