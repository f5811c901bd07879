//! The journal: where an entry is on its way from a call to the database.
//!
//! Decides that an entry is in a file before its answer is out, so that the end of the process loses none, and that no call
//! waits for a disk: where a write takes too long or fails, entries go to memory, a thread of the journal's own writes them,
//! and what has no room there either is counted as lost. Never asks the database: the shipper does.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::{
    super::metrics::Metrics,
    lost::Trouble,
    spool::{Home, Segment},
};

/// How long a call waits for another one that writes: once, and then nobody does until the disk is quick again.
const PATIENCE: Duration = Duration::from_millis(25);
/// A write that took longer was a disk that is slow.
const SLOW: Duration = Duration::from_millis(100);
/// Bytes of lines that may wait in memory.
const MOST_HELD: usize = 16 << 20;
/// Bytes written at once from there.
const AT_ONCE: usize = 256 << 10;
/// A segment of this size is followed by another.
const SEGMENT_BYTES: u64 = 4 << 20;
/// A smaller one is, too, once the database has all of it and so much time has passed.
const SEGMENT_LIFE: Duration = Duration::from_secs(5);
/// Between two looks of the journal's thread.
const LOOK: Duration = Duration::from_millis(100);
/// Between two tries of a disk that is full or broken.
const RETRY: Duration = Duration::from_millis(250);

/// Takes lines, and knows which of them wait.
pub struct Journal {
    directory: PathBuf,
    most_bytes: AtomicU64,
    /// Whether files are wanted.
    is_on: AtomicBool,
    /// Whoever has it writes.
    pen: Mutex<Pen>,
    files: Mutex<Files>,
    /// Why calls do not write themselves; 0: they do.
    trouble: AtomicU8,
    held: Mutex<Held>,
    /// Written by this process, the oldest first; the last one is being written to.
    segments: Mutex<VecDeque<Arc<Segment>>>,
    /// Bytes of files, those that are shipped included.
    pub bytes: AtomicU64,
    /// When the oldest line that waits was made, in microseconds since 1970; 0: there is none.
    pub oldest_micros: AtomicI64,
    /// Whether the database takes rows.
    pub is_shipping: AtomicBool,
    pub metrics: Arc<Metrics>,
    thread: OnceLock<Thread>,
    is_ending: AtomicBool,
    has_ended: AtomicBool,
}

/// What is written to, and since when; none where there is nothing.
type Pen = Option<(Arc<Segment>, Instant)>;

/// Where further files come from, and how many there were.
#[derive(Default)]
struct Files {
    home: Option<Home>,
    made: u64,
}

/// Lines that wait in memory, in their order.
#[derive(Default)]
struct Held {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Journal {
    /// A journal with files in this folder, made once they are wanted, of at most so many bytes.
    pub fn new(directory: PathBuf, most_bytes: u64, metrics: Arc<Metrics>) -> Self {
        Self {
            directory,
            most_bytes: most_bytes.into(),
            is_on: AtomicBool::default(),
            pen: Mutex::default(),
            files: Mutex::default(),
            // Until there is a file.
            trouble: AtomicU8::new(Trouble::DiskBroken as u8),
            held: Mutex::default(),
            segments: Mutex::default(),
            bytes: AtomicU64::default(),
            oldest_micros: AtomicI64::default(),
            is_shipping: AtomicBool::new(true),
            metrics,
            thread: OnceLock::new(),
            is_ending: AtomicBool::default(),
            has_ended: AtomicBool::default(),
        }
    }

