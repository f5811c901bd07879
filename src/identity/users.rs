//! Open WebUI's users as last seen: answers from memory, and asks the background task at first sight.
//!
//! Never reads a database itself; `snapshot::users` does, refreshes everybody seen lately, and says
//! when it last managed to. Past `access.max_stale_secs` what is known is not believed any more.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    caller::Person,
    reason::Reason,
    watched::{self, Asking, Pinned, Watched},
};
use crate::{refusal::Refusal, store::openwebui::User};

/// A user's row with the person it tells of; `row` is `None` for an id that Open WebUI does not have.
#[derive(Debug)]
pub struct Seen {
    /// The row.
    pub row: Option<User>,
    person: Option<Arc<Person>>,
}

impl Seen {
    /// What is known of one user id.
    pub fn new(row: Option<User>) -> Self {
        let person = row.as_ref().map(|row| {
            let person = Person::user(row.email.clone(), row.groups.clone());
            Arc::new(person.known_to_openwebui(&row.id))
        });
        Self { person, row }
    }

    /// The person this user is.
    pub fn person(&self) -> Result<Arc<Person>, Refusal> {
        self.person.clone().ok_or_else(|| Reason::NoSuchUser.refuse())
    }
}

/// A question to the background task: the user's id in Open WebUI.
pub type Question = watched::Question<String, Arc<Seen>>;
/// A user with calls underway; while it is held they are not forgotten.
pub type Pin = Pinned<String, Arc<Seen>>;

/// The users seen lately.
pub struct Users {
    seen: Arc<Watched<String, Arc<Seen>>>,
    asking: Asking<String, Arc<Seen>>,
}

impl Users {
    /// An empty directory, and the questions it will ask.
    pub fn new(max_stale: Duration) -> (Arc<Self>, mpsc::Receiver<Question>) {
        let (asking, asked) = Asking::new();
        (Arc::new(Self { seen: Watched::new(max_stale), asking }), asked)
    }

    /// From now on believed for this long, and asked of whoever has what is given back.
    pub fn renewed(&self, max_stale: Duration) -> mpsc::Receiver<Question> {
        self.seen.set_max_stale(max_stale);
        self.asking.renewed()
    }

    /// What is known of this user; waits only at first sight.
    pub async fn get(&self, id: &str) -> Result<Arc<Seen>, Refusal> {
        match self.seen.get(id) {
            Some(_) if self.seen.is_too_old() => {
                Err(Reason::AccountUnknown.because("what is known of Open WebUI's users is too old"))
            }
            Some(seen) => Ok(seen),
            None => self.asking.ask(id.to_owned()).await.map_err(|trouble| {
                Reason::AccountUnknown.because(format!("Open WebUI's database: {trouble}"))
            }),
        }
    }

    /// Everybody seen lately or pinned, with what is remembered of them.
    pub fn all(&self) -> HashMap<String, Option<Arc<Seen>>> {
        self.seen.all()
    }

    /// Keeps this user among those looked at again, however long they are not seen.
    pub fn pin(&self, id: &str) -> Pin {
        self.seen.pin(id.to_owned())
    }

    /// What is remembered of this user, without asking.
    pub fn peek(&self, id: &str) -> Option<Arc<Seen>> {
        self.seen.get(id)
    }

    /// Remembers a row.
    pub fn remember(&self, id: &str, row: Option<User>) -> Arc<Seen> {
        let seen = Arc::new(Seen::new(row));
        self.seen.remember(id.to_owned(), seen.clone());
        seen
    }

    /// Notes that everything remembered was true just now.
    pub fn confirm(&self) {
        self.seen.confirm();
    }
}
