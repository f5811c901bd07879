//! Groups that tokens have no room for, as Graph told them. Memory; `snapshot::entra` asks Graph.
//!
//! Decides how long what Graph told serves: as it is for its time to live; for as long again while it is asked for
//! anew in the background; then whoever asks waits. While Graph is away what was told serves on, until it is too old.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    identity::reason::Reason,
    names::{GroupName, Secret},
    refusal::Refusal,
};

/// Longest wait for Graph.
const DEADLINE: Duration = Duration::from_secs(6);
/// Questions that may wait at once.
const QUEUE: usize = 256;
/// After a failure a user's groups are not asked for again within this time, which is what refusals say to wait.
const PAUSE: Duration = Duration::from_secs(2);
/// Group names kept for all users together.
const MOST_NAMES: u64 = 2_000_000;

/// A user of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// The tenant.
    pub tenant: Uuid,
    /// Their object id in it.
    pub object: Uuid,
}

/// What Graph told of a user.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Their groups; none where the directory has no such user any more.
    groups: Option<Box<[GroupName]>>,
    at: Instant,
}

impl Known {
    /// Their groups.
    pub fn names(&self) -> Result<&[GroupName], Refusal> {
        self.groups.as_deref().ok_or_else(|| Reason::NoSuchUser.because("the directory has no such user"))
    }
}

/// A question to the background task.
pub struct Question {
    /// Whose groups.
    pub member: Member,
    /// Their token, by which Graph can be asked in their name.
    pub token: Secret<String>,
    /// Told when the memory has the answer; dropped when there is none.
    pub done: oneshot::Sender<()>,
}

/// The groups of users seen lately.
pub struct Groups {
    known: Cache<Member, Arc<Known>>,
    failed: Cache<Member, ()>,
    /// Users for whom Entra ID gives out no token any more.
    unwelcome: Cache<Member, ()>,
    questions: mpsc::Sender<Question>,
    ttl: Duration,
    max_stale: Duration,
}

