//! The hand-over to a new process: it has the listening sockets from its birth, and the old one goes on until the new
//! one is ready to answer.
//!
//! Decides the order of the words that the two exchange over a socket of their own, which has no name that anybody else
//! could connect to: the old one says what a successor must know, the new one `ready`, the old one `go`, the new one
//! `serving`. Whatever goes wrong before that changes nothing for the old one. Never closes a listener.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, anyhow};
use command_fds::{CommandFdExt, FdMapping};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    process::{Child, Command},
};
use tracing::info;

use super::door::Socket;
use crate::names::SecretKey;

/// Where passed sockets begin (`sd_listen_fds(3)`).
const FIRST_FD: i32 = 3;
/// How long what takes no time may take.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Longest first word.
const MOST_BYTES: u64 = 64 * 1024;

const READY: &str = "ready";
const GO: &str = "go";
const SERVING: &str = "serving";

/// What a successor must know. Unknown members are left out: it may be of another version.
#[derive(Serialize, Deserialize)]
struct Will {
    /// What ids of sessions are sealed with that this process made up, in hexadecimal digits.
    session_key: Option<String>,
    /// How often it was tried before, so that the counter goes on.
    attempts: Option<Attempts>,
}

/// How often a new process was to take over.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// It did.
    pub handed_over: u64,
    /// It did not.
    pub failed: u64,
}

/// Starts successors.
pub struct Upgrade {
    /// The program, as this process was called, and its arguments.
    pub command_line: (OsString, Vec<OsString>),
    /// What is handed over.
    pub sockets: Vec<Socket>,
    /// What sessions are sealed with where nothing is configured.
    pub session_key: SecretKey,
    /// Whether the one that is being started was told to serve.
    has_let_go: AtomicBool,
}

impl Upgrade {
    /// Starts this program with these arguments, and hands these sockets over to it.
    pub fn new(
        command_line: (OsString, Vec<OsString>),
        sockets: Vec<Socket>,
        session_key: SecretKey,
    ) -> Self {
        Self { command_line, sockets, session_key, has_let_go: AtomicBool::new(false) }
    }

    /// Whether the successor that is being started may have connections already: then it must not be given up.
    pub fn has_let_go(&self) -> bool {
        self.has_let_go.load(Ordering::Relaxed)
    }

    /// Starts a successor, and returns its process id once it accepts connections. It has `timeout` to get ready. Given up
    /// by being dropped.
    pub async fn attempt(&self, so_far: Attempts, timeout: Duration) -> anyhow::Result<u32> {
        self.has_let_go.store(false, Ordering::Relaxed);
        let (program, arguments) = &self.command_line;
        let (near, far) = UnixStream::pair().context("cannot make a pair of sockets")?;
        near.set_nonblocking(true)?;
        let mut passed: Vec<OwnedFd> = Vec::new();
        for socket in &self.sockets {
            passed.push(socket.again().context("cannot pass on a listening socket")?.into());
        }
        passed.push(far.into());
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command
            .env("LISTEN_FDS", passed.len().to_string())
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            // It names this process, and the new one would take systemd's watchdog for somebody else's.
            .env_remove("WATCHDOG_PID");
        let mappings =
            (FIRST_FD..).zip(passed).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).context("two sockets in one place")?;
        // The command holds the other end of the pair: it goes with it.
        let spawned = Command::from(command).spawn();
        let successor = spawned.with_context(|| format!("cannot start `{}`", program.display()))?;
        let session_key = Some(hexadecimal(&self.session_key));
        let will = serde_json::to_string(&Will { session_key, attempts: Some(so_far) })?;
        self.lead(Successor(Some(successor)), near, (&will, timeout)).await
    }

    async fn lead(
        &self,
        successor: Successor,
        near: UnixStream,
        (will, timeout): (&str, Duration),
    ) -> anyhow::Result<u32> {
        let pid = successor.0.as_ref().and_then(Child::id).context("the new process has ended at once")?;
        info!("upgrade: process {pid} has been started and gets ready");
        let (reader, mut writer) = tokio::net::UnixStream::from_std(near)?.into_split();
        let mut words = tokio::io::BufReader::new(reader).lines();
        let led = async {
            say(&mut writer, will).await?;
            hear(&mut words, READY, timeout).await?;
            self.has_let_go.store(true, Ordering::Relaxed);
            say(&mut writer, GO).await?;
            hear(&mut words, SERVING, AT_ONCE).await
        };
        if let Err(error) = led.await {
            return Err(successor.failed(error).await);
        }
        successor.stays();
        Ok(pid)
    }
}

