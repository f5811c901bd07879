//! Bodies of answers that must be edited on their way to the client: lists of tools, and where messages go.
//!
//! Decides what is held until it can be judged, and for how long: a JSON body to its end, an event to its blank line.
//! Never changes what it was not asked to: untouched events, comments and keep-alives go on at once, byte for byte.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use url::Url;

use super::{
    sse::{Event, Splitter, TooLong},
    tool_list::{Unreadable, narrow},
};

/// What is edited.
#[derive(Default)]
pub struct Edit {
    /// Which tools may be seen; without it lists are not looked at.
    pub allows: Option<Box<dyn Fn(&str) -> bool + Send + Sync>>,
    /// What stands for the message endpoint that a legacy HTTP+SSE server names; none where it may not be called.
    pub endpoint: Option<Box<dyn Fn(&str) -> Option<String> + Send + Sync>>,
}

/// How the body is made up, as its `Content-Type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `application/json`: one message or a batch.
    Json,
    /// `text/event-stream`: a message in each event.
    Events,
}

/// A body on its way to the client.
pub struct Answer {
    edit: Edit,
    bound: usize,
    held: Held,
}

enum Held {
    Json(BytesMut),
    Events(Splitter),
}

impl Answer {
    /// A new body, of which no more than `bound` bytes are held at a time.
    pub fn new(kind: Kind, bound: usize, edit: Edit) -> Self {
        let held = match kind {
            Kind::Json => Held::Json(BytesMut::new()),
            Kind::Events => Held::Events(Splitter::new(bound)),
        };
        Self { edit, bound, held }
    }

    /// Turns the next bytes of the server into those for the client. After an error nothing more may go out: the
    /// client's answer ends there.
    pub fn feed(&mut self, chunk: &[u8], is_end: bool) -> Result<Bytes, Unreadable> {
        match &mut self.held {
            Held::Json(held) => {
                if held.len() + chunk.len() > self.bound {
                    return Err(Unreadable("an answer to be looked at is longer than the gateway holds"));
                }
                held.extend_from_slice(chunk);
                if !is_end {
                    return Ok(Bytes::new());
                }
                let body = held.split().freeze();
                let narrowed = self.edit.narrowed(&String::from_utf8_lossy(&body))?;
                Ok(narrowed.map_or(body, Bytes::from))
            }
            Held::Events(splitter) => {
                splitter.feed(chunk);
                if is_end {
                    splitter.end();
                }
                let mut output = BytesMut::new();
                while let Some(event) = splitter.next_event()? {
                    output.extend_from_slice(&self.edit.event(&event)?);
                }
                Ok(output.freeze())
            }
        }
    }
}

impl From<TooLong> for Unreadable {
    fn from(_: TooLong) -> Self {
        Unreadable("an event to be looked at is longer than the gateway holds")
    }
}

impl Edit {
    fn narrowed(&self, message: &str) -> Result<Option<String>, Unreadable> {
        self.allows.as_ref().map_or(Ok(None), |allows| narrow(message, allows))
    }

    fn event<'e>(&self, event: &'e Event) -> Result<Cow<'e, [u8]>, Unreadable> {
        let Some(data) = event.data() else { return Ok(Cow::Borrowed(event.raw())) };
        let edited = match &self.endpoint {
            Some(endpoint) if event.name() == Some("endpoint") => {
                let foreign = Unreadable("the server named a message endpoint that is not its own");
                Some(endpoint(&data).ok_or(foreign)?)
            }
            _ => self.narrowed(&data)?,
        };
        Ok(edited.map_or(Cow::Borrowed(event.raw()), |data| Cow::Owned(event.with_data(&data))))
    }
}

/// The message endpoint that a legacy HTTP+SSE server names in its stream, as path and query (MCP 2024-11-05,
/// Transports, HTTP with SSE). None where it is not at the origin of the stream itself.
pub fn resolve_endpoint(stream: &Url, data: &str) -> Option<String> {
    let data = data.trim_matches(' ');
    // Not what a URL may hold, and dropped or turned into something else by those who read it nevertheless.
    if data.is_empty()
        || data.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '\\' | '#'))
    {
        return None;
    }
    let endpoint = stream.join(data).ok()?;
    let has_user = !endpoint.username().is_empty() || endpoint.password().is_some();
    if has_user || endpoint.origin() != stream.origin() {
        return None;
    }
    Some(endpoint[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}
