//! Open WebUI's Redis: which of its sessions were signed out of.
//!
//! Decides under which keys that stands and how their values are read. Never writes there, and never decides whether a
//! session is good: `identity` does. One Redis server is asked; clusters and sentinels are not followed.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};

use crate::names::Secret;

/// Keys asked for with one command.
const CHUNK: usize = 1_000;
/// How long a connection or an answer may take; below the longest wait at first sight.
const DEADLINE: Duration = Duration::from_secs(2);

/// Something Open WebUI notes to end sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mark {
    /// That the session with this `jti` was signed out of.
    Token(Box<str>),
    /// That all sessions of the user with this id were ended at some time.
    User(Box<str>),
}

/// The last second (since 1970) a session may have been issued in to be ended by a mark.
pub type Until = i64;

/// Open WebUI's Redis. Connects when it is first asked, and anew after every failure.
pub struct Redis {
    client: Client,
    prefix: String,
    connection: Option<MultiplexedConnection>,
}

impl Clone for Redis {
    /// The same Redis over a connection of its own, so that one who asks much holds up nobody else.
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), prefix: self.prefix.clone(), connection: None }
    }
}

impl Redis {
    /// Prepares a connection without making one. Open WebUI calls the prefix `REDIS_KEY_PREFIX`.
    pub fn open(url: &Secret<String>, prefix: &str) -> anyhow::Result<Self> {
        // What the crate says of a bad url may quote it, and there may be a password in it.
        let client = Client::open(url.expose().as_str()).ok().context("the url of Redis is not one")?;
        Ok(Self { client, prefix: prefix.to_owned(), connection: None })
    }

    /// For each of the marks until when it ends sessions; `None` where Open WebUI has set none.
    pub async fn read(&mut self, marks: &[Mark]) -> anyhow::Result<Vec<Option<Until>>> {
        let mut all = Vec::with_capacity(marks.len());
        for chunk in marks.chunks(CHUNK) {
            let read = tokio::time::timeout(DEADLINE, self.read_chunk(chunk)).await;
            match read {
                Ok(Ok(values)) => all.extend(values),
                failed => {
                    // After a failure nobody knows whose answer comes next.
                    self.connection = None;
                    return failed.unwrap_or_else(|_| bail!("no answer within {} s", DEADLINE.as_secs()));
                }
            }
        }
        Ok(all)
    }

    async fn read_chunk(&mut self, marks: &[Mark]) -> anyhow::Result<Vec<Option<Until>>> {
        let mut connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(DEADLINE))
                    .set_response_timeout(Some(DEADLINE));
                let connection = self.client.get_multiplexed_async_connection_with_config(&config);
                let connection = connection.await.map_err(|error| trouble(&error))?;
                self.connection.insert(connection).clone()
            }
        };
        let mut command = redis::cmd("MGET");
        for mark in marks {
            command.arg(self.key(mark));
        }
        let values: Vec<Option<Vec<u8>>> =
            command.query_async(&mut connection).await.map_err(|error| trouble(&error))?;
        ensure!(values.len() == marks.len(), "another number of values came than were asked for");
        Ok(marks.iter().zip(values).map(|(mark, value)| Some(mark.until(&value?))).collect())
    }

    fn key(&self, mark: &Mark) -> String {
        match mark {
            Mark::Token(jti) => format!("{}:auth:token:{jti}:revoked", self.prefix),
            Mark::User(id) => format!("{}:auth:user:{id}:revoked_at", self.prefix),
        }
    }
}

impl Mark {
    fn until(&self, value: &[u8]) -> Until {
        match self {
            Self::Token(_) => Until::MAX,
            // Open WebUI lets a session in where it cannot read this; somebody meant to end sessions.
            Self::User(_) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse::<f64>().ok())
                .filter(|time| time.is_finite())
                // A number too large for a time is the largest.
                .map_or(Until::MAX, |time| time.ceil() as Until),
        }
    }
}

/// What went wrong, in words that quote nothing of what was sent or received.
pub(super) fn trouble(error: &redis::RedisError) -> anyhow::Error {
    let code =
        error.code().filter(|code| code.len() <= 32 && code.bytes().all(|byte| byte.is_ascii_uppercase()));
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    anyhow::anyhow!("{}{code}", error.category())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mark: &Mark, key: &str, value: &[u8], until: Until) {
        let redis = Redis::open(&Secret::new("redis://127.0.0.1:1".into()), "open-webui").unwrap();
        assert_eq!((redis.key(mark).as_str(), mark.until(value)), (key, until));
    }

    #[test]
    fn marks_stand_where_open_webui_writes_them() {
        let token = Mark::Token("0b5c".into());
        check(&token, "open-webui:auth:token:0b5c:revoked", b"1", Until::MAX);
        check(&token, "open-webui:auth:token:0b5c:revoked", b"", Until::MAX);
        let user = Mark::User("jane".into());
        check(&user, "open-webui:auth:user:jane:revoked_at", b"1795000000", 1_795_000_000);
        check(&user, "open-webui:auth:user:jane:revoked_at", b"1795000000.5", 1_795_000_001);
        for unreadable in [&b"soon"[..], b"", b"\xff", b"inf", b"NaN", b"99999999999999999999"] {
            check(&user, "open-webui:auth:user:jane:revoked_at", unreadable, Until::MAX);
        }
    }

    #[test]
    fn a_url_that_is_none_is_not_quoted() {
        let url = Secret::new("redis://user:hunter2@:99999/x".to_owned());
        let error = Redis::open(&url, "").err().unwrap();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
