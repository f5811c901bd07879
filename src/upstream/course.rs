//! Which of a server's addresses a request is tried at, one after the other.
//!
//! Decides by what is known of them (`health`): the least busy of the good ones, no address twice, and one that is shut
//! only by a call that tries it. A session keeps to its own. Waits for a server that has just gone away, and then refuses
//! at once: calls do not pile up in front of one that is dead.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{
    Destination,
    breaker::Standing,
    health::{OUTAGE, Seat},
    unreachable,
};
use crate::refusal::Refusal;

/// Between two looks whether a server is there again, at least and at most: those who wait are many.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(200));

/// The addresses a request may go to.
#[derive(Debug, Clone)]
pub struct Course {
    destinations: Arc<[Destination]>,
    first: usize,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// To no address.
    No,
    /// To the first, as long as it is good.
    ToFirst,
    /// To the first, whatever is known of it.
    ToProbe,
}

/// How far a request has come: the addresses it has been tried at (of the first hundred and more, which nobody has), and
/// since when it waits for a good one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    at: u128,
    waits_since: Option<Instant>,
}

impl Tried {
    fn has(self, at: usize) -> bool {
        at >= 128 || self.at & 1 << at != 0
    }

    fn note(&mut self, at: usize) {
        self.at |= 1 << at;
    }

    /// The last address counts as not tried: it was another thing that went wrong.
    pub fn forget(&mut self, at: usize) {
        self.at &= !(1 << at);
    }

    /// None counts as tried any more.
    pub fn forget_all(&mut self) {
        self.at = 0;
    }
}

/// Where a request is tried.
#[derive(Debug)]
pub struct Pick {
    /// Which of the addresses.
    pub at: usize,
    /// Its place there.
    pub seat: Option<Seat>,
}

impl Course {
    /// To the least busy address, looked for from `first` on.
    pub(super) fn to_any(destinations: Arc<[Destination]>, first: usize) -> Self {
        Self { destinations, first, bound: Bound::No }
    }

    /// To the first address, and to others only when it fails.
    pub(super) fn to_first(destinations: Arc<[Destination]>, first: usize) -> Self {
        Self { destinations, first, bound: Bound::ToFirst }
    }

    /// To this address alone, however it is.
    pub(super) fn to_probe(destination: Destination) -> Self {
        Self { destinations: [destination].into(), first: 0, bound: Bound::ToProbe }
    }

    pub(super) fn destinations(&self) -> &Arc<[Destination]> {
        &self.destinations
    }

    /// The address with this number.
    pub fn destination(&self, at: usize) -> Option<&Destination> {
        self.destinations.get(at)
    }

    /// The address that comes first where nothing is known.
    pub fn first(&self) -> Option<&Destination> {
        self.destinations.get(self.first)
    }

    /// Where to try next; how long it takes until there may be a good one, where there is none.
    pub fn pick(&self, tried: &mut Tried) -> Result<Pick, Duration> {
        let count = self.destinations.len();
        let (mut best, mut wait) = (None, Duration::from_secs(1));
        for at in (0..count).map(|step| (self.first + step) % count).filter(|at| !tried.has(*at)) {
            let health = &self.destinations[at].health;
            match (self.bound, health.standing(false)) {
                (Bound::ToProbe, _) => {
                    tried.note(at);
                    return Ok(Pick { at, seat: None });
                }
                (_, Standing::Good) => {
                    let busy = health.outstanding();
                    if best.is_none_or(|(_, least)| busy < least) {
                        best = Some((at, busy));
                    }
                    if self.bound == Bound::ToFirst || busy == 0 {
                        break;
                    }
                }
                (_, Standing::ToBeTried) => {
                    if let Some(seat) = health.try_seat(false) {
                        tried.note(at);
                        return Ok(Pick { at, seat: Some(seat) });
                    }
                }
                (_, Standing::Shut(left)) => wait = wait.min(left),
            }
        }
        if let Some((at, _)) = best {
            tried.note(at);
            return Ok(Pick { at, seat: Some(self.destinations[at].health.seat()) });
        }
        if self.bound == Bound::ToProbe {
            return Err(wait);
        }
        self.last_resort(tried).ok_or(wait)
    }

    /// One that is shut, and whose time has come.
    fn last_resort(&self, tried: &mut Tried) -> Option<Pick> {
        let count = self.destinations.len();
        let mut untried = (0..count).map(|step| (self.first + step) % count).filter(|at| !tried.has(*at));
        let (at, seat) = untried.find_map(|at| Some((at, self.destinations[at].health.try_seat(true)?)))?;
        tried.note(at);
        Some(Pick { at, seat: Some(seat) })
    }

