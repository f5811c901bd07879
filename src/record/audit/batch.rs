//! Lines that are brought into the database together.
//!
//! Decides how many, and that a line which is not as it was written costs itself alone. Never asks the database.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use super::{
    line::{Written, parse, whole_lines},
    spool::Segment,
};
use crate::store::audit::{AuditRow, BATCH};

/// Bytes of lines that are read at once; no line is longer.
pub const READ_AT_ONCE: usize = 1 << 20;

/// As many as usual lines of one batch are: what is read beyond is read once more.
const USUALLY: usize = BATCH * 640;

/// Lines that are sent together, and where they come from.
pub struct Batch {
    /// The lines.
    pub bytes: Vec<u8>,
    /// How many lines end in it.
    pub lines: u64,
    /// Whether there was no place for more, and so there may be.
    pub is_full: bool,
    pub from: Source,
}

/// Where lines come from.
pub enum Source {
    /// A file, and the place in it up to which they reach.
    Segment(Arc<Segment>, u64),
    /// Memory, where the disk is of no use.
    Memory(Vec<Vec<u8>>),
}

impl Batch {
    /// The next lines of a segment, in this room for them; none where there is no further whole one.
    pub fn of_segment(segment: &Arc<Segment>, mut bytes: Vec<u8>) -> io::Result<Option<Self>> {
        let from = segment.shipped.load(Ordering::Relaxed);
        segment.read(&mut bytes, USUALLY)?;
        if bytes.len() == USUALLY && whole_lines(&bytes).1 == 0 {
            segment.read(&mut bytes, READ_AT_ONCE)?;
        }
        let (lines, mut size) = whole_lines(&bytes)
            .0
            .take(BATCH)
            .fold((0, 0), |(lines, size), line| (lines + 1, size + line.len() + 1));
        let is_full = lines == BATCH || bytes.len() >= USUALLY;
        if size == 0 && bytes.len() == READ_AT_ONCE {
            // No line is so long: it is counted where it ends.
            size = bytes.len();
        }
        bytes.truncate(size);
        let from = Source::Segment(segment.clone(), from + size as u64);
        Ok((size > 0).then_some(Batch { bytes, lines: lines as u64, is_full, from }))
    }

    /// The same, where others may come behind it for another reason.
    pub fn followed(self, is_followed: bool) -> Self {
        Self { is_full: self.is_full || is_followed, ..self }
    }

    /// Lines in memory.
    pub fn of_memory(lines: Vec<Vec<u8>>) -> Self {
        Self { bytes: lines.concat(), lines: lines.len() as u64, is_full: true, from: Source::Memory(lines) }
    }

    /// Its rows, and how many lines are damaged.
    pub fn rows<'a>(&'a self, instance: &'a str) -> (Vec<AuditRow<'a>>, u64) {
        let (mut rows, mut damaged) = (Vec::with_capacity(BATCH), 0);
        for line in whole_lines(&self.bytes).0 {
            match parse(line) {
                Some(Written { id, at_micros, entry }) => {
                    rows.push(AuditRow { at_micros, entry_id: id, instance, entry });
                }
                None => damaged += 1,
            }
        }
        (rows, damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::spool::Home, *};

    #[test]
    fn as_many_lines_are_taken_off_as_were_counted() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::claim(folder.path()).unwrap();
        let segment = Arc::new(home.segment(1).unwrap());
        segment.append(&vec![b'x'; READ_AT_ONCE * 5 / 2]).unwrap();
        segment.append(b"\nshort\n").unwrap();
        let counted = segment.waiting_lines().unwrap();
        let (mut lines, mut damaged) = (0, 0);
        while let Some(batch) = Batch::of_segment(&segment, Vec::new()).unwrap() {
            (lines, damaged) = (lines + batch.lines, damaged + batch.rows("i").1);
            let Source::Segment(_, place) = batch.from else { unreachable!() };
            segment.note_shipped(place);
        }
        assert_eq!((counted, lines, damaged), (2, 2, 2));
    }
}