impl Groups {
    pub(super) fn new(ttl: Duration, max_stale: Duration) -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUEUE);
        let weight = |_: &Member, known: &Arc<Known>| {
            let names = known.groups.as_ref().map_or(0, |groups| groups.len());
            u32::try_from(names).unwrap_or(u32::MAX).saturating_add(8)
        };
        let known = Cache::builder()
            .max_capacity(MOST_NAMES)
            .weigher(weight)
            .time_to_live(ttl * 2 + max_stale)
            .build();
        let failed = Cache::builder().max_capacity(100_000).time_to_live(PAUSE).build();
        let unwelcome = Cache::builder().max_capacity(100_000).time_to_live(ttl * 2 + max_stale).build();
        (Self { known, failed, unwelcome, questions, ttl, max_stale }, asked)
    }

    /// Remembers what Graph told, `None` where it knows no such user, and says whether that is news.
    pub fn remember(&self, member: Member, groups: Option<Vec<GroupName>>) -> bool {
        let groups = groups.map(|mut groups| {
            groups.sort_unstable();
            groups.into_boxed_slice()
        });
        let is_news = self.known.get(&member).is_some_and(|before| before.groups != groups);
        self.known.insert(member, Arc::new(Known { groups, at: Instant::now() }));
        self.failed.invalidate(&member);
        self.unwelcome.invalidate(&member);
        is_news
    }

    /// Whether a user has the groups that somebody was let in with, as far as is known.
    pub(in crate::identity) fn are_still(&self, member: &Member, told: &Known) -> bool {
        match self.known.get(member) {
            Some(known) => known.groups == told.groups,
            // Forgotten with time, or for a reason.
            None => !self.unwelcome.contains_key(member),
        }
    }

    /// Forgets a user for whom Entra ID gives out no token any more: what was told must not outlive that.
    pub fn forget(&self, member: Member) {
        self.known.invalidate(&member);
        self.failed.insert(member, ());
        self.unwelcome.insert(member, ());
    }

    /// Remembers that Graph could not be asked just now.
    pub fn fail(&self, member: Member) {
        self.failed.insert(member, ());
    }

    /// The groups of a user who came with this token.
    pub(super) async fn get(&self, member: Member, token: &str) -> Result<Arc<Known>, Refusal> {
        let known = self.known.get(&member);
        let age = known.as_ref().map(|known| known.at.elapsed());
        if let (Some(known), Some(age)) = (&known, age) {
            if age <= self.ttl {
                return Ok(known.clone());
            }
            let is_soon_enough = age <= self.ttl * 2;
            if is_soon_enough || self.failed.contains_key(&member) {
                if !self.failed.contains_key(&member) {
                    drop(self.ask(member, token));
                }
                return self.old(known);
            }
        }
        if self.failed.contains_key(&member) {
            return Err(Reason::GroupsUnknown.because("Graph could not be asked a moment ago"));
        }
        let is_answered = match self.ask(member, token) {
            Some(answer) => matches!(tokio::time::timeout(DEADLINE, answer).await, Ok(Ok(()))),
            None => false,
        };
        match (is_answered, self.known.get(&member), known) {
            (true, Some(known), _) => Ok(known),
            (_, _, Some(known)) => self.old(&known),
            _ => Err(Reason::GroupsUnknown.because("Graph did not tell the groups of a user")),
        }
    }

    /// What was told before, unless that is too long ago.
    fn old(&self, known: &Arc<Known>) -> Result<Arc<Known>, Refusal> {
        if known.at.elapsed() > self.ttl.max(self.max_stale) {
            return Err(Reason::GroupsUnknown.because("what Graph told is too old"));
        }
        Ok(known.clone())
    }

    fn ask(&self, member: Member, token: &str) -> Option<oneshot::Receiver<()>> {
        let (done, answer) = oneshot::channel();
        let question = Question { member, token: Secret::new(token.to_owned()), done };
        self.questions.try_send(question).ok().map(|()| answer)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MEMBER: Member = Member { tenant: Uuid::from_u128(1), object: Uuid::from_u128(2) };

    fn told(names: &[&str]) -> Option<Vec<GroupName>> {
        Some(names.iter().map(|name| GroupName::parse(name).unwrap()).collect())
    }

    /// As if what is known had been told this long ago.
    fn age(groups: &Groups, age: Duration) {
        let known = groups.known.get(&MEMBER).unwrap();
        let at = Instant::now().checked_sub(age).unwrap();
        groups.known.insert(MEMBER, Arc::new(Known { groups: known.groups.clone(), at }));
    }

    fn names(known: Result<Arc<Known>, Refusal>) -> Result<usize, Option<&'static str>> {
        known.and_then(|known| known.names().map(<[_]>::len)).map_err(|refusal| refusal.why())
    }

    #[tokio::test]
    async fn what_graph_told_serves_then_is_asked_for_beside_and_then_waited_for() {
        let (groups, mut questions) = Groups::new(Duration::from_secs(300), Duration::from_secs(3600));
        let mut first = Box::pin(groups.get(MEMBER, "token"));
        assert!((&mut first).now_or_never().is_none(), "not waited");
        groups.remember(MEMBER, told(&["A"]));
        questions.recv().await.unwrap().done.send(()).unwrap();
        assert_eq!(names(first.await), Ok(1));
        assert_eq!(groups.get(MEMBER, "token").now_or_never().map(names), Some(Ok(1)));
        assert!(questions.try_recv().is_err(), "asked again though it is new");

        age(&groups, Duration::from_secs(400));
        assert_eq!(groups.get(MEMBER, "newer").now_or_never().map(names), Some(Ok(1)));
        assert_eq!(questions.try_recv().unwrap().token.expose(), "newer");

        age(&groups, Duration::from_secs(700));
        let mut old = Box::pin(groups.get(MEMBER, "token"));
        assert!((&mut old).now_or_never().is_none(), "not waited");
        groups.remember(MEMBER, told(&["A", "B"]));
        questions.recv().await.unwrap().done.send(()).unwrap();
        assert_eq!(names(old.await), Ok(2));
    }

    #[test]
    fn what_was_begun_with_groups_goes_on_while_they_are_told_the_same() {
        let (groups, _questions) = Groups::new(Duration::from_secs(300), Duration::from_secs(3600));
        assert!(!groups.remember(MEMBER, told(&["A", "B"])), "nobody was let in before");
        let then = groups.known.get(&MEMBER).unwrap();
        assert!(!groups.remember(MEMBER, told(&["B", "A"])) && groups.are_still(&MEMBER, &then));
        groups.known.invalidate(&MEMBER);
        assert!(groups.are_still(&MEMBER, &then), "what time forgets takes nothing away");
        groups.remember(MEMBER, told(&["A", "B"]));
        assert!(groups.remember(MEMBER, told(&["A"])) && !groups.are_still(&MEMBER, &then));
        assert!(groups.remember(MEMBER, None) && !groups.are_still(&MEMBER, &then));
    }

    #[tokio::test]
    async fn who_is_forgotten_has_no_groups_until_they_are_told_again() {
        let (groups, _questions) = Groups::new(Duration::from_secs(300), Duration::from_secs(3600));
        groups.remember(MEMBER, told(&["A"]));
        groups.forget(MEMBER);
        let refused = groups.get(MEMBER, "token").now_or_never().map(names);
        assert!(!groups.are_still(&MEMBER, &Known { groups: None, at: Instant::now() }));
        assert_eq!(refused, Some(Err(Some("groups_unknown"))));
        groups.remember(MEMBER, told(&["A"]));
        assert_eq!(groups.get(MEMBER, "token").now_or_never().map(names), Some(Ok(1)));
    }

    #[tokio::test]
    async fn while_graph_is_away_what_it_told_serves_until_it_is_too_old() {
        let (groups, mut questions) = Groups::new(Duration::from_secs(300), Duration::from_secs(3600));
        let never = groups.get(MEMBER, "token");
        groups.fail(MEMBER);
        assert_eq!(never.now_or_never().map(names), Some(Err(Some("groups_unknown"))));
        groups.remember(MEMBER, told(&["A"]));
        age(&groups, Duration::from_secs(3000));
        let mut asked = Box::pin(groups.get(MEMBER, "token"));
        assert!((&mut asked).now_or_never().is_none());
        groups.fail(MEMBER);
        drop(questions.recv().await.unwrap());
        assert_eq!(names(asked.await), Ok(1), "known before");
        assert_eq!(
            groups.get(MEMBER, "token").now_or_never().map(names),
            Some(Ok(1)),
            "and nobody waits again"
        );
        age(&groups, Duration::from_secs(3601));
        assert_eq!(groups.get(MEMBER, "token").now_or_never().map(names), Some(Err(Some("groups_unknown"))));
    }
}
