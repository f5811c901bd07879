//! Lines on their way to a file: gathered for a moment, and written by a thread of their own.
//!
//! Decides how long a line waits and how many may. Who writes one down neither waits for the file nor, unless it is the
//! first for a while, wakes anybody: to wake a thread for each line costs a call more than the line does, and the next call
//! on its connection waits for that.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

/// How long lines are gathered, from the first on.
const GATHER: Duration = Duration::from_millis(10);
/// So many times nothing came before the thread that writes lies down until it is woken.
const PATIENCE: usize = 100;
/// Bytes that may wait.
const MOST_WAITING: usize = 16 << 20;
/// Room that is kept for the next lines.
const ROOM: usize = 64 << 10;

/// Takes lines.
pub struct Lines {
    inner: Arc<Inner>,
    writer: Thread,
}

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    dropped: AtomicU64,
    is_ending: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Whoever puts a line there wakes the thread that writes.
    is_writer_asleep: bool,
}

/// Writes what is waiting when dropped.
pub struct Flush {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    /// Lines that `file` gets.
    pub fn to(file: impl Write + Send + 'static, name: &str) -> io::Result<(Self, Flush)> {
        let inner = Arc::<Inner>::default();
        let writing = inner.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || writing.write_to(file))?;
        let lines = Self { inner: inner.clone(), writer: thread.thread().clone() };
        Ok((lines, Flush { inner, thread: Some(thread) }))
    }

    /// Takes whole lines, unless too much waits already.
    pub fn put(&self, lines: &[u8]) {
        let mut waiting = self.inner.waiting();
        if waiting.lines.len() + lines.len() > MOST_WAITING {
            drop(waiting);
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(lines);
        let is_writer_asleep = std::mem::take(&mut waiting.is_writer_asleep);
        drop(waiting);
        if is_writer_asleep {
            self.writer.unpark();
        }
    }

    /// How often lines were not taken.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut file: impl Write) {
        let (mut lines, mut silent) = (Vec::new(), 0);
        loop {
            let is_ending = self.is_ending.load(Ordering::Acquire);
            let is_tired = silent >= PATIENCE;
            {
                let mut waiting = self.waiting();
                std::mem::swap(&mut lines, &mut waiting.lines);
                waiting.is_writer_asleep = lines.is_empty() && is_tired;
            }
            if !lines.is_empty() {
                silent = 0;
                // Whoever reads the other end is gone: there is nobody to tell.
                let _ = file.write_all(&lines).and_then(|()| file.flush());
                lines.clear();
                lines.shrink_to(ROOM);
            } else if is_ending {
                return;
            } else if is_tired {
                // Woken, or for no reason: both are worth a look.
                thread::park();
                silent = 0;
            } else {
                silent += 1;
            }
            if !self.is_ending.load(Ordering::Acquire) {
                // Cut short by the end.
                thread::park_timeout(GATHER);
            }
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.inner.is_ending.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there was counted.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A file whose reader takes what was written when it likes.
    struct Pipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pipe() -> (Lines, Flush, mpsc::Receiver<Vec<u8>>) {
        let (writes, written) = mpsc::sync_channel(0);
        let (lines, flush) = Lines::to(Pipe(writes), "test").unwrap();
        (lines, flush, written)
    }

    #[test]
    fn lines_of_a_moment_are_one_write_in_their_order() {
        let (lines, flush, written) = pipe();
        let all: Vec<u8> = (0..100).flat_map(|number| format!("{number}\n").into_bytes()).collect();
        for line in all.split_inclusive(|byte| *byte == b'\n') {
            lines.put(line);
        }
        let reader = thread::spawn(move || written.iter().collect::<Vec<_>>());
        drop(flush);
        let writes = reader.join().unwrap();
        assert_eq!(writes.concat(), all);
        assert!(writes.len() < 10, "{} writes", writes.len());
    }

    #[test]
    fn what_has_no_room_is_dropped_and_counted_and_the_rest_is_written() {
        let (lines, flush, written) = pipe();
        let line = vec![b'x'; 1 << 20];
        // The writer holds what it could not yet hand over; as much may wait beside it.
        let most = 2 * (MOST_WAITING >> 20);
        for _ in 0..most + 8 {
            lines.put(&line);
        }
        assert!(lines.dropped() >= 8, "{}", lines.dropped());
        let reader = thread::spawn(move || written.iter().map(|bytes| bytes.len()).sum::<usize>());
        let dropped = usize::try_from(lines.dropped()).unwrap();
        drop(flush);
        assert_eq!(reader.join().unwrap(), (most + 8 - dropped) << 20);
    }

    #[test]
    fn who_writes_a_line_down_wakes_the_writer_only_after_a_while() {
        let (lines, _flush, written) = pipe();
        let is_asleep = || lines.inner.waiting().is_writer_asleep;
        for _ in 0..2 {
            lines.put(b"a line\n");
            assert_eq!(written.recv().unwrap(), b"a line\n");
            assert!(!is_asleep(), "the next one is looked for");
            while !is_asleep() {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_reader_that_has_left_keeps_nobody() {
        let (lines, flush, written) = pipe();
        drop(written);
        lines.put(b"to nobody\n");
        drop(flush);
        assert_eq!(lines.dropped(), 0);
    }
}
