//! Callers who name each request, and know afterwards which of them were answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::Row;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
};

use crate::harness::{
    grants::{CALLER, STRANGER},
    load::apart,
    postgres::Database,
    request::post_with,
    tokens::email_token,
    wire::{Framing, Head, read_body},
};

/// Between two calls of one caller.
const EVERY: Duration = Duration::from_millis(10);

/// What became of requests, by their ids.
#[derive(Default)]
pub struct Log {
    pub asked: BTreeSet<String>,
    /// With the status.
    pub answered: BTreeMap<String, u16>,
}

/// Callers that never stop.
pub struct Calls {
    log: Arc<Mutex<Log>>,
    is_over: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Calls {
    /// So many callers of `alpha`, one in four of them somebody without a grant.
    pub fn begin(addresses: &[String], count: usize) -> Self {
        let (log, is_over) = (Arc::<Mutex<Log>>::default(), Arc::<AtomicBool>::default());
        let mut callers = JoinSet::new();
        let _apart = apart().enter();
        for number in 0..count {
            let address = addresses[number % addresses.len()].clone();
            let token = email_token(if number % 4 == 3 { STRANGER } else { CALLER });
            callers.spawn(call(address, token, number, log.clone(), is_over.clone()));
        }
        Self { log, is_over, callers }
    }

    /// How many were answered so far.
    pub fn answered(&self) -> usize {
        self.log.lock().unwrap().answered.len()
    }

    /// Begins no further call, and gives back what became of them.
    pub async fn end(mut self) -> Log {
        self.is_over.store(true, Ordering::Relaxed);
        while self.callers.join_next().await.is_some() {}
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

async fn call(address: String, token: String, number: usize, log: Arc<Mutex<Log>>, is_over: Arc<AtomicBool>) {
    let mut kept = None;
    for turn in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("call-{number}-{turn}");
        let lines = [format!("x-request-id: {id}"), "content-type: application/json".to_owned()];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let request = post_with("/alpha/search", &token, &lines, "{}");
        log.lock().unwrap().asked.insert(id.clone());
        if let Ok((status, connection)) = ask(&address, kept.take(), &request).await {
            log.lock().unwrap().answered.insert(id, status);
            kept = connection;
        }
        tokio::time::sleep(EVERY).await;
    }
}

type Connection = BufReader<TcpStream>;

/// The status of an answer that came as a whole, and the connection where it goes on.
async fn ask(
    address: &str,
    kept: Option<Connection>,
    request: &[u8],
) -> std::io::Result<(u16, Option<Connection>)> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => BufReader::new(TcpStream::connect(address).await?),
    };
    connection.write_all(request).await?;
    let head = Head::read(&mut connection).await?.ok_or_else(|| std::io::Error::other("closed"))?;
    let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    read_body(&mut connection, head.framing().unwrap_or(Framing::UntilClose)).await?;
    let goes_on = head.header("connection") != Some("close");
    Ok((status, goes_on.then_some(connection)))
}

/// Rows of the table, by the ids of their requests: how many there are, and the status in them.
pub async fn rows(database: &Database) -> BTreeMap<String, (i64, Option<i32>)> {
    let mut connection = database.connect().await;
    let rows = sqlx::query(
        "SELECT request_id, count(*), max(status_code) FROM api_analytics WHERE request_id LIKE 'call-%' GROUP BY 1",
    );
    let rows = rows.fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// What holds: a row for each answer, one and no more, with its status, and none of what nobody asked. Gives back a line
/// about it.
#[track_caller]
pub fn check(log: &Log, rows: &BTreeMap<String, (i64, Option<i32>)>) -> String {
    let lost: Vec<_> = log.answered.keys().filter(|id| !rows.contains_key(*id)).collect();
    let twice: Vec<_> = rows.iter().filter(|(_, (count, _))| *count != 1).collect();
    let unasked: Vec<_> = rows.keys().filter(|id| !log.asked.contains(*id)).collect();
    let others: Vec<_> = log
        .answered
        .iter()
        .filter(|(id, status)| rows.get(*id).is_some_and(|row| row.1 != Some(i32::from(**status))))
        .collect();
    let unanswered = rows.keys().filter(|id| !log.answered.contains_key(*id)).count();
    let told = format!(
        "{} asked, {} answered, {} rows: {} lost, {} twice, {} nobody asked, {} with another status, {unanswered} whose answer a \
         kill cut off",
        log.asked.len(),
        log.answered.len(),
        rows.len(),
        lost.len(),
        twice.len(),
        unasked.len(),
        others.len()
    );
    let first = |ids: &[&String]| ids.iter().take(3).map(|id| (*id).clone()).collect::<Vec<_>>();
    assert!(lost.is_empty(), "{told}; lost: {:?}", first(&lost));
    assert!(twice.is_empty(), "{told}; {:?}", &twice[..twice.len().min(3)]);
    assert!(unasked.is_empty() && others.is_empty(), "{told}; {:?}", first(&unasked));
    assert!(!log.answered.is_empty(), "{told}");
    told
}
