//! Who hears what a server says on the stream of a session, where questions and their answers share one.
//!
//! Decides to whom a message goes: to the question it names, to the only one that waits, or to those who listen. What
//! is for nobody is answered for them or forgotten. Never holds more than a bounded number of messages for anybody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{broadcast, mpsc};

use super::Asker;
use crate::mcp::{outgoing, told::Told};

/// Messages held for one question.
const HELD: usize = 40;
/// Longest notification, and longest request of a server, that is held for anybody: what waits is memory.
const LONGEST: usize = 16 * 1024;
/// Of these, so many are kept free for what must not be lost.
const SPARE: usize = 8;
/// Messages held for those who listen.
const HEARD: usize = 64;
/// JSON-RPC 2.0, section 5.1: the method is not known.
const METHOD_NOT_FOUND: i32 = -32601;

/// The answer that the gateway gives a server's request itself: to a ping always, to others where nobody can be asked.
pub(super) fn own_answer(can_be_asked: bool, id: &str, method: &str) -> Option<String> {
    match method {
        "ping" => Some(outgoing::response(id, Ok("{}"))),
        _ if can_be_asked => None,
        _ => Some(nobody(id)),
    }
}

fn nobody(id: &str) -> String {
    outgoing::error(id, METHOD_NOT_FOUND, "nobody can be asked this here")
}

/// What is said on the stream of one session, on its way to whom it is for.
pub(super) struct Hub {
    can_be_asked: bool,
    /// Whether all questions are of one asker, so that any of them stands for the others.
    is_own: bool,
    state: Mutex<State>,
}

struct State {
    waiting: HashMap<u64, mpsc::Sender<Told>>,
    /// None when the session is over.
    listening: Option<broadcast::Sender<Told>>,
}

impl Hub {
    /// Of a session of this asker's.
    pub(super) fn new(asker: &Asker) -> Self {
        let state = State { waiting: HashMap::new(), listening: Some(broadcast::Sender::new(HEARD)) };
        let (can_be_asked, is_own) = (asker.capabilities.is_some(), asker.session_of.is_some());
        Self { can_be_asked, is_own, state: Mutex::new(state) }
    }

    /// Messages for the question with this id; none when the session is over.
    pub(super) fn expect(self: &Arc<Self>, id: u64) -> Option<Expecting> {
        let mut state = self.state();
        state.listening.as_ref()?;
        let (sender, told) = mpsc::channel(HELD);
        state.waiting.insert(id, sender);
        Some(Expecting { id, told, hub: self.clone() })
    }

    /// Messages that are for no question; none when the session is over.
    pub(super) fn listen(&self) -> Option<broadcast::Receiver<Told>> {
        Some(self.state().listening.as_ref()?.subscribe())
    }

    /// Nothing further is asked: who waits for an answer still hears it.
    pub(super) fn retire(&self) {
        self.state().listening = None;
    }

