//! Listening for what a server says unasked.
//!
//! Decides how that is asked for in each era: a modern server has a question that is never answered but by what
//! changes, a legacy one a stream of the session.

use super::{
    Ask, Asker, Client, Filter,
    replies::Replies,
    spoken::Era,
    stopped::{Stopped, bad_answer},
    tries::Tries,
};
use crate::{
    mcp::{splice::quoted, told::Told},
    refusal::Refusal,
    upstream::{Destination, Way, native},
};

impl Filter {
    /// As the parameters of `subscriptions/listen` (MCP 2026-07-28, Subscriptions).
    fn params(&self) -> String {
        let flags = [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ];
        let wanted = flags.iter().filter(|(_, is_wanted)| *is_wanted);
        let mut wanted: Vec<String> = wanted.map(|(name, _)| format!(r#""{name}":true"#)).collect();
        if !self.uris.is_empty() {
            let uris: Vec<String> = self.uris.iter().map(|uri| quoted(uri)).collect();
            wanted.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
        }
        format!(r#"{{"notifications":{{{}}}}}"#, wanted.join(","))
    }
}

impl Client {
    /// What a server says unasked. It ends when the server ends it, or the session it belongs to; then listen again.
    /// A legacy server that says nothing unasked is silent; a modern one may say so with an error.
    pub async fn listen(&self, way: &Way, asker: &Asker, filter: &Filter) -> Result<Replies, Refusal> {
        let mut tries = Tries::new(way);
        loop {
            let destination = tries.next().await?;
            match self.try_listen(way, &destination, asker, filter).await {
                Ok(replies) => return Ok(replies),
                Err(stopped) => tries.note(stopped.harmless(), true)?,
            }
        }
    }

    async fn try_listen(
        &self,
        way: &Way,
        destination: &Destination,
        asker: &Asker,
        filter: &Filter,
    ) -> Result<Replies, Stopped> {
        match self.era(way, destination).await? {
            Era::Modern(version, _) => {
                let ask = Ask {
                    method: "subscriptions/listen".to_owned(),
                    params: Some(filter.params()),
                    asker: asker.clone(),
                    ..Ask::default()
                };
                self.try_modern(way, destination, &ask, &version, true).await
            }
            Era::Legacy => {
                let session = self.session(way, destination, asker).await?;
                let ended = || Stopped::Unrun(native::unknown_session("the session has ended"));
                let heard = session.listen().ok_or_else(ended)?;
                for uri in &filter.uris {
                    self.subscribe(way, asker, uri).await?;
                }
                Ok(Replies::unasked(session, heard))
            }
        }
    }

    /// Asks a legacy server to tell of changes of one resource, in the session that is listened to.
    async fn subscribe(&self, way: &Way, asker: &Asker, uri: &str) -> Result<(), Stopped> {
        let ask = Ask {
            method: "resources/subscribe".to_owned(),
            params: Some(format!(r#"{{"uri":{}}}"#, quoted(uri))),
            asker: asker.clone(),
            is_repeatable: true,
            ..Ask::default()
        };
        let mut replies = Box::pin(self.ask(way, &ask)).await?;
        loop {
            match replies.next().await? {
                Told::Result { .. } => return Ok(()),
                Told::Error { .. } => return Err(bad_answer("it takes no subscription").into()),
                Told::Notification { .. } | Told::Request { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_says_what_is_wanted_and_nothing_else() {
        let filter = Filter { tools: true, uris: vec!["a\"b".to_owned()], ..Filter::default() };
        assert_eq!(
            filter.params(),
            r#"{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a\"b"]}}"#
        );
        assert_eq!(Filter::default().params(), r#"{"notifications":{}}"#);
    }
}
