//! A steady load of callers, who count what becomes of every call.
//!
//! Calls begin on time, whatever became of those before: a wait counts from when its call was due. What it costs is
//! little, so that hundreds a second can run beside the gateway on the same cores.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::wire::{Framing, Head, read_body};

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Answered with this status, and the `code` of a refusal.
    Answered(u16, String),
    /// No connection came about.
    NotConnected,
    /// The connection ended without a byte of an answer.
    Closed,
    /// The answer broke off, or is none.
    Broken(String),
    /// No answer, or no end of it, within the patience of the caller.
    TooLate,
}

/// How calls are made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// Whole requests, which take turns.
    pub requests: Vec<Vec<u8>>,
    /// Callers, each with a connection of its own.
    pub callers: usize,
    /// Between two calls of one caller.
    pub every: Duration,
    /// One call in so many is made on a new connection.
    pub anew: usize,
    /// How long a caller waits for an answer.
    pub patience: Duration,
}

impl Plan {
    /// 100 calls a second of 10 callers, one in ten on a new connection.
    pub fn of(address: String, requests: Vec<Vec<u8>>) -> Self {
        let (every, patience) = (Duration::from_millis(100), Duration::from_secs(10));
        Self { address, requests, callers: 10, every, anew: 10, patience }
    }

    /// Begins.
    pub fn start(self) -> Load {
        let (tally, is_over) = (Arc::new(Mutex::new(Tally::default())), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        let _apart = apart().enter();
        for number in 0..self.callers {
            let begins = Instant::now() + self.every.mul_f64(number as f64 / self.callers as f64);
            callers.spawn(call(self.clone(), number, begins, tally.clone(), is_over.clone()));
        }
        Load { tally, is_over, callers }
    }
}

/// A load that runs. It ends when this is dropped.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    is_over: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Load {
    /// What has been counted since the last time.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut self.tally.lock().unwrap())
    }

    /// Runs on for this long: what was counted meanwhile.
    pub async fn run_for(&self, span: Duration) -> Tally {
        self.take();
        tokio::time::sleep(span).await;
        self.take()
    }

    /// Begins no further call, and returns what was counted since the last time once those underway are over.
    pub async fn end(mut self) -> Tally {
        self.is_over.store(true, Ordering::Relaxed);
        while self.callers.join_next().await.is_some() {}
        self.take()
    }
}

/// What became of calls, and how long they took.
#[derive(Debug, Default)]
pub struct Tally {
    pub outcomes: BTreeMap<Outcome, usize>,
    pub waits: Vec<Duration>,
}

impl Tally {
    pub fn calls(&self) -> usize {
        self.outcomes.values().sum()
    }

    /// Calls that were not answered with this status.
    pub fn others_than(&self, status: u16) -> usize {
        let is_it = |outcome: &Outcome| matches!(outcome, Outcome::Answered(got, _) if *got == status);
        self.outcomes.iter().filter(|(outcome, _)| !is_it(outcome)).map(|(_, count)| count).sum()
    }

    /// Of this part of the calls none took longer (0.99).
    pub fn percentile(&self, part: f64) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let last = waits.len().saturating_sub(1);
        waits.get(((waits.len() as f64 * part) as usize).min(last)).copied().unwrap_or_default()
    }

    /// Fails unless each was answered with 200.
    #[track_caller]
    pub fn none_failed(&self, what: &str) {
        assert_eq!(self.others_than(200), 0, "{what}: calls that should have worked did not: {self}");
    }

    /// Fails unless there were calls and each was answered with 200.
    #[track_caller]
    pub fn all_worked(&self, what: &str) {
        assert!(self.calls() > 0, "{what}: nobody called");
        self.none_failed(what);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, last) = (self.percentile(0.5), self.percentile(0.99));
        write!(f, "{} calls, p50 {median:.1?}, p99 {last:.1?}: {:?}", self.calls(), self.outcomes)
    }
}