    /// The session is over: nobody hears any more.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.waiting.clear();
        state.listening = None;
    }

    /// Whether the session is over.
    pub(super) fn is_over(&self) -> bool {
        self.state().listening.is_none()
    }

    /// Hands a message on. What comes back is to be sent to the server.
    pub(super) fn hand_on(&self, told: Told) -> Option<String> {
        let mut state = self.state();
        match &told {
            Told::Result { id, .. } | Told::Error { id: Some(id), .. } => {
                // Answered once: whatever a server says further under that id is for nobody.
                if let Some(waiting) = number(id).and_then(|id| state.waiting.remove(&id)) {
                    drop(waiting.try_send(told));
                }
                None
            }
            // About a message of ours, and nobody knows which.
            Told::Error { id: None, .. } => None,
            Told::Notification { params, .. } if is_long(params) => None,
            Told::Notification { method, .. } => {
                let waiting = match told.progress_token() {
                    // The progress of what nobody waits for any more is for nobody.
                    Some(token) => Some(number(token).and_then(|id| state.waiting.get(&id))?),
                    None if is_of_the_server(method) => None,
                    // It may be about a question that has ended, and of somebody else.
                    None if !self.is_own => None,
                    None => state.only(self.is_own),
                };
                match waiting {
                    Some(waiting) if waiting.capacity() > SPARE => drop(waiting.try_send(told)),
                    Some(_) => {}
                    None => state.tell_listeners(told),
                }
                None
            }
            Told::Request { id, method, params } => {
                if let Some(answer) = own_answer(self.can_be_asked, id, method) {
                    return Some(answer);
                }
                let id = id.clone();
                if is_long(params) {
                    return Some(nobody(&id));
                }
                let is_taken = match state.only(self.is_own) {
                    Some(waiting) => waiting.try_send(told).is_ok(),
                    None => state.listening.as_ref().is_some_and(|listening| listening.send(told).is_ok()),
                };
                (!is_taken).then(|| nobody(&id))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The question that waits, if there is one and no other; the newest where any will do.
    fn only(&self, any_will_do: bool) -> Option<&mpsc::Sender<Told>> {
        if any_will_do {
            return self.waiting.iter().max_by_key(|(id, _)| **id).map(|(_, waiting)| waiting);
        }
        let mut all = self.waiting.values();
        all.next().filter(|_| all.next().is_none())
    }

    fn tell_listeners(&self, told: Told) {
        if let Some(listening) = &self.listening {
            // Nobody listens: then it is for nobody.
            drop(listening.send(told));
        }
    }
}

/// Whether a notification tells of the server, and so is for no question.
fn is_of_the_server(method: &str) -> bool {
    method.ends_with("/list_changed") || method == "notifications/resources/updated"
}

fn is_long(params: &Option<String>) -> bool {
    params.as_ref().is_some_and(|params| params.len() > LONGEST)
}

fn number(raw: &str) -> Option<u64> {
    raw.parse().ok()
}

/// A question that waits for its messages.
pub(super) struct Expecting {
    id: u64,
    /// Ends when the session does.
    pub(super) told: mpsc::Receiver<Told>,
    hub: Arc<Hub>,
}

impl Drop for Expecting {
    fn drop(&mut self) {
        self.hub.state().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(method: &str, params: &str) -> Told {
        Told::Notification { method: method.to_owned(), params: Some(params.to_owned()) }
    }

    fn result(id: &str) -> Told {
        Told::Result { id: id.to_owned(), result: "{}".to_owned() }
    }

    fn request(method: &str) -> Told {
        Told::Request { id: "\"s\"".to_owned(), method: method.to_owned(), params: None }
    }

    fn hub(can_be_asked: bool) -> Hub {
        Hub::new(&Asker { capabilities: can_be_asked.then(|| "{}".to_owned()), ..Asker::default() })
    }

    #[tokio::test]
    async fn each_question_hears_its_own_and_listeners_the_rest() {
        let hub = Arc::new(hub(false));
        let (mut one, mut two) = (hub.expect(1).unwrap(), hub.expect(2).unwrap());
        let mut listener = hub.listen().unwrap();
        let progress = notification("notifications/progress", r#"{"progressToken":2,"progress":1}"#);
        let changed = notification("notifications/tools/list_changed", "{}");
        let log = notification("notifications/message", "{}");
        for told in [progress.clone(), changed.clone(), log.clone(), result("1"), result("3")] {
            assert_eq!(hub.hand_on(told), None);
        }
        assert_eq!((one.told.try_recv(), two.told.try_recv()), (Ok(result("1")), Ok(progress)));
        assert_eq!((listener.try_recv(), listener.try_recv()), (Ok(changed), Ok(log.clone())));
        drop(one);
        hub.hand_on(log.clone());
        assert!(two.told.try_recv().is_err(), "it may be about the question that has ended");
        hub.end();
        assert!(hub.is_over() && hub.expect(4).is_none() && hub.listen().is_none());
        assert_eq!(two.told.recv().await, None);
    }

    #[test]
    fn a_request_of_the_server_goes_to_the_only_one_who_can_mean_it() {
        let mute = hub(false);
        assert_eq!(mute.hand_on(request("ping")).unwrap(), r#"{"jsonrpc":"2.0","id":"s","result":{}}"#);
        assert!(mute.hand_on(request("roots/list")).unwrap().contains("-32601"));
        let hub = Arc::new(hub(true));
        assert!(hub.hand_on(request("roots/list")).unwrap().contains("-32601"), "nobody is there");
        let mut one = hub.expect(1).unwrap();
        assert_eq!(hub.hand_on(request("roots/list")), None);
        assert_eq!(one.told.try_recv(), Ok(request("roots/list")));
        let _two = hub.expect(2).unwrap();
        assert!(hub.hand_on(request("roots/list")).unwrap().contains("-32601"), "it may be for either");
        let own = Asker {
            session_of: Some("ann".to_owned()),
            capabilities: Some("{}".to_owned()),
            ..Asker::default()
        };
        let hub = Arc::new(Hub::new(&own));
        let (_one, mut two) = (hub.expect(1).unwrap(), hub.expect(2).unwrap());
        assert_eq!(hub.hand_on(request("roots/list")), None);
        assert_eq!(two.told.try_recv(), Ok(request("roots/list")), "both are the same asker's");
    }

    #[test]
    fn who_does_not_listen_loses_reports_and_not_the_answer() {
        let hub = Arc::new(hub(false));
        let mut one = hub.expect(1).unwrap();
        for _ in 0..2 * HELD {
            hub.hand_on(notification("notifications/progress", r#"{"progressToken":1}"#));
        }
        hub.hand_on(result("1"));
        let told: Vec<Told> = std::iter::from_fn(|| one.told.try_recv().ok()).collect();
        assert_eq!(told.last(), Some(&result("1")));
        assert!(told.len() <= HELD);
    }
}