    /// Where to try next. A server none of whose peers is fit is waited for as long as it has only just gone away or is
    /// about to come back, at most `patience`; where its names lead elsewhere meanwhile, it is tried there.
    pub async fn next(&mut self, tried: &mut Tried, patience: Duration) -> Result<Pick, Refusal> {
        loop {
            let wait = match self.pick(tried) {
                Ok(pick) => return Ok(pick),
                Err(wait) => wait,
            };
            if !self.may_wait(*tried, patience) {
                return Err(self.unfit(wait));
            }
            tried.waits_since.get_or_insert_with(Instant::now);
            tried.forget_all();
            if let Some(first) = self.destinations.first() {
                let changed = first.health.tally().changed.notified();
                drop(timeout(wait.clamp(PAUSE.0, PAUSE.1), changed).await);
            }
            self.follow();
        }
    }

    /// Whether there is an address to go on with, or a server that has only just gone away.
    pub fn may_go_on(&self, tried: Tried, patience: Duration) -> bool {
        let is_there = |at: usize| {
            !tried.has(at) && !matches!(self.destinations[at].health.standing(true), Standing::Shut(_))
        };
        (0..self.destinations.len()).any(is_there) || self.may_wait(tried, patience)
    }

    /// Whether there is another address than those tried.
    pub fn has_other(&self, tried: Tried) -> bool {
        (0..self.destinations.len()).any(|at| !tried.has(at))
    }

    /// A peer that comes and goes lets no outage begin: a request waits no longer than one may last, whatever it looks like.
    fn may_wait(&self, tried: Tried, patience: Duration) -> bool {
        self.bound != Bound::ToProbe
            && tried.waits_since.is_none_or(|since| since.elapsed() < OUTAGE.min(patience))
            && self.destinations.first().is_some_and(|first| {
                first.health.tally().is_just_down(patience)
                    || self.destinations.iter().any(|at| at.health.is_hopeful())
            })
    }

    /// Goes where the server's names lead by now: the same names, so that nothing is sent to anybody else.
    fn follow(&mut self) {
        let latest = self.destinations.first().and_then(|first| first.health.tally().latest());
        let Some(latest) = latest.filter(|latest| !Arc::ptr_eq(latest, &self.destinations)) else { return };
        let is_known = |at: &Destination| self.destinations.iter().any(|known| at.is_named_like(known));
        if self.bound == Bound::No && latest.iter().all(is_known) {
            (self.destinations, self.first) = (latest, 0);
        }
    }

