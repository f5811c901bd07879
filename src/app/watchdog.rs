//! The pings that systemd waits for (`WatchdogSec`): where they stop it ends the gateway and starts it anew.
//!
//! Decides whether the gateway moves: both listeners, and each thread that serves. It runs on a thread of its own, because
//! what hangs cannot say so. Never asks anybody outside the process: a gateway that is full, or whose database or servers
//! are away, is not mended by a restart.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use sd_notify::NotifyState;
use tracing::{error, info};

use super::{
    door::{Stand, Stands},
    stopping::notify,
};

/// Looks in the time that systemd waits for a ping.
const LOOKS: u32 = 4;
/// Looks in a row without a move that are no chance any more: half of the time that systemd waits.
const PATIENCE: u32 = 2;

/// What a listener, or a thread behind it, shows of itself: that it comes to its turn.
pub struct Pulse {
    of: Beating,
    /// Time between two beats; none where nobody looks.
    period: Option<Duration>,
    beats: AtomicU64,
    stand: Stands,
    /// From here on it is not expected to beat.
    ends: Stand,
}

impl Pulse {
    /// Beats as long as it is waited for; to be waited for by the task whose pulse it is, and nowhere else.
    pub async fn beat(&self) {
        let Some(period) = self.period else { return std::future::pending().await };
        let mut beats = tokio::time::interval(period);
        loop {
            beats.tick().await;
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Looks at the listeners, and tells systemd.
pub struct Watchdog {
    /// How long systemd waits for a ping; none: for ever.
    within: Option<Duration>,
    stands: Stands,
    pulses: Vec<Arc<Pulse>>,
}

impl Watchdog {
    /// One that looks as often as systemd wants it.
    pub fn of_process(stands: &Stands) -> Self {
        Self { within: sd_notify::watchdog_enabled(), stands: stands.clone(), pulses: Vec::new() }
    }

    /// A listener's pulse. It is not missed once the process has come to the stand at which that listener closes.
    pub fn pulse(&mut self, name: &'static str, ends: Stand) -> Arc<Pulse> {
        self.pulse_of(Beating::Listener(name), ends)
    }

    /// The pulse of a thread that serves: it does so as long as there is anything to serve.
    pub fn worker_pulse(&mut self, index: usize) -> Arc<Pulse> {
        self.pulse_of(Beating::Worker(index), Stand::HandedOver)
    }

    fn pulse_of(&mut self, of: Beating, ends: Stand) -> Arc<Pulse> {
        let pulse = Pulse {
            of,
            period: self.within.map(|within| within / LOOKS / 2),
            beats: AtomicU64::new(0),
            stand: self.stands.clone(),
            ends,
        };
        let pulse = Arc::new(pulse);
        self.pulses.push(pulse.clone());
        pulse
    }

    /// Begins, where systemd wants it.
    pub fn start(self) -> anyhow::Result<()> {
        let Some(within) = self.within else { return Ok(()) };
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || self.watch(within))?;
        Ok(())
    }

    /// Pings until another process has taken over: a process that drains must not speak for that one.
    #[expect(clippy::disallowed_methods, reason = "a thread of its own, on which no request waits")]
    fn watch(&self, within: Duration) {
        let mut looks: Vec<Look> = self.pulses.iter().cloned().map(Look::new).collect();
        let mut has_told = false;
        loop {
            thread::sleep(within / LOOKS);
            match self.stands.now() {
                Stand::Waiting => continue,
                Stand::HandedOver => return,
                Stand::Open | Stand::Leaving | Stand::Closed => {}
            }
            // All of them, so that each is compared with its own last look.
            let hanging: Vec<Beating> = looks.iter_mut().filter_map(Look::again).collect();
            let Some(first) = hanging.first() else {
                if std::mem::take(&mut has_told) {
                    info!("watchdog: everything moves again");
                }
                notify(&[NotifyState::Watchdog]);
                continue;
            };
            if !std::mem::replace(&mut has_told, true) {
                let seconds = (within / LOOKS * PATIENCE).as_secs_f32();
                error!(
                    "watchdog: {first} has not moved for {seconds} s; systemd is not told any more that the gateway is \
                     well, and will end it and start another"
                );
            }
        }
    }
}

/// What has a pulse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beating {
    Listener(&'static str),
    Worker(usize),
}

impl fmt::Display for Beating {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(name) => write!(formatter, "the listener `{name}`"),
            Self::Worker(index) => write!(formatter, "thread {index} behind the listener `listen.http`"),
        }
    }
}

