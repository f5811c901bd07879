//! Ports for processes that cannot be given an open socket.
//!
//! Whatever can bind port 0 and keep it does that instead. A port from here lies below the kernel's ephemeral range,
//! and a lock on its file keeps it from every other test process (and from `scripts/with-peers`) until it is dropped.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt,
};

/// A TCP port of 127.0.0.1 that nobody else takes as long as this lives.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free port.
    pub fn take() -> Self {
        let owner = fs::metadata("/proc/self").unwrap().uid();
        let locks = std::env::temp_dir().join(format!("portcullis-ports-{owner}"));
        fs::create_dir_all(&locks).unwrap();
        // Any start will do; different ones for tests that begin together.
        let start = uuid::Uuid::now_v7().as_u128() as u16;
        for step in 0..12_000_u16 {
            let number = 20_000 + start.wrapping_add(step) % 12_000;
            let lock =
                File::options().write(true).create(true).truncate(false).open(locks.join(number.to_string()));
            let lock = lock.unwrap();
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port between 20000 and 31999");
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[test]
fn two_ports_taken_at_once_differ() {
    let (one, other) = (Port::take(), Port::take());
    assert_ne!(one.number(), other.number());
}