    fn unfit(&self, wait: Duration) -> Refusal {
        if let Some(first) = self.destinations.first().filter(|_| self.bound != Bound::ToProbe) {
            first.health.tally().refused.fetch_add(1, Ordering::Relaxed);
        }
        let wait = wait.max(Duration::from_secs(1));
        unreachable("none of the server's addresses is fit for a call").retry_after(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog::server::PeerUrl, upstream::breaker::Fault};

    fn course(count: u16) -> Course {
        let peer = PeerUrl::parse("http://h").unwrap();
        let tally = super::super::health::Tally::new(crate::names::ServerId::parse("s").unwrap());
        let at = |port| {
            let address = ([127, 0, 0, 1], port).into();
            let health = super::super::health::Health::new(tally.clone(), address);
            Destination { health, ..Destination::new(peer.clone(), address) }
        };
        Course::to_any((1..=count).map(at).collect(), 0)
    }

    fn shut(course: &Course, at: usize, fault: Fault) {
        for _ in 0..3 {
            course.destinations[at].health.note(Some(fault));
        }
        assert!(!course.destinations[at].health.is_good());
    }

    #[test]
    fn the_least_busy_of_the_good_is_picked_and_none_twice() {
        let course = course(3);
        let pick = || course.pick(&mut Tried::default()).unwrap();
        let (first, second) = (pick(), pick());
        assert_eq!((first.at, second.at), (0, 1));
        let third = pick();
        assert_eq!(third.at, 2);
        drop(second);
        assert_eq!(pick().at, 1, "nobody is there now");
        shut(&course, 1, Fault::HungUp);
        assert_eq!(pick().at, 0, "one that is shut is left out");
        let mut tried = Tried::default();
        let order: Vec<_> = std::iter::from_fn(|| course.pick(&mut tried).ok().map(|pick| pick.at)).collect();
        assert_eq!(order, [0, 2]);
    }

    #[tokio::test]
    async fn one_call_tries_a_shut_peer_and_the_others_are_refused_at_once() {
        let mut course = course(1);
        shut(&course, 0, Fault::HungUp);
        let mut tried = Tried::default();
        assert!(course.pick(&mut tried).is_err(), "its time has not come");
        let began = std::time::Instant::now();
        let mut trial = course.next(&mut tried, Duration::from_secs(60)).await.expect("it is waited for");
        assert!(began.elapsed() < Duration::from_secs(2));
        let refusal = course.next(&mut Tried::default(), Duration::ZERO).await.unwrap_err();
        assert!(refusal.retry_after_secs() >= Some(1));
        trial.seat.as_mut().unwrap().settle(None);
        assert!(course.pick(&mut Tried::default()).is_ok(), "it is well again");
    }

    #[tokio::test]
    async fn a_request_does_not_wait_for_ever_for_a_peer_that_comes_and_goes() {
        let mut course = course(1);
        // Longer than it is shut for, so that no outage is as long.
        let patience = Duration::from_millis(800);
        let mut tried = Tried::default();
        let began = Instant::now();
        let refusal = loop {
            shut(&course, 0, Fault::Unreached);
            match course.next(&mut tried, patience).await {
                Ok(_) => course.destinations[0].health.probed(None, true),
                Err(refusal) => break refusal,
            }
            assert!(began.elapsed() < Duration::from_secs(5), "it waits still");
        };
        assert!(began.elapsed() >= patience && refusal.retry_after_secs() >= Some(1));
    }

    #[tokio::test]
    async fn a_trial_that_is_given_up_lets_another_begin() {
        let mut course = course(1);
        shut(&course, 0, Fault::Unreached);
        let first = course.next(&mut Tried::default(), Duration::from_secs(60)).await.unwrap();
        assert!(course.pick(&mut Tried::default()).is_err(), "one at a time");
        drop(first);
        assert!(course.pick(&mut Tried::default()).is_ok());
    }

    #[tokio::test]
    async fn calls_beside_the_one_that_tries_a_peer_which_answers_probes_wait_for_it() {
        let mut course = course(1);
        let patience = Duration::from_millis(50);
        shut(&course, 0, Fault::HungUp);
        let mut others = course.clone();
        let outage = course.next(&mut Tried::default(), patience).await;
        assert!(outage.is_err(), "it lasts longer than a call is patient");
        course.destinations[0].health.probed(None, false);
        let mut tried = Tried::default();
        let mut trial = course.next(&mut tried, Duration::from_secs(60)).await.expect("its time has come");
        let waiting = tokio::spawn(async move {
            others.next(&mut Tried::default(), Duration::from_secs(60)).await.map(|pick| pick.at)
        });
        tokio::task::yield_now().await;
        trial.seat.as_mut().unwrap().settle(None);
        assert_eq!(waiting.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_call_that_waits_goes_where_the_name_leads_by_now_and_to_no_other_name() {
        let mut course = course(1);
        let tally = course.destinations[0].health.tally().clone();
        let at = |host: &str, port| {
            let address = ([127, 0, 0, 1], port).into();
            let health = super::super::health::Health::new(tally.clone(), address);
            let peer = PeerUrl::parse(host).unwrap();
            Arc::from([Destination { health, ..Destination::new(peer, address) }])
        };
        shut(&course, 0, Fault::Unreached);
        let (another, moved) = (at("http://other", 2), at("http://h", 3));
        tally.moved(&another);
        course.follow();
        assert_eq!(course.destinations[0].address.port(), 1);
        tally.moved(&moved);
        let pick = course.next(&mut Tried::default(), Duration::from_secs(60)).await.unwrap();
        assert_eq!(course.destination(pick.at).unwrap().address.port(), 3);
    }

    #[test]
    fn a_session_keeps_to_its_address_and_a_probe_to_one_that_is_shut() {
        let any = course(2);
        let bound = Course::to_first(any.destinations.clone(), 1);
        let picks: Vec<_> = (0..3).map(|_| bound.pick(&mut Tried::default()).unwrap()).collect();
        assert!(picks.iter().all(|pick| pick.at == 1));
        shut(&any, 0, Fault::NoAnswer);
        assert!(Course::to_probe(any.destinations[0].clone()).pick(&mut Tried::default()).is_ok());
    }

    #[test]
    fn not_more_than_one_call_in_five_is_sent_twice() {
        let course = course(1);
        let tally = course.destinations[0].health.tally().clone();
        assert_eq!(
            (0..100).filter(|_| tally.may_repeat()).count(),
            10,
            "that much is there at the beginning"
        );
        for _ in 0..100 {
            course.pick(&mut Tried::default()).unwrap().seat.unwrap().settle(None);
        }
        assert!((9..=20).contains(&(0..100).filter(|_| tally.may_repeat()).count()));
    }
}
