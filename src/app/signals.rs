//! The signals that the gateway listens for, and what each of them asks of it.
//!
//! Decides what a signal means, not what is done about it: that depends on how the process stands (`stopping`, `drain`).

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for. `name` is the signal's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To end when the work is done (SIGTERM, SIGQUIT).
    Stop { name: &'static str },
    /// To end now (SIGINT).
    End,
    /// To read the configuration again (SIGHUP).
    Reload,
    /// To have another process take over (SIGUSR2).
    HandOver,
    /// To say more, or no more than before (SIGUSR1).
    Louder,
}

impl Asked {
    /// The signal's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop { name } => name,
            Self::End => "SIGINT",
            Self::Reload => "SIGHUP",
            Self::HandOver => "SIGUSR2",
            Self::Louder => "SIGUSR1",
        }
    }
}

/// From now on SIGUSR1 ends this process no more, though nobody listens yet: it asks for lines of a log, and may come at any
/// time. What is registered with a runtime stays when that is gone.
pub fn survive_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    drop(signal(SignalKind::user_defined1())?);
    Ok(())
}

/// All that are listened for.
///
/// Not the framework's own: on SIGQUIT that hands its listening sockets to whoever owns a path in `/tmp`,
/// and SIGHUP would end the process.
pub struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_defined: Signal,
    hand_over: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> Self {
        let listen = |kind| signal(kind).expect("these signals may be listened for");
        Self {
            terminate: listen(SignalKind::terminate()),
            quit: listen(SignalKind::quit()),
            interrupt: listen(SignalKind::interrupt()),
            hang_up: listen(SignalKind::hangup()),
            user_defined: listen(SignalKind::user_defined1()),
            hand_over: listen(SignalKind::user_defined2()),
        }
    }

    /// What the next one asks for. Nothing is missed where this is given up.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::Stop { name: "SIGTERM" },
            _ = self.quit.recv() => Asked::Stop { name: "SIGQUIT" },
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.hand_over.recv() => Asked::HandOver,
            _ = self.user_defined.recv() => Asked::Louder,
        }
    }
}