/// Why a successor did not take over.
enum Failure {
    /// Nobody is at the other end any more.
    Gone,
    /// It is there, and does something else.
    Strange(anyhow::Error),
}

async fn say(writer: &mut OwnedWriteHalf, word: &str) -> Result<(), Failure> {
    writer.write_all(format!("{word}\n").as_bytes()).await.map_err(|_| Failure::Gone)
}

async fn hear(
    words: &mut tokio::io::Lines<tokio::io::BufReader<OwnedReadHalf>>,
    expected: &str,
    within: Duration,
) -> Result<(), Failure> {
    let Ok(word) = tokio::time::timeout(within, words.next_line()).await else {
        let seconds = within.as_secs();
        return Err(Failure::Strange(anyhow!("it did not say `{expected}` within {seconds} s")));
    };
    match word {
        Ok(Some(word)) if word == expected => Ok(()),
        Ok(Some(_)) => {
            Err(Failure::Strange(anyhow!("it said something else than `{expected}`; is it another program?")))
        }
        Ok(None) | Err(_) => Err(Failure::Gone),
    }
}

/// A process that is killed unless it stays.
struct Successor(Option<Child>);

impl Successor {
    fn stays(mut self) {
        if let Some(mut child) = self.0.take() {
            // Somebody has to take note when it ends while this process still drains.
            tokio::spawn(async move { drop(child.wait().await) });
        }
    }

    /// Ends it, and says how it ended.
    async fn failed(mut self, failure: Failure) -> anyhow::Error {
        let Some(mut child) = self.0.take() else { return anyhow!("the new process has ended") };
        // It may be about to end by itself, and then its status says more.
        if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), child.wait()).await {
            let ended = format!("the new process ended with {status}; what it logged says why");
            return match failure {
                Failure::Gone => anyhow!(ended),
                Failure::Strange(error) => error.context(ended),
            };
        }
        drop(child.kill().await);
        let error = match failure {
            Failure::Gone => anyhow!("it closed the connection to this one"),
            Failure::Strange(error) => error,
        };
        error.context("the new process was ended")
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // One that has ended already needs no ending; the runtime takes note of its end.
            drop(child.start_kill());
        }
    }
}

/// The process that hands over to this one.
pub struct Predecessor {
    stream: UnixStream,
    /// What it sealed sessions with.
    pub session_key: Option<SecretKey>,
    /// How often it was tried before this process.
    pub attempts: Attempts,
}

impl Predecessor {
    /// Hears what a successor must know.
    pub fn hear(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(AT_ONCE))?;
        let mut will = String::new();
        BufReader::new(stream.try_clone()?.take(MOST_BYTES))
            .read_line(&mut will)
            .context("the process that hands over says nothing")?;
        let will: Will =
            serde_json::from_str(&will).context("the process that hands over says nothing useful")?;
        let session_key = will.session_key.map(|text| SecretKey::parse(&text)).transpose()?;
        Ok(Self { stream, session_key, attempts: will.attempts.unwrap_or_default() })
    }

    /// Says that this process is ready, and returns when it is to accept connections: also where the other one is gone,
    /// because then nobody else does.
    pub async fn ask(self) -> anyhow::Result<Relief> {
        self.stream.set_nonblocking(true)?;
        let (reader, mut writer) = tokio::net::UnixStream::from_std(self.stream)?.into_split();
        drop(say(&mut writer, READY).await);
        drop(tokio::io::BufReader::new(reader).lines().next_line().await);
        Ok(Relief(writer))
    }
}

/// A predecessor that has let go.
pub struct Relief(OwnedWriteHalf);

impl Relief {
    /// Says that connections are accepted here.
    pub async fn tell(mut self) {
        drop(say(&mut self.0, SERVING).await);
    }
}

fn hexadecimal(key: &SecretKey) -> String {
    key.expose().iter().map(|byte| format!("{byte:02x}")).collect()
}
