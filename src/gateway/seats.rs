//! Seats, of which so many may be taken at a time as the configuration says at that moment.
//!
//! Where it says fewer than are taken, nobody loses one: they are given out again once there are fewer.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many seats are taken.
#[derive(Debug, Default)]
pub struct Seats(AtomicUsize);

/// A seat that is taken until this is dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// A seat, unless `most` are taken.
    pub fn take(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let one_more = |taken: usize| (taken < most).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Seat(self.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The seats of connections whose client has left, and how many there are.
#[derive(Clone)]
pub struct Forsaken {
    /// The seats.
    pub seats: Arc<Seats>,
    /// How many may be taken.
    pub most: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_free_again_when_it_is_left_and_fewer_seats_take_none_away() {
        let seats = Arc::new(Seats::default());
        let taken: Vec<_> = (0..4).map_while(|_| seats.take(3)).collect();
        assert_eq!(taken.len(), 3);
        assert!(seats.take(1).is_none() && seats.take(4).is_some());
        drop(taken);
        assert!(seats.take(1).is_some() && seats.take(0).is_none());
    }
}
