//! Streams of events, each of which says when it was sent, so that whoever reads it knows how long it was underway.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How many events, and how far apart; also the arguments of the tool that sends them.
#[derive(Deserialize)]
#[serde(default)]
pub struct Pace {
    count: usize,
    micros: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { count: 10, micros: 50_000 }
    }
}

impl Pace {
    pub fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// How an event is worded.
enum Words {
    Plain,
    /// A notification of progress, for this token.
    Progress(String),
}

/// The events that are still to be sent.
pub struct Events {
    left: usize,
    pause: Duration,
    /// None before the first event, which goes out at once: the timer would round it up to a millisecond.
    ticks: Option<Interval>,
    words: Words,
    /// What comes after the last of them.
    end: End,
}

enum End {
    /// The stream ends.
    Over,
    /// One more event, and then the stream ends.
    Last(Bytes),
    /// Nothing, until the other side hangs up.
    Silence,
}

/// Nanoseconds of the clock that `time.monotonic_ns()` of Python reads, too.
fn now() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

impl Events {
    fn new(pace: &Pace, words: Words, end: End) -> Self {
        Self { left: pace.count, pause: Duration::from_micros(pace.micros.max(1)), ticks: None, words, end }
    }

    pub fn plain(pace: Pace) -> Self {
        Self::new(&pace, Words::Plain, End::Over)
    }

    /// Progress of a call, and in the end its answer.
    pub fn of_call(pace: Pace, token: &str, answer: Bytes) -> Self {
        Self::new(&pace, Words::Progress(token.to_owned()), End::Last(answer))
    }

    /// One event, and then nothing.
    pub fn idle() -> Self {
        Self::new(&Pace { count: 1, micros: 1 }, Words::Plain, End::Silence)
    }

    fn event(&self) -> Bytes {
        let sent = now();
        match &self.words {
            Words::Plain => format!("data: {{\"sent\":{sent}}}\n\n").into(),
            Words::Progress(token) => format!(
                "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":\
                 {{\"progressToken\":{token},\"progress\":{sent}}}}}\n\n"
            )
            .into(),
        }
    }
}

/// A message of MCP as an event.
pub fn message(text: &str) -> Bytes {
    format!("event: message\ndata: {text}\n\n").into()
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return match std::mem::replace(&mut self.end, End::Over) {
                End::Over => Poll::Ready(None),
                End::Last(event) => Poll::Ready(Some(Ok(Frame::data(event)))),
                End::Silence => {
                    self.end = End::Silence;
                    Poll::Pending
                }
            };
        }
        if let Some(ticks) = &mut self.ticks {
            ready!(ticks.poll_tick(context));
        } else {
            let mut ticks = interval_at(Instant::now() + self.pause, self.pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            self.ticks = Some(ticks);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.event()))))
    }
}