    /// How many bytes the files may have.
    pub fn most_bytes(&self) -> u64 {
        self.most_bytes.load(Ordering::Relaxed)
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Wants files from now on, and lets them hold so much.
    pub fn take(&self, is_on: bool, most_bytes: u64) {
        self.most_bytes.store(most_bytes, Ordering::Relaxed);
        self.is_on.store(is_on, Ordering::Relaxed);
        if is_on && lock(&self.files).home.is_none() {
            self.tend();
        }
    }

    /// Writes a line down.
    pub fn put(&self, line: &[u8]) {
        self.metrics.audit_waiting_rows.inc();
        if self.trouble().is_none() {
            let Some(mut pen) = self.pen_within(PATIENCE) else {
                return self.put_aside(Trouble::DiskSlow, line);
            };
            let began = Instant::now();
            let wrote = self.append(&mut pen, line);
            drop(pen);
            return match wrote {
                Err(trouble) => self.put_aside(trouble, line),
                Ok(()) if began.elapsed() > SLOW => self.fall_ill(Trouble::DiskSlow),
                Ok(()) => {}
            };
        }
        self.hold(line);
    }

    fn put_aside(&self, trouble: Trouble, line: &[u8]) {
        self.fall_ill(trouble);
        self.hold(line);
    }

    /// Whether files are wanted.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Why calls do not write themselves.
    pub fn trouble(&self) -> Option<Trouble> {
        Trouble::numbered(self.trouble.load(Ordering::Acquire))
    }

    fn fall_ill(&self, trouble: Trouble) {
        self.trouble.store(trouble as u8, Ordering::Release);
        self.wake();
    }

    /// Keeps a line in memory, where there is room.
    fn hold(&self, line: &[u8]) {
        let mut held = lock(&self.held);
        if held.bytes + line.len() > MOST_HELD {
            drop(held);
            self.metrics.audit_waiting_rows.dec();
            return self.lose(self.trouble().unwrap_or(Trouble::DiskSlow), 1);
        }
        held.bytes += line.len();
        held.lines.push_back(line.to_vec());
        drop(held);
        // A disk that is full or broken is tried now and then, and not for each line.
        if self.trouble().is_none_or(|trouble| trouble == Trouble::DiskSlow) {
            self.wake();
        }
    }

    /// Counts entries that are nowhere.
    pub fn lose(&self, why: Trouble, count: u64) {
        self.metrics.audit_lost.with_label_values(&[why.as_str()]).inc_by(count);
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The pen, where whoever has it is quick. As many turns as a write takes are waited out; after that others may run.
    fn pen_within(&self, patience: Duration) -> Option<MutexGuard<'_, Pen>> {
        let mut began = None;
        for turn in 0_u64.. {
            match self.pen.try_lock() {
                Ok(pen) => return Some(pen),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if turn < 400 => std::hint::spin_loop(),
                Err(TryLockError::WouldBlock) => {
                    if began.get_or_insert_with(Instant::now).elapsed() > patience || self.trouble().is_some()
                    {
                        return None;
                    }
                    thread::yield_now();
                }
            }
        }
        None
    }

    /// Adds whole lines to the file, or nothing.
    fn append(&self, pen: &mut Pen, bytes: &[u8]) -> Result<(), Trouble> {
        let Some((segment, _)) = pen else { return Err(Trouble::DiskBroken) };
        if self.bytes.load(Ordering::Relaxed) + bytes.len() as u64 > self.most_bytes.load(Ordering::Relaxed) {
            return Err(Trouble::SpoolFull);
        }
        let trouble = match segment.append(bytes) {
            Ok(true) => {
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                return Ok(());
            }
            Ok(false) => Trouble::DiskFull,
            Err(error) => Trouble::of(&error),
        };
        if segment.mend().is_err() {
            // Half a line stays at its end: nothing may come behind it.
            *pen = None;
        }
        Err(trouble)
    }

    /// The next lines in memory, at most so many bytes or one: for the disk, or for the database where the disk has none.
    pub fn take_held(&self, most_bytes: usize) -> Vec<Vec<u8>> {
        let mut held = lock(&self.held);
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while let Some(line) = held.lines.front()
            && (bytes == 0 || bytes + line.len() <= most_bytes)
        {
            bytes += line.len();
            lines.extend(held.lines.pop_front());
        }
        held.bytes -= bytes;
        lines
    }

    /// Takes lines back that were not written.
    pub fn put_back(&self, lines: Vec<Vec<u8>>) {
        let mut held = lock(&self.held);
        held.bytes += lines.iter().map(Vec::len).sum::<usize>();
        for line in lines.into_iter().rev() {
            held.lines.push_front(line);
        }
    }

    /// The oldest segment of this process.
    pub fn oldest(&self) -> Option<Arc<Segment>> {
        lock(&self.segments).front().cloned()
    }

    /// The one that is being written to.
    pub fn newest(&self) -> Option<Arc<Segment>> {
        lock(&self.segments).back().cloned()
    }

    /// The number of this process among those that write to the folder.
    pub fn instance(&self) -> Option<Arc<str>> {
        lock(&self.files).home.as_ref().map(|home| home.instance.clone())
    }

    /// Lets go of the oldest segment, whose rows the database has, unless it is being written to.
    pub fn finish(&self, segment: &Arc<Segment>) {
        let mut segments = lock(&self.segments);
        let is_oldest = segments.front().is_some_and(|oldest| Arc::ptr_eq(oldest, segment));
        if is_oldest && segments.len() > 1 && segment.is_shipped() {
            segments.pop_front();
            drop(segments);
            self.bytes.fetch_sub(segment.length.load(Ordering::Relaxed), Ordering::Relaxed);
            segment.remove();
        }
    }

    /// What the journal's own thread does, as long as the process lives.
    pub fn write_for_ever(&self) {
        self.thread.get_or_init(thread::current);
        let mut synced = Instant::now();
        while !self.is_ending.load(Ordering::Acquire) {
            let is_hopeless = matches!(self.trouble(), Some(trouble) if trouble != Trouble::DiskSlow);
            thread::park_timeout(if is_hopeless { RETRY } else { LOOK });
            self.tend();
            if synced.elapsed() > Duration::from_secs(1) && !self.is_shipping.load(Ordering::Relaxed) {
                // What the database has soon needs no more. What waits for it survives the end of the machine.
                synced = Instant::now();
                drop(self.newest().map(|segment| segment.sync()));
            }
        }
        self.tend();
        self.has_ended.store(true, Ordering::Release);
    }

    /// Ends the thread. What is in memory is in the file then, if the disk takes it.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether the thread has written what it could.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Makes files where they are wanted, writes what is in memory, and lets calls write again once all is well.
    fn tend(&self) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.have_segment() {
            return self.trouble.store(Trouble::of(&error) as u8, Ordering::Release);
        }
        loop {
            let lines = self.take_held(AT_ONCE);
            if lines.is_empty() {
                break;
            }
            let (bytes, began) = (lines.concat(), Instant::now());
            let wrote = self.append(&mut lock(&self.pen), &bytes);
            if let Err(trouble) = wrote {
                self.put_back(lines);
                return self.trouble.store(trouble as u8, Ordering::Release);
            }
            if began.elapsed() > SLOW {
                return;
            }
        }
        let held = lock(&self.held);
        let is_room = self.bytes.load(Ordering::Relaxed) < self.most_bytes.load(Ordering::Relaxed);
        if held.lines.is_empty() && is_room {
            self.trouble.store(0, Ordering::Release);
        }
    }

