//! A gateway that hangs is told from one that works: it pings no more, and systemd starts another.

use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::Scene;
use crate::harness::{deadline::until_so, fake_peer::FakePeer, grants::Grants, guide};

/// Stops the threads with this name of a process, as a debugger does, until it is ended itself.
struct Stopped(Child);

const STOP_THREADS: &str = r#"
import ctypes, os, sys
pid, name = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
SEIZE, INTERRUPT = 0x4206, 0x4207
for task in os.listdir(f"/proc/{pid}/task"):
    if open(f"/proc/{pid}/task/{task}/comm").read().strip() == name:
        for request in (SEIZE, INTERRUPT):
            if libc.ptrace(request, int(task), 0, 0):
                sys.exit(os.strerror(ctypes.get_errno()))
print("stopped", flush=True)
# Threads that end are not gone before their tracer has taken note.
try:
    while True:
        os.waitpid(-1, 0x40000000)
except ChildProcessError:
    pass
"#;

impl Stopped {
    fn threads(id: u32, name: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", STOP_THREADS, &id.to_string(), name]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut said = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(process.stdout.take().unwrap()), &mut said)
            .unwrap();
        assert_eq!(said, "stopped\n", "the threads `{name}` of {id} can be traced");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In the place of systemd, as far as it listens.
struct Listening {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
    path: String,
}

impl Listening {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, _folder: folder, path }
    }

    /// The next word within this time.
    fn hear(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 512];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Hears until nothing was said for this long.
    fn until_silence(&self, of: Duration) {
        let began = std::time::Instant::now();
        while self.hear(of).is_some() {
            assert!(began.elapsed() < Duration::from_secs(30), "it never falls silent");
        }
    }
}

/// What systemd waits for, in the tests of this file.
const WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_pings_while_its_threads_move_and_not_when_they_hang() {
    let (listening, peer) = (Listening::new(), FakePeer::start().await);
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url());
    let setup = setup.environment("NOTIFY_SOCKET", &listening.path);
    let gateway = setup.environment("WATCHDOG_USEC", &WITHIN.as_micros().to_string()).start().await;
    assert!(listening.hear(WITHIN * 5).unwrap().contains("READY=1"));
    for _ in 0..4 {
        assert_eq!(
            listening.hear(WITHIN).as_deref(),
            Some("WATCHDOG=1\n"),
            "more often than it is waited for"
        );
    }
    let stopped = Stopped::threads(gateway.id(), "BG gateway");
    listening.until_silence(WITHIN);
    gateway.stderr.find("who hangs", |line| line.contains("`listen.http` has not moved")).await;
    drop(stopped);
    assert_eq!(listening.hear(WITHIN * 5).as_deref(), Some("WATCHDOG=1\n"), "it moves again");
    gateway.stderr.find("word of it", |line| line.contains("everything moves again")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_serves_pings_and_not_the_one_that_drains_for_it() {
    let (listening, peer) = (Listening::new(), FakePeer::start().await);
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).environment("NOTIFY_SOCKET", &listening.path);
    let setup = setup.environment("WATCHDOG_USEC", &WITHIN.as_micros().to_string());
    let mut gateway = setup.environment("WATCHDOG_PID", "1").start().await;
    assert!(listening.hear(WITHIN * 5).unwrap().contains("READY=1"));
    // The variable names another process: it is not meant.
    assert_eq!(listening.hear(WITHIN), None);
    gateway.signal("USR2");
    let taken = gateway.stderr.find("the new process", |line| line.contains("has taken over")).await;
    let (_, rest) = taken.split_once("upgrade: process ").unwrap();
    let second: u32 = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(listening.hear(WITHIN * 5).unwrap().contains(&format!("MAINPID={second}")));
    // It was not told that name, and has the same watchdog.
    assert_eq!(listening.hear(WITHIN).as_deref(), Some("WATCHDOG=1\n"));
    crate::harness::gateway::send_signal(second, "TERM");
    assert!(gateway.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_ends_a_gateway_that_hangs_and_starts_another() {
    let Some(scene) = Scene::bare().await else { return };
    super::unit::install(&scene);
    scene.grant().await;
    let machine = &scene.machine;
    for block in guide::blocks_of("systemd_ends_a_gateway_that_hangs_and_starts_another") {
        machine.write("/etc/systemd/system/portcullis.service.d/override.conf", &block.text);
    }
    machine.must_meanwhile("systemctl daemon-reload && systemctl restart portcullis").await;
    // Pings go on for longer than it is waited for, and after a hand-over, too.
    let pinged = |machine: &crate::harness::machine::Machine| machine.property("WatchdogTimestampMonotonic");
    for reload in [false, true] {
        if reload {
            machine.must_meanwhile("systemctl reload portcullis").await;
        }
        for _ in 0..5 {
            let before = pinged(machine);
            until_so("a ping", || pinged(machine) != before).await;
        }
        assert_eq!(machine.property("NRestarts"), "0", "{}", machine.journal());
    }
    let hanging = machine.gateway_id();
    let stopped = Stopped::threads(hanging, "BG gateway");
    until_so("a restart", || {
        machine.property("NRestarts") == "1" && machine.property("ActiveState") == "active"
    })
    .await;
    drop(stopped);
    let journal = machine.journal();
    for words in ["has not moved for", "Watchdog timeout"] {
        assert!(journal.contains(words), "{words:?} is missing: {journal}");
    }
    assert_ne!(machine.gateway_id(), hanging);
    scene.becomes_well().await;
}

/// systemd is not the parent of that one as long as the one before drains, and is not told of its death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_dies_while_the_one_before_drains_is_replaced() {
    let Some(scene) = Scene::bare().await else { return };
    super::unit::install(&scene);
    scene.grant().await;
    let machine = &scene.machine;
    machine.write("/etc/systemd/system/portcullis.service.d/override.conf", "[Service]\nWatchdogSec=4\n");
    machine.must_meanwhile("systemctl daemon-reload && systemctl restart portcullis").await;
    scene.becomes_well().await;
    let (_client, _held) = scene.stream().await;
    machine.must_meanwhile("systemctl reload portcullis").await;
    crate::harness::gateway::send_signal(machine.gateway_id(), "KILL");
    until_so("a restart", || {
        machine.property("NRestarts") == "1" && machine.property("ActiveState") == "active"
    })
    .await;
    scene.becomes_well().await;
    assert!(machine.journal().contains("Watchdog timeout"), "{}", machine.journal());
}
