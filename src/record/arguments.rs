//! The arguments of a call as the audit keeps them: their digest, and themselves only where an operator wants that.
//!
//! Decides how much of them is kept. Never whether: the server's `audit_arguments` does.

use crate::names::{Digest, Summing};

/// Most bytes that are kept of one call's arguments.
const LONGEST: usize = 64 * 1024;

/// What is kept of one call's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// Their digest.
    pub digest: Digest,
    /// Themselves, or their beginning, where the server wants them kept.
    pub text: Option<String>,
}

impl Arguments {
    /// Of arguments that are there as a whole.
    pub fn of(bytes: &[u8], is_kept: bool) -> Self {
        Self { digest: Digest::of_bytes(bytes), text: is_kept.then(|| text(bytes)) }
    }
}

/// Arguments that pass in pieces.
#[derive(Debug, Default)]
pub struct Passing {
    sum: Summing,
    kept: Option<Vec<u8>>,
}

impl Passing {
    /// None has passed yet.
    pub fn new(is_kept: bool) -> Self {
        Self { sum: Summing::default(), kept: is_kept.then(Vec::new) }
    }

    /// They pass anew.
    pub fn restart(&mut self) {
        *self = Self::new(self.kept.is_some());
    }

    /// A piece passes.
    pub fn feed(&mut self, piece: &[u8]) {
        self.sum.feed(piece);
        if let Some(kept) = &mut self.kept {
            // One byte more than is kept, so that it shows that there was more.
            let room = (LONGEST + 1).saturating_sub(kept.len());
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
        }
    }

    /// All have passed.
    pub fn end(&self) -> Arguments {
        Arguments { digest: self.sum.clone().finish(), text: self.kept.as_deref().map(text) }
    }
}

/// Bytes as text, cut with `…` where they are too many.
fn text(bytes: &[u8]) -> String {
    if bytes.len() <= LONGEST {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::from_utf8_lossy(&bytes[..LONGEST]).into_owned();
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_the_whole_are_kept_alike() {
        let whole = br#"{"text":"hello"}"#;
        let mut passing = Passing::new(true);
        passing.feed(b"something that failed");
        passing.restart();
        for piece in whole.chunks(3) {
            passing.feed(piece);
        }
        assert_eq!(passing.end(), Arguments::of(whole, true));
        assert_eq!(passing.end().text.as_deref(), Some(r#"{"text":"hello"}"#));
        assert_eq!(Arguments::of(whole, false).text, None);
    }

    #[test]
    fn of_long_arguments_the_beginning_is_kept() {
        let long = vec![b'a'; LONGEST + 1];
        let mut passing = Passing::new(true);
        long.chunks(1000).for_each(|piece| passing.feed(piece));
        let kept = passing.end();
        assert_eq!(kept, Arguments::of(&long, true));
        let text = kept.text.unwrap();
        assert_eq!((text.len(), text.ends_with("a…")), (LONGEST + '…'.len_utf8(), true));
        assert_eq!(Arguments::of(&long[1..], true).text.unwrap().len(), LONGEST);
    }
}