    /// Has a file to write to: one where there is none, and another where it is large, done with, or removed.
    fn have_segment(&self) -> std::io::Result<()> {
        let mut files = lock(&self.files);
        let now = lock(&self.pen).clone();
        let is_gone = now.as_ref().is_some_and(|(segment, _)| segment.is_gone());
        let stays = now.is_some_and(|(segment, since)| {
            let length = segment.length.load(Ordering::Relaxed);
            let is_done = length > 0 && segment.is_shipped() && since.elapsed() > SEGMENT_LIFE;
            length < SEGMENT_BYTES && !is_done && !is_gone
        });
        if stays {
            return Ok(());
        }
        if is_gone {
            // The folder is gone, and what says whose files they are with it.
            files.home = None;
        }
        let home = match files.home.take() {
            Some(home) => home,
            None => Home::claim(&self.directory)?,
        };
        let number = files.made + 1;
        let segment = files.home.insert(home).segment(number).map(Arc::new)?;
        files.made = number;
        lock(&self.segments).push_back(segment.clone());
        // Made before anybody had to wait for it.
        *lock(&self.pen) = Some((segment, Instant::now()));
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn journal(directory: &Path, most_bytes: u64) -> Arc<Journal> {
        let journal = Journal::new(directory.to_owned(), most_bytes, Arc::new(Metrics::new().unwrap()));
        journal.take(true, most_bytes);
        Arc::new(journal)
    }

    fn line(number: usize) -> Vec<u8> {
        format!("{number}\n").into_bytes()
    }

    /// What is in the files.
    fn written(journal: &Journal) -> String {
        let segments = lock(&journal.segments).clone();
        let read = |segment: &Arc<Segment>| {
            let mut bytes = Vec::new();
            segment.read(&mut bytes, 1 << 20).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        segments.iter().map(read).collect()
    }

    #[test]
    fn a_disk_that_stalls_holds_one_call_up_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 1 << 20);
        journal.put(&line(0));
        // Somebody is in the middle of a write that does not come to its end.
        let stuck = lock(&journal.pen);
        let (sender, done) = mpsc::channel();
        let (calls, began) = (journal.clone(), Instant::now());
        let calling = thread::spawn(move || {
            calls.put(&line(1));
            let first = began.elapsed();
            (2..1_000).for_each(|number| calls.put(&line(number)));
            sender.send((first, began.elapsed() - first)).unwrap();
        });
        let (first, others) =
            done.recv_timeout(Duration::from_secs(10)).expect("a call waits for a stuck disk");
        calling.join().unwrap();
        assert!(first >= PATIENCE, "{first:?}");
        assert!(others < PATIENCE * 40, "999 calls waited {others:?}");
        assert_eq!(journal.trouble(), Some(Trouble::DiskSlow));
        drop(stuck);
        journal.tend();
        assert_eq!(journal.trouble(), None, "the disk is quick again");
        journal.put(&line(1_000));
        let expected: String = (0..=1_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(written(&journal), expected, "in order, and each once");
    }

    #[test]
    fn what_has_no_room_in_memory_either_is_counted_as_lost() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 1_000);
        let large = vec![b'x'; 600];
        for _ in 0..MOST_HELD / 600 + 101 {
            journal.put(&large);
        }
        let lost = journal.metrics.audit_lost.with_label_values(&["spool_full"]).get();
        assert_eq!((lost, journal.trouble()), (100, Some(Trouble::SpoolFull)));
        assert_eq!(journal.metrics.audit_waiting_rows.get(), (MOST_HELD / 600 + 1) as i64);
        // With room, all that is in memory comes out of it.
        journal.take(true, 1 << 30);
        journal.tend();
        assert_eq!(journal.trouble(), None);
        assert_eq!(journal.bytes.load(Ordering::Relaxed), (MOST_HELD / 600 + 1) as u64 * 600);
    }