/// A thread that does nothing else: what a test does meanwhile, however much, is no part of what is measured.
pub fn apart() -> &'static Runtime {
    static APART: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    &APART
}

/// One caller.
async fn call(
    plan: Plan,
    number: usize,
    begins: Instant,
    tally: Arc<Mutex<Tally>>,
    is_over: Arc<AtomicBool>,
) {
    let mut due = tokio::time::interval_at(begins, plan.every);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut kept = None;
    for turn in number.. {
        let began = due.tick().await;
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        if turn % plan.anew == 0 {
            kept = None;
        }
        let request = &plan.requests[turn % plan.requests.len()];
        let asked = ask(&plan.address, &mut kept, request);
        let outcome = match tokio::time::timeout(plan.patience, asked).await {
            Ok(outcome) => outcome,
            Err(_) => {
                kept = None;
                Outcome::TooLate
            }
        };
        let mut tally = tally.lock().unwrap();
        *tally.outcomes.entry(outcome).or_default() += 1;
        tally.waits.push(began.elapsed());
    }
}

/// One call, on the connection that is kept or on a new one.
async fn ask(address: &str, kept: &mut Option<BufReader<TcpStream>>, request: &[u8]) -> Outcome {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => match TcpStream::connect(address).await {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                BufReader::new(socket)
            }
            Err(_) => return Outcome::NotConnected,
        },
    };
    if connection.write_all(request).await.is_err() {
        return Outcome::Closed;
    }
    let head = match Head::read(&mut connection).await {
        Ok(Some(head)) => head,
        Ok(None) => return Outcome::Closed,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Outcome::Closed,
        Err(error) => return Outcome::Broken(error.to_string()),
    };
    let Some(status) = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()) else {
        return Outcome::Broken(head.first_line);
    };
    let body = match read_body(&mut connection, head.framing().unwrap_or(Framing::UntilClose)).await {
        Ok(body) => body,
        Err(error) => return Outcome::Broken(error.to_string()),
    };
    if head.header("connection") != Some("close") {
        *kept = Some(connection);
    }
    Outcome::Answered(status, if status == 200 { String::new() } else { code_of(&body) })
}

fn code_of(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let code = body.pointer("/code").or_else(|| body.pointer("/error/data/code"));
    code.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn calls_are_counted_by_what_became_of_them() {
    use super::{
        fake_peer::{Behaviour, FakePeer},
        request::post,
        wire::answer,
    };
    let refusal = answer("403 Forbidden", "application/json", br#"{"code":"not_granted"}"#);
    let peer = FakePeer::start().await.with_json("good", serde_json::json!(1));
    let peer = peer.with_tool("no", Behaviour::Answer(refusal)).with_tool("gone", Behaviour::HangUpAfterBody);
    let peer = peer.with_tool(
        "half",
        Behaviour::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1".to_vec()),
    );
    let peer = peer.with_tool("never", Behaviour::Stall);
    let requests = ["/good", "/no", "/gone", "/half", "/never"].map(|path| post(path, "", "{}")).to_vec();
    let plan = Plan { callers: 1, every: Duration::from_millis(5), ..Plan::of(peer.address(), requests) };
    let load = Plan { patience: Duration::from_millis(50), anew: 1000, ..plan }.start();
    peer.arrived(10).await;
    let tally = load.end().await;
    for outcome in [
        Outcome::Answered(200, String::new()),
        Outcome::Answered(403, "not_granted".to_owned()),
        Outcome::Closed,
        Outcome::TooLate,
    ] {
        assert!(tally.outcomes.contains_key(&outcome), "no {outcome:?} among {tally}");
    }
    assert!(tally.outcomes.keys().any(|outcome| matches!(outcome, Outcome::Broken(_))), "{tally}");
    assert!(
        tally.others_than(200) < tally.calls() && tally.percentile(0.99) >= Duration::from_millis(50),
        "{tally}"
    );
    drop(peer);
}
