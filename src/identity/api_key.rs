//! API keys of Open WebUI (`sk-…`) as last seen: answers from memory, and asks the background at first sight.
//!
//! Decides whether a key may be used: by Open WebUI's own settings, and stricter where it is lenient. Never reads a
//! database itself; `snapshot::api_keys` does, and looks at every key in use again. Keeps no key, only its SHA-256.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use tokio::sync::mpsc;

use super::{
    caller::{Caller, Proof, Scheme},
    jwt,
    reason::Reason,
    session::active,
    users::Users,
    watched::{self, Asking, Pinned, Watched},
};
use crate::{
    names::Secret,
    refusal::Refusal,
    store::{Role, User, api_keys::ApiKey},
};

/// A question to the background task.
pub type Question = watched::Question<Presented, Seen>;
/// What is known of a key: its row, or that Open WebUI does not have it, or no more.
pub type Seen = Option<Arc<ApiKey>>;

/// A key itself, which is forgotten with the answer.
#[derive(Debug)]
pub struct Presented {
    /// The key.
    pub key: Secret<String>,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// How long a key that Open WebUI does not have is taken for unknown without asking.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// How many of those are remembered.
const UNKNOWN: u64 = 10_000;

/// The API keys in use.
pub struct ApiKeys {
    keys: Arc<Watched<[u8; 32], Seen>>,
    unknown: Cache<[u8; 32], ()>,
    asking: Asking<Presented, Seen>,
}

/// A key with calls underway; while it is held, the key is looked at.
pub struct Pin {
    _key: Pinned<[u8; 32], Seen>,
}

/// Whether a credential has the form that Open WebUI gives its API keys: `sk-` and 32 hexadecimal digits.
pub fn looks_like_one(token: &str) -> bool {
    let digits = token.strip_prefix("sk-").unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl ApiKeys {
    /// Nothing known yet, and the questions that will be asked.
    pub fn new(max_stale: Duration) -> (Arc<Self>, mpsc::Receiver<Question>) {
        let (asking, asked) = Asking::new();
        let unknown = Cache::builder().max_capacity(UNKNOWN).time_to_live(UNKNOWN_FOR).build();
        (Arc::new(Self { keys: Watched::new(max_stale), unknown, asking }), asked)
    }

    /// From now on believed for this long, and asked of whoever has what is given back.
    pub fn renewed(&self, max_stale: Duration) -> mpsc::Receiver<Question> {
        self.keys.set_max_stale(max_stale);
        self.asking.renewed()
    }

    /// The caller with this key; waits only at its first sight.
    pub async fn caller(&self, users: &Users, key: &str, sha256: [u8; 32]) -> Result<Arc<Caller>, Refusal> {
        let key = self.get(key, sha256).await?;
        let seen = users.get(&key.user).await?;
        permitted(&key, active(seen.row.as_ref())?)?;
        let proof = Proof { expires: key.expires, api_key: Some(sha256), ..Proof::default() };
        Ok(Caller::new(seen.person()?, Scheme::ApiKey, proof))
    }

    /// The row of a key; waits only at its first sight.
    async fn get(&self, key: &str, sha256: [u8; 32]) -> Result<Arc<ApiKey>, Refusal> {
        let seen = match self.keys.get(&sha256) {
            Some(_) if self.keys.is_too_old() => {
                return Err(Reason::AccountUnknown.because("what is known of API keys is too old"));
            }
            Some(Some(seen)) => Some(seen),
            // Guesses cost one question each, and the same one again costs none. One that is gone may come back, with a
            // table that was away for a moment: it is asked about like one never seen.
            Some(None) | None if self.unknown.contains_key(&sha256) => None,
            Some(None) | None => self.ask(key, sha256).await?,
        };
        seen.ok_or_else(|| Reason::UnknownApiKey.refuse())
    }

    async fn ask(&self, key: &str, sha256: [u8; 32]) -> Result<Seen, Refusal> {
        let presented = Presented { key: Secret::new(key.to_owned()), sha256 };
        let seen =
            self.asking.ask(presented).await.map_err(|trouble| {
                Reason::AccountUnknown.because(format!("Open WebUI's database: {trouble}"))
            })?;
        if seen.is_none() {
            self.unknown.insert(sha256, ());
        }
        Ok(seen)
    }

    /// The row of a key used earlier; `None` when Open WebUI has it no more.
    pub fn peek(&self, sha256: &[u8; 32]) -> Seen {
        self.keys.get(sha256).flatten()
    }

    /// Keeps a key among those looked at again.
    pub fn pin(&self, sha256: &[u8; 32]) -> Pin {
        Pin { _key: self.keys.pin(*sha256) }
    }

    /// What is remembered, for the background task.
    pub fn keys(&self) -> &Watched<[u8; 32], Seen> {
        &self.keys
    }
}

/// Refuses a key that may not be used by this user now.
pub fn permitted(key: &ApiKey, user: &User) -> Result<(), Refusal> {
    if key.expires.is_some_and(|expires| expires <= jwt::now()) {
        return Err(Reason::Expired.because("the API key has expired"));
    }
    if !key.usage.is_on {
        return Err(Reason::ApiKeyNotAllowed.because("Open WebUI's settings have API keys switched off"));
    }
    if key.usage.is_restricted {
        // Which of its own endpoints a key is good for says nothing of ours.
        let cause = "Open WebUI's settings restrict API keys to some of its own endpoints";
        return Err(Reason::ApiKeyNotAllowed.because(cause));
    }
    match user.role {
        Role::Admin => Ok(()),
        Role::User if key.usage.is_permitted => Ok(()),
        Role::User | Role::Other => Err(Reason::ApiKeyNotAllowed
            .because("the user lacks the permission `features.api_keys` in Open WebUI")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        names::Email,
        store::{api_keys::Usage, openwebui::SecondFactor},
    };

    const KEY: &str = "sk-0123456789abcdef0123456789abcdef";

    fn key(usage: Usage, expires: Option<i64>) -> ApiKey {
        ApiKey { row: "key_jane".into(), sha256: [7; 32], user: "jane".into(), expires, usage }
    }

    #[track_caller]
    fn check(usage: Usage, expires: Option<i64>, role: Role, expected: Option<&str>) {
        let user = User {
            id: "jane".into(),
            email: Email::parse("jane@x.org").unwrap(),
            role,
            is_active: true,
            session_stamp: None,
            second_factor: SecondFactor::default(),
            groups: Vec::new(),
        };
        let refused = permitted(&key(usage, expires), &user).err();
        assert_eq!(refused.as_ref().map(|refusal| refusal.why().unwrap()), expected, "{usage:?} {role:?}");
    }

    #[test]
    fn a_key_may_be_used_where_open_webui_lets_its_user_use_keys() {
        let on = Usage { is_on: true, ..Usage::default() };
        let permitted = Usage { is_permitted: true, ..on };
        let no = Some("api_key_not_allowed");
        check(permitted, None, Role::User, None);
        check(on, None, Role::User, no);
        check(on, None, Role::Admin, None);
        check(permitted, None, Role::Other, no);
        check(Usage { is_on: false, ..permitted }, None, Role::Admin, no);
        check(Usage { is_restricted: true, ..permitted }, None, Role::Admin, no);
        check(permitted, Some(jwt::now() + 60), Role::User, None);
        check(permitted, Some(jwt::now()), Role::Admin, Some("expired"));
    }

    #[test]
    fn only_what_open_webui_would_make_looks_like_a_key() {
        assert!(looks_like_one(KEY));
        for other in
            ["sk-", &KEY[..34], &KEY.to_uppercase(), &KEY.replace('a', "g"), &format!("{KEY}0"), &KEY[3..]]
        {
            assert!(!looks_like_one(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_key_that_is_unknown_is_asked_about_once() {
        let (keys, mut asked) = ApiKeys::new(Duration::from_secs(3600));
        let answering = async {
            asked.recv().await.unwrap().asker.tell(None);
            asked
        };
        let (refused, asked) = tokio::join!(keys.get(KEY, [7; 32]), answering);
        assert_eq!(refused.unwrap_err().why(), Some("unknown_api_key"));
        drop(asked);
        assert_eq!(keys.get(KEY, [7; 32]).await.unwrap_err().why(), Some("unknown_api_key"), "asked again");
        assert_eq!(keys.get(KEY, [8; 32]).await.unwrap_err().why(), Some("account_unknown"));
    }

    #[tokio::test]
    async fn a_key_that_is_gone_is_asked_about_again_and_may_be_back() {
        let (keys, mut asked) = ApiKeys::new(Duration::from_secs(3600));
        keys.keys.remember([7; 32], None);
        assert!(keys.peek(&[7; 32]).is_none());
        let usage = Usage { is_on: true, ..Usage::default() };
        let answering = async { asked.recv().await.unwrap().asker.tell(Some(Arc::new(key(usage, None)))) };
        let (found, ()) = tokio::join!(keys.get(KEY, [7; 32]), answering);
        assert_eq!(found.unwrap().row, "key_jane");
    }

    proptest! {
        #[test]
        fn nothing_but_ascii_of_one_length_looks_like_a_key(text in "(sk-)?\\PC{0,40}") {
            prop_assert!(!looks_like_one(&text) || (text.is_ascii() && text.len() == KEY.len()));
        }
    }
}