    #[test]
    fn a_segment_that_is_large_is_followed_by_another_and_goes_once_it_is_shipped() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 1 << 30);
        journal.put(&vec![b'x'; SEGMENT_BYTES as usize]);
        journal.tend();
        journal.put(&line(1));
        let first = journal.oldest().unwrap();
        journal.finish(&first);
        assert!(Arc::ptr_eq(&first, &journal.oldest().unwrap()), "it is not shipped");
        first.note_shipped(SEGMENT_BYTES);
        journal.finish(&first);
        assert_eq!(journal.bytes.load(Ordering::Relaxed), 2);
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 2, "one segment, and whose it is");
    }

    #[test]
    fn threads_that_write_at_once_lose_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 1 << 30);
        thread::scope(|scope| {
            for thread in 0..8 {
                let journal = &journal;
                scope.spawn(move || (0..500).for_each(|number| journal.put(&line(thread * 1_000 + number))));
            }
        });
        journal.tend();
        let mut found: Vec<usize> = written(&journal).lines().map(|line| line.parse().unwrap()).collect();
        found.sort_unstable();
        let expected: Vec<usize> =
            (0..8).flat_map(|thread| (0..500).map(move |number| thread * 1_000 + number)).collect();
        assert_eq!(found, expected);
    }
}
