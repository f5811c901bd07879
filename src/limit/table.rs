//! What is remembered of who was counted: a table that never grows.
//!
//! Decides whom to forget when there is no room: the one who is nearest to being at rest, so that a flood of new names
//! costs those first who lose least. Never decides whether a call may be made: `gcra` does, with the time that stands here.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Names that share one lock and one row of places.
const WAYS: usize = 8;

/// A name's place. Empty while the time is 0.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    key: u64,
    until: u64,
}

/// Places that one lock is for. Most are never needed, so they are made when they are.
type Row = Option<Box<[Place; WAYS]>>;

/// Times by name, in memory that has an end.
#[derive(Debug)]
pub struct Table {
    rows: Box<[Mutex<Row>]>,
    hasher: RandomState,
}

/// A name as the table keeps it: a hash that nobody outside can aim at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Table {
    /// A table for about so many names.
    pub fn new(names: usize) -> Self {
        let rows = names.div_ceil(WAYS).next_power_of_two();
        Self { rows: (0..rows).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// The key of a name made of these parts.
    pub fn key(&self, parts: &[&[u8]]) -> Key {
        // Each part is hashed with its length, so that no two names run together.
        Key(self.hasher.hash_one(parts))
    }

    /// The time of this name, if it has one.
    pub fn get(&self, key: Key) -> Option<u64> {
        let row = self.row(key);
        let mut places = row.as_deref()?.iter();
        places.find(|place| place.until != 0 && place.key == key.0).map(|place| place.until)
    }

    /// Replaces the time of a name by what `decide` makes of it, or leaves it where `decide` refuses.
    pub fn update<T, E>(
        &self,
        key: Key,
        decide: impl FnOnce(Option<u64>) -> Result<(T, u64), E>,
    ) -> Result<T, E> {
        let mut row = self.row(key);
        let row = row.get_or_insert_default();
        let known = row.iter().position(|place| place.until != 0 && place.key == key.0);
        let (outcome, until) = decide(known.map(|at| row[at].until))?;
        let oldest = || (0..WAYS).min_by_key(|at| row[*at].until).unwrap_or_default();
        let at = known.unwrap_or_else(oldest);
        row[at] = Place { key: key.0, until };
        Ok(outcome)
    }

    /// Notes a time for this name.
    pub fn set(&self, key: Key, until: u64) {
        let _: Result<(), Infallible> = self.update(key, |_| Ok(((), until)));
    }

    /// Takes a name's time back by so much.
    pub fn lower(&self, key: Key, by: u64) {
        let mut row = self.row(key);
        let mut places = row.as_deref_mut().into_iter().flatten();
        if let Some(place) = places.find(|place| place.until != 0 && place.key == key.0) {
            place.until = place.until.saturating_sub(by).max(1);
        }
    }

    fn row(&self, key: Key) -> MutexGuard<'_, Row> {
        // The number of rows is a power of two.
        let row = &self.rows[(key.0 >> 32) as usize & (self.rows.len() - 1)];
        row.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(table: &Table, name: usize, until: u64) {
        table.set(table.key(&[&name.to_le_bytes()]), until);
    }

    #[test]
    fn a_flood_of_names_takes_no_more_room_and_forgets_whoever_is_nearest_to_rest() {
        let table = Table::new(64);
        set(&table, usize::MAX, 1_000_000);
        for name in 0..10_000 {
            set(&table, name, 1 + name as u64);
        }
        assert_eq!(table.rows.len(), 8);
        assert_eq!(table.get(table.key(&[&usize::MAX.to_le_bytes()])), Some(1_000_000));
        assert_eq!(table.get(table.key(&[&0_usize.to_le_bytes()])), None);
    }

    #[test]
    fn parts_of_a_name_do_not_run_together() {
        let table = Table::new(1);
        assert_ne!(table.key(&[b"ab", b"c"]), table.key(&[b"a", b"bc"]));
        assert_ne!(table.key(&[b"a"]), table.key(&[b"a", b""]));
        assert_eq!(table.key(&[b"a", b"b"]), table.key(&[b"a", b"b"]));
    }
}
