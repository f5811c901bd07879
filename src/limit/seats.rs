//! How many of something one name has at this moment: streams, connections, running calls.
//!
//! Decides whether one more may begin. A seat is given back when it is dropped, whatever ended it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Locks that names are spread over.
const ROWS: usize = 64;

/// Seats by name. Holds a name as long as it has one.
#[derive(Debug)]
pub struct Seats {
    rows: [Mutex<HashMap<u64, usize>>; ROWS],
    hasher: RandomState,
}

/// One of a name's seats, until dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    key: u64,
}

impl Seats {
    /// Nobody has any.
    pub fn new() -> Arc<Self> {
        let rows = std::array::from_fn(|_| Mutex::default());
        Arc::new(Self { rows, hasher: RandomState::new() })
    }

    /// A seat for this name, unless it has `most` already.
    pub fn take(self: &Arc<Self>, name: &[u8], most: usize) -> Option<Seat> {
        let key = self.hasher.hash_one(name);
        let mut row = self.row(key);
        let taken = row.entry(key).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Seat { seats: self.clone(), key })
    }

    /// How many this name has.
    pub fn taken(&self, name: &[u8]) -> usize {
        let key = self.hasher.hash_one(name);
        self.row(key).get(&key).copied().unwrap_or_default()
    }

    fn row(&self, key: u64) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.rows[key as usize % ROWS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut row = self.seats.row(self.key);
        if let Some(taken) = row.get_mut(&self.key) {
            *taken -= 1;
            if *taken == 0 {
                row.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_so_many_seats_and_no_more_until_one_is_given_back() {
        let seats = Seats::new();
        let first = seats.take(b"ann", 2);
        let second = seats.take(b"ann", 2);
        assert!(first.is_some() && second.is_some() && seats.take(b"ann", 2).is_none());
        assert!(seats.take(b"bob", 2).is_some(), "another's are not touched");
        drop(first);
        assert_eq!(seats.taken(b"ann"), 1);
        assert!(seats.take(b"ann", 2).is_some());
        drop(second);
        assert!(seats.rows.iter().all(|row| row.lock().unwrap().is_empty()), "nobody is remembered");
    }
}
