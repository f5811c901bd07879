//! Says when the gateway can be called: to the process it takes over from, to systemd, to the log.
//!
//! Decides when the listeners open: when grants are known, or soon without; or, where another process still answers, when
//! this one can do as well.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use async_trait::async_trait;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use sd_notify::NotifyState;
use tracing::info;

use super::{
    Begin, LastThings,
    door::{Stand, Stands},
    stopping::notify,
    upgrade::Predecessor,
};
use crate::{record::metrics::Metrics, snapshot::Current};

/// How long the listeners may take to answer after the start.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long the first reading of grants may hold up a process that starts alone: clients wait in the kernel's queue
/// meanwhile, which is better than a 503, but not for a database that is away.
const GRANTS_DEADLINE: Duration = Duration::from_secs(1);
/// How long the first reading of tool lists may hold up a process that takes over: a server may be away.
const LISTS_DEADLINE: Duration = Duration::from_secs(5);
/// Time between two looks whether it is so far.
const LOOK: Duration = Duration::from_millis(20);

/// Says when the gateway can be called, and ends the process if that does not come about.
pub struct Herald {
    /// The public listener and the ops listener.
    pub listening: [SocketAddr; 2],
    /// Whether the first speaks TLS.
    pub is_tls: bool,
    /// Set when they answer.
    pub is_listening: Arc<AtomicBool>,
    /// What is believed.
    pub current: Arc<Current>,
    /// Where it is counted that another process was relieved.
    pub metrics: Arc<Metrics>,
    /// What the listeners look at.
    pub stands: Stands,
    /// Who is to be relieved, and what is begun afterwards.
    pub once: Mutex<Option<(Option<Predecessor>, Option<Begin>)>>,
    /// Finished where the process has to end.
    pub last_things: LastThings,
}

#[async_trait]
impl BackgroundService for Herald {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let once = self.once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (predecessor, begin) = once.unwrap_or_default();
        if let Err(error) = self.open(predecessor).await {
            self.last_things.give_up(&error);
        }
        if let Some(begin) = begin {
            begin().await;
        }
    }
}

impl Herald {
    async fn open(&self, predecessor: Option<Predecessor>) -> anyhow::Result<()> {
        let relief = match predecessor {
            None => {
                drop(tokio::time::timeout(GRANTS_DEADLINE, self.know_grants()).await);
                None
            }
            Some(predecessor) => {
                self.know_grants().await;
                self.know_lists().await;
                let before = predecessor.attempts;
                let relief = predecessor.ask().await?;
                // Here, because nobody can ask the other one any more; and on from what it counted.
                let count = |outcome| self.metrics.upgrades.with_label_values(&[outcome]);
                count("handed_over").inc_by(before.handed_over + 1);
                count("failed").inc_by(before.failed);
                Some(relief)
            }
        };
        self.stands.go(Stand::Open);
        for address in self.listening {
            answers(address).await?;
        }
        self.is_listening.store(true, Ordering::Relaxed);
        if let Some(relief) = relief {
            relief.tell().await;
        }
        notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
        let [http, ops] = self.listening;
        let scheme = if self.is_tls { "https" } else { "http" };
        info!("listening on {scheme}://{http} (callers) and http://{ops} (metrics, readiness)");
        Ok(())
    }

    async fn know_grants(&self) {
        while !self.current.is_ready() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns when tool lists are read where they can be had, so that requests can be answered as well as by a process that
    /// has run for long.
    async fn know_lists(&self) {
        let all_read = async {
            while !self.has_read_all() {
                tokio::time::sleep(LOOK).await;
            }
        };
        drop(tokio::time::timeout(LISTS_DEADLINE, all_read).await);
    }

    fn has_read_all(&self) -> bool {
        let snapshot = self.current.load();
        let mut servers = snapshot.catalog.iter().filter(|server| server.is_enabled);
        servers.all(|server| snapshot.tools.get(server.id.as_str()).is_some())
    }
}

async fn answers(address: SocketAddr) -> anyhow::Result<()> {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        reachable.set_ip(loopback);
    }
    let dial = async {
        while tokio::net::TcpStream::connect(reachable).await.is_err() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(LISTEN_DEADLINE, dial).await.is_err() {
        bail!("nothing answers on `{address}` after {LISTEN_DEADLINE:?}; is the port taken?");
    }
    Ok(())
}
