//! Both listeners of the process, from their sockets to what stands behind them, and who opens and closes them.
//!
//! Decides nothing about when: `door` says how the process stands, `herald` and `stopping` when that changes.

use std::{
    ffi::OsString,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
};

use anyhow::Context;
use pingora::{proxy::HttpProxy, server::Server, services::background::background_service};
use tokio::sync::Notify;

use super::{
    Begin, LastThings,
    door::{Door, Socket, Stand, Stands},
    drain::Drain,
    herald::Herald,
    shared::Shared,
    sockets::Inherited,
    stopping::StopSignals,
    upgrade::{Predecessor, Upgrade},
    watchdog::Watchdog,
    workers::Workers,
};
use crate::{
    gateway::{
        Settings,
        configured::Configured,
        ops::{Ops, OpsListener},
    },
    names::SecretKey,
};

/// Those that the public listener's connections are given to.
pub type PublicWorkers = Workers<HttpProxy<Configured>>;

/// The listening sockets, and whom they were taken over from.
pub struct Listeners {
    http: Socket,
    ops: Socket,
    /// How the process stands towards them.
    pub stands: Stands,
    predecessor: Option<Predecessor>,
    /// What sessions are sealed with where no key is configured. It goes on from process to process, so that sessions
    /// outlive an upgrade.
    pub own_key: SecretKey,
}

impl Listeners {
    /// Opens both, or takes them over.
    pub fn open(settings: &Settings, mut inherited: Inherited) -> anyhow::Result<Self> {
        let predecessor = inherited.predecessor.take().map(Predecessor::hear).transpose()?;
        let http = Socket::new(inherited.listen("listen.http", settings.http)?);
        let ops = Socket::new(inherited.listen("listen.ops", settings.ops)?);
        inherited.close_rest();
        let inherited = predecessor.as_ref().and_then(|before| before.session_key.clone());
        let own_key = inherited.map_or_else(SecretKey::random, Ok)?;
        Ok(Self { http, ops, stands: Stands::new(), predecessor, own_key })
    }

    /// What the process does when it is told to stop or to hand over.
    pub fn signals(
        &self,
        configured: &Configured,
        shared: &Shared,
        (hang_up, command_line): (Arc<Notify>, Option<(OsString, Vec<OsString>)>),
        (workers, last_things): (&Arc<PublicWorkers>, &LastThings),
    ) -> StopSignals<HttpProxy<Configured>> {
        let sockets = vec![self.http.clone(), self.ops.clone()];
        let drain = Drain {
            recorder: shared.recorder.clone(),
            last_things: last_things.clone(),
            public: self.http.clone(),
            workers: workers.clone(),
            grace: configured.now().settings.shutdown_grace,
            successor: OnceLock::new(),
        };
        let upgrade =
            command_line.map(|command_line| Upgrade::new(command_line, sockets, self.own_key.clone()));
        let (stands, leaving) = (self.stands.clone(), shared.leaving.clone());
        let levels = shared.levels.clone();
        StopSignals { configured: configured.clone(), hang_up, levels, stands, leaving, upgrade, drain }
    }

    /// Adds what serves them to the server, with what is begun once they answer.
    pub fn add_to(
        self,
        server: &mut Server,
        settings: &Settings,
        (workers, mut watchdog): (Arc<PublicWorkers>, Watchdog),
        shared: &Shared,
        (begin, last_things): (Option<Begin>, &LastThings),
    ) -> anyhow::Result<()> {
        let Self { http, ops: private, stands, predecessor, .. } = self;
        let (recorder, current) = (shared.recorder.clone(), shared.current.clone());
        let is_listening = Arc::new(AtomicBool::new(false));
        let herald = Herald {
            listening: [settings.http, settings.ops],
            is_tls: settings.tls.is_some(),
            is_listening: is_listening.clone(),
            current: current.clone(),
            metrics: recorder.metrics.clone(),
            stands: stands.clone(),
            once: Mutex::new(Some((predecessor, begin))),
            last_things: last_things.clone(),
        };
        let ops = OpsListener::new(Ops {
            recorder,
            current,
            is_listening,
            levels: shared.levels.clone(),
            scraping: Mutex::new(()),
        });
        let (leaves, closes) = (Stand::Leaving, Stand::Closed);
        let pulse = watchdog.pulse("listen.http", closes);
        let public = Door { socket: http, host: workers, stands: stands.clone(), leaves, closes, pulse };
        let (leaves, closes) = (Stand::HandedOver, Stand::HandedOver);
        let pulse = watchdog.pulse("listen.ops", closes);
        let private = Door { socket: private, host: Arc::new(ops), stands, leaves, closes, pulse };
        server.add_service(background_service("herald", herald));
        server.add_service(background_service("gateway", public));
        server.add_service(background_service("ops", private));
        watchdog.start().context("cannot start the watchdog's thread")
    }
}