/// A pulse as it was seen last, and how often in a row it was seen so.
struct Look {
    pulse: Arc<Pulse>,
    beats: (u64, u32),
}

impl Look {
    fn new(pulse: Arc<Pulse>) -> Self {
        Self { pulse, beats: (0, 0) }
    }

    /// Looks once more, and says what hangs.
    fn again(&mut self) -> Option<Beating> {
        if self.pulse.stand.now() >= self.pulse.ends {
            return None;
        }
        let now = self.pulse.beats.load(Ordering::Relaxed);
        self.beats = if now == self.beats.0 { (now, self.beats.1 + 1) } else { (now, 0) };
        (self.beats.1 >= PATIENCE).then_some(self.pulse.of)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "what is looked at runs on other threads")]

    use std::sync::mpsc;

    use super::*;

    /// A thread that serves, and a look at it.
    fn serving(index: usize) -> (tokio::runtime::Runtime, Stands, Look) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stands = Stands::new();
        stands.go(Stand::Open);
        let mut watchdog =
            Watchdog { within: Some(Duration::from_millis(800)), stands: stands.clone(), pulses: vec![] };
        let pulse = watchdog.worker_pulse(index);
        let look = Look::new(pulse.clone());
        runtime.spawn(async move { pulse.beat().await });
        (runtime, stands, look)
    }

    /// Looks until `is_so`, for ten seconds at most; says what was seen last.
    fn look_until(look: &mut Look, is_so: impl Fn(&Option<Beating>) -> bool) -> Option<Beating> {
        let mut seen = look.again();
        for _ in 0..50 {
            if is_so(&seen) {
                break;
            }
            thread::sleep(Duration::from_millis(200));
            seen = look.again();
        }
        seen
    }

    #[test]
    fn a_thread_that_comes_to_its_turn_is_well_whether_busy_or_idle() {
        let (runtime, _stands, mut look) = serving(0);
        look_until(&mut look, Option::is_none);
        // Never idle, and never long in one turn.
        runtime.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        // Not closer together: a busy machine may let all of its threads wait for a moment.
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(200));
            assert_eq!(look.again(), None);
        }
    }

    #[test]
    fn one_thread_that_hangs_is_seen_though_the_others_go_on_and_is_well_when_it_goes_on() {
        let (_well, _stands, mut well) = serving(0);
        let (runtime, _other_stands, mut look) = serving(1);
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn(async move { released.recv().unwrap_or_default() });
        assert_eq!(look_until(&mut look, Option::is_some), Some(Beating::Worker(1)));
        assert_eq!(look_until(&mut well, Option::is_none), None);
        drop(release);
        assert_eq!(look_until(&mut look, Option::is_none), None);
    }

    #[test]
    fn a_listener_that_never_comes_to_its_turn_is_seen_until_it_is_to_close() {
        let stands = Stands::new();
        let mut watchdog =
            Watchdog { within: Some(Duration::from_secs(1)), stands: stands.clone(), pulses: vec![] };
        let mut look = Look::new(watchdog.pulse("listen.http", Stand::Closed));
        stands.go(Stand::Leaving);
        let seen = [look.again(), look.again(), look.again()];
        assert_eq!(
            seen,
            [None, Some(Beating::Listener("listen.http")), Some(Beating::Listener("listen.http"))]
        );
        stands.go(Stand::Closed);
        assert_eq!(look.again(), None);
    }
}
