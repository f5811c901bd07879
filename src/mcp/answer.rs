//! Bodies of answers that must be edited on their way to the client: lists of tools, and where messages go.
//!
//! Decides what is held until it can be judged, and for how long: a JSON body to its end, an event to its blank line.
//! Never changes what it was not asked to: untouched events, comments and keep-alives go on at once, byte for byte.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use url::Url;

use super::{
    Unreadable,
    sse::{Event, Splitter, TooLong},
    tool_list::narrow,
};

/// Says whether a tool may be seen, by its name and the definition as the server wrote it.
pub type Allows = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;
/// Says what stands for a message endpoint.
pub type Endpoint = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What is edited.
#[derive(Default)]
pub struct Edit {
    /// Which tools may be seen; without it lists are not looked at.
    pub allows: Option<Allows>,
    /// What stands for the message endpoint that a legacy HTTP+SSE server names; none where it may not be called.
    pub endpoint: Option<Endpoint>,
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
            Some(endpoint) if event.name().as_deref() == Some("endpoint") => {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &str = r#"{"id":1,"result":{"tools":[{"name":"a"},{"name":"no"}]}}"#;
    const NARROWED: &str = r#"{"id":1,"result":{"tools":[{"name":"a"}]}}"#;

    fn edit() -> Edit {
        Edit {
            allows: Some(Box::new(|name, _| name != "no")),
            endpoint: Some(Box::new(|data| data.strip_prefix('/').map(|path| format!("/gateway/{path}")))),
        }
    }

    /// What the client gets of a body that arrives in these pieces.
    fn fed(kind: Kind, bound: usize, edit: Edit, pieces: &[&[u8]]) -> Result<Vec<u8>, Unreadable> {
        let mut answer = Answer::new(kind, bound, edit);
        let mut output = Vec::new();
        for piece in pieces {
            output.extend_from_slice(&answer.feed(piece, false)?);
        }
        output.extend_from_slice(&answer.feed(b"", true)?);
        Ok(output)
    }

    #[track_caller]
    fn check(kind: Kind, body: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
        let (body, expected) = (body.as_ref(), expected.as_ref());
        for size in [1, 2, 3, 7, body.len().max(1)] {
            let pieces: Vec<&[u8]> = body.chunks(size).collect();
            let output = fed(kind, 1000, edit(), &pieces).unwrap();
            assert_eq!(String::from_utf8_lossy(&output), String::from_utf8_lossy(expected));
            assert_eq!(output, expected);
        }
    }

    #[test]
    fn a_json_body_is_narrowed_as_a_whole() {
        check(Kind::Json, LIST, NARROWED);
        check(Kind::Json, b"{\"result\":{\"content\":\"\xff\"}} ", b"{\"result\":{\"content\":\"\xff\"}} ");
        check(Kind::Json, "", "");
        // Clients replace what is not UTF-8, and find tools.
        let latin_1 = b"{\"result\":{\"tools\":[{\"name\":\"\xe9t\"},{\"name\":\"no\"}]}}";
        check(Kind::Json, latin_1, "{\"result\":{\"tools\":[{\"name\":\"\u{fffd}t\"}]}}");
    }

    #[test]
    fn only_data_with_lists_changes_in_a_stream() {
        check(
            Kind::Events,
            format!(
                "id: 1\nretry: 5\ndata:\n\n: ping\r\n\r\nid: 2\nevent: message\ndata: {LIST}\n\ndata: {{\"x\":1}}\r\rdata: cut"
            ),
            format!(
                "id: 1\nretry: 5\ndata:\n\n: ping\r\n\r\nid: 2\nevent: message\ndata: {NARROWED}\n\ndata: {{\"x\":1}}\r\r"
            ),
        );
        let in_lines = LIST.replace(',', ",\ndata: ");
        check(
            Kind::Events,
            format!("data: {in_lines}\n\n"),
            format!("data: {NARROWED}\n:\n:\n\n").replace(":1,", ":1,\ndata: "),
        );
        check(
            Kind::Events,
            "event: endpoint\ndata: /m?s=1\n\ndata: /m\n\n",
            "event: endpoint\ndata: /gateway/m?s=1\n\ndata: /m\n\n",
        );
    }

    #[test]
    fn an_event_goes_on_with_its_last_byte() {
        let mut answer = Answer::new(Kind::Events, 100, edit());
        let event = b": keep-alive\n\n";
        let (last, before) = event.split_last().unwrap();
        assert!(answer.feed(before, false).unwrap().is_empty());
        assert_eq!(answer.feed(&[*last], false).unwrap(), &event[..]);
    }

    #[test]
    fn what_is_not_to_be_edited_passes() {
        let body = format!("event: endpoint\ndata: {LIST}\n\n");
        assert_eq!(fed(Kind::Events, 1000, Edit::default(), &[body.as_bytes()]).unwrap(), body.as_bytes());
        assert_eq!(fed(Kind::Json, 1000, Edit::default(), &[LIST.as_bytes()]).unwrap(), LIST.as_bytes());
    }

    #[test]
    fn what_cannot_be_judged_ends_the_answer() {
        let refused =
            |kind, body: &str| assert!(fed(kind, 60, edit(), &[body.as_bytes()]).is_err(), "{body}");
        refused(Kind::Events, "event: endpoint\ndata: http://elsewhere/\n\n");
        refused(Kind::Events, "data: {\"result\":{\"tools\":[{}]}}\n\n");
        refused(Kind::Events, &format!(": {}", "x".repeat(60)));
        refused(Kind::Json, &" ".repeat(61));
        assert!(fed(Kind::Json, 60, edit(), &[b" ".repeat(60).as_slice()]).is_ok());
    }

    #[test]
    fn a_message_endpoint_is_path_and_query_at_the_origin_of_the_stream() {
        let stream = Url::parse("http://peer:8000/servers/time/sse").unwrap();
        for (data, expected) in [
            ("/messages/?session_id=0a", Some("/messages/?session_id=0a")),
            (" /message?sessionId=b ", Some("/message?sessionId=b")),
            ("messages/?session_id=c", Some("/servers/time/messages/?session_id=c")),
            ("?s=1", Some("/servers/time/sse?s=1")),
            ("../m", Some("/servers/m")),
            ("/a/../../b/./c", Some("/b/c")),
            ("http://peer:8000/m?s=1", Some("/m?s=1")),
            ("HTTP://PEER:8000/m", Some("/m")),
            ("//peer:8000/m", Some("/m")),
            ("http://peer:8000", Some("/")),
            ("/caf\u{e9}?q=\u{e9}", Some("/caf%C3%A9?q=%C3%A9")),
            ("", None),
            ("http://peer/m", None),
            ("https://peer:8000/m", None),
            ("http://peer:8000.evil.example/m", None),
            ("//evil.example/m", None),
            ("\\\\evil.example/m", None),
            ("/\\evil.example/m", None),
            ("http:evil.example", Some("/servers/time/evil.example")),
            ("http://user@peer:8000/m", None),
            ("http://:word@peer:8000/m", None),
            ("http://peer:8000@evil.example/m", None),
            ("/m#x", None),
            ("#", None),
            ("/m\n/n", None),
            ("/m\t", None),
            ("/a b", None),
            ("javascript:alert(1)", None),
            ("data:,x", None),
            ("http://", None),
        ] {
            assert_eq!(resolve_endpoint(&stream, data).as_deref(), expected, "{data:?}");
        }
        let stream = Url::parse("https://peer/sse?key=x").unwrap();
        assert_eq!(resolve_endpoint(&stream, "https://peer:443/m").as_deref(), Some("/m"));
    }

    proptest! {
        #[test]
        fn an_endpoint_can_be_sent_as_it_is(data in "[/?.:@%a-c\u{e9}|\"<{\\[]{1,20}") {
            let stream = Url::parse("http://peer:8000/sse").unwrap();
            if let Some(target) = resolve_endpoint(&stream, &data) {
                prop_assert!(target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()), "{}", target);
                prop_assert!(target.parse::<http::uri::PathAndQuery>().is_ok(), "{}", target);
            }
        }

        #[test]
        fn a_body_does_not_depend_on_how_it_is_cut(
            lines in proptest::collection::vec(prop_oneof![Just(LIST), Just("x"), Just("event: endpoint"), Just("data: /m"), Just("")], 0..12),
            size in 1_usize..50, is_stream in any::<bool>(),
        ) {
            let body: String = lines.iter().map(|line| if *line == LIST { format!("data: {LIST}\n") } else { format!("{line}\n") }).collect();
            let kind = if is_stream { Kind::Events } else { Kind::Json };
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
            prop_assert_eq!(fed(kind, 500, edit(), &pieces), fed(kind, 500, edit(), &[body.as_bytes()]));
        }
    }
}
