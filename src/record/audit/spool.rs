//! The files of the journal: segments of one process beside those of others, and the file that says whose they are.
//!
//! Decides what the files are called, that a process writes to its own alone, and that those of a process that is gone
//! are taken up by exactly one other: whoever gets the lock of the file that it held as long as it lived.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use uuid::Uuid;

const SEGMENT: &str = "journal";
const OWNER: &str = "owner";
/// Bytes of the place that stands in the owner's file.
const PLACE: usize = 32;

/// The files of one process, for as long as its lock is held.
pub struct Home {
    directory: PathBuf,
    /// Which process: a number that no other has.
    pub instance: Arc<str>,
    owner: Arc<File>,
}

/// A file of entries.
pub struct Segment {
    path: PathBuf,
    /// Which process wrote it.
    pub instance: Arc<str>,
    number: u64,
    file: File,
    owner: Arc<File>,
    /// Bytes of whole lines.
    pub length: AtomicU64,
    /// How many of them the database has.
    pub shipped: AtomicU64,
}

impl Home {
    /// Makes the folder where it is missing, and files of this process in it.
    pub fn claim(directory: &Path) -> io::Result<Self> {
        // Personal data: for the gateway's user alone.
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        loop {
            let instance: Arc<str> = Uuid::now_v7().simple().to_string().into();
            // Somebody who takes up what others left may be quicker to lock it: then another one.
            if let Some(home) = Self::lock(directory, instance)? {
                return Ok(home);
            }
        }
    }

    /// The files of a process that is gone; none where it lives, or somebody else has taken them up.
    fn lock(directory: &Path, instance: Arc<str>) -> io::Result<Option<Self>> {
        let path = directory.join(format!("{instance}.{OWNER}"));
        let mut options = OpenOptions::new();
        let owner = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match owner.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // Who had it before may have removed it between our two steps.
        let is_still_there =
            fs::metadata(&path).is_ok_and(|found| owner.metadata().is_ok_and(|own| own.ino() == found.ino()));
        Ok(is_still_there.then(|| Self { directory: directory.to_owned(), instance, owner: Arc::new(owner) }))
    }

    /// Makes a file to write to.
    pub fn segment(&self, number: u64) -> io::Result<Segment> {
        let path = self.directory.join(format!("{}-{number:010}.{SEGMENT}", self.instance));
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path)?;
        Ok(self.holding(path, number, file, 0))
    }

    fn holding(&self, path: PathBuf, number: u64, file: File, length: u64) -> Segment {
        let (instance, owner) = (self.instance.clone(), self.owner.clone());
        let (length, shipped) = (AtomicU64::new(length), AtomicU64::default());
        Segment { path, instance, number, file, owner, length, shipped }
    }

    /// The segments there are, oldest first.
    fn segments(&self) -> io::Result<Vec<Segment>> {
        let (at, offset) = self.place();
        let mut segments = Vec::new();
        for path in segments_of(&self.directory, Some(&self.instance))? {
            let number = parts(&path).map_or(0, |(_, number)| number);
            let file = OpenOptions::new().read(true).open(&path)?;
            let length = file.metadata()?.len();
            let segment = self.holding(path, number, file, length);
            let shipped = if number < at {
                length
            } else if number == at {
                offset.min(length)
            } else {
                0
            };
            segment.shipped.store(shipped, Ordering::Relaxed);
            segments.push(segment);
        }
        Ok(segments)
    }

    /// Up to where the database has them: a segment and a place in it. The beginning, where that cannot be read: what is
    /// sent again stays one row.
    fn place(&self) -> (u64, u64) {
        let mut place = [0; PLACE];
        let read = self.owner.read_exact_at(&mut place, 0);
        let text = read.ok().and_then(|()| std::str::from_utf8(&place).ok());
        let numbers = text.and_then(|text| text.trim().split_once(' '));
        let read =
            numbers.and_then(|(at, offset)| Some((at.trim().parse().ok()?, offset.trim().parse().ok()?)));
        read.unwrap_or_default()
    }

    /// Removes what says that there is something; only once nothing is.
    pub fn remove(self) {
        // One that stays is taken up, and found empty, by the next.
        drop(fs::remove_file(self.directory.join(format!("{}.{OWNER}", self.instance))));
    }
}

impl Segment {
    /// Adds a line, or several. True: all of it; false: as much as there was room for.
    pub fn append(&self, bytes: &[u8]) -> io::Result<bool> {
        let wrote = io::Write::write(&mut &self.file, bytes)?;
        if wrote == bytes.len() {
            self.length.fetch_add(bytes.len() as u64, Ordering::Release);
        }
        Ok(wrote == bytes.len())
    }

    /// Takes back what was added in part.
    pub fn mend(&self) -> io::Result<()> {
        self.file.set_len(self.length.load(Ordering::Relaxed))
    }

    /// Reads what is not shipped, at most so many bytes.
    pub fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        let (from, length) = (self.shipped.load(Ordering::Relaxed), self.length.load(Ordering::Acquire));
        let size = usize::try_from(length.saturating_sub(from)).unwrap_or(most).min(most);
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match self.file.read_at(&mut bytes[filled..], from + filled as u64)? {
                0 => break,
                some => filled += some,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// How many lines are not shipped.
    pub fn waiting_lines(&self) -> io::Result<u64> {
        let mut from = self.shipped.load(Ordering::Relaxed);
        let (mut lines, mut bytes) = (0, vec![0; 64 * 1024]);
        loop {
            match self.file.read_at(&mut bytes, from)? {
                0 => return Ok(lines),
                some => {
                    lines += memchr::memchr_iter(b'\n', &bytes[..some]).count() as u64;
                    from += some as u64;
                }
            }
        }
    }

    /// Notes up to where the database has it.
    pub fn note_shipped(&self, place: u64) {
        self.shipped.store(place, Ordering::Relaxed);
        let text = format!("{:>10} {place:>20}\n", self.number);
        // Only a hint: without it rows are sent again, and stay one each.
        drop(self.owner.write_all_at(text.as_bytes(), 0));
    }

    /// Whether the database has all of it.
    pub fn is_shipped(&self) -> bool {
        self.shipped.load(Ordering::Relaxed) >= self.length.load(Ordering::Acquire)
    }

    /// Whether somebody has removed the file.
    pub fn is_gone(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    /// Has what was written survive the end of the machine.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Removes the file.
    pub fn remove(&self) {
        // One that stays is sent again by the next process, and nothing comes of it.
        drop(fs::remove_file(&self.path));
    }
}

/// Whose segment it is, and which of theirs.
fn parts(path: &Path) -> Option<(&str, u64)> {
    let (instance, number) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((instance, number.parse().ok()?))
}

/// The segments in a folder, oldest first: those of one process, or all.
fn segments_of(directory: &Path, instance: Option<&str>) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let is_wanted = parts(&path).is_some_and(|(of, _)| instance.is_none_or(|instance| of == instance));
        if path.extension() == Some(OsStr::new(SEGMENT)) && is_wanted {
            found.insert(path);
        }
    }
    Ok(found)
}

/// Takes up what processes left behind that are gone, oldest first. Empty where all that is there is somebody's.
pub fn take_up(directory: &Path, own: Option<&str>) -> io::Result<Vec<(Home, Vec<Segment>)>> {
    let mut instances = BTreeSet::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let instance = match path.extension().and_then(OsStr::to_str) {
            Some(OWNER) => path.file_stem().and_then(OsStr::to_str),
            Some(SEGMENT) => parts(&path).map(|(instance, _)| instance),
            _ => None,
        };
        instances.extend(instance.filter(|instance| Some(*instance) != own).map(Arc::<str>::from));
    }
    let mut taken = Vec::new();
    for instance in instances {
        if let Some(home) = Home::lock(directory, instance)? {
            let segments = home.segments()?;
            taken.push((home, segments));
        }
    }
    Ok(taken)
}

/// The lines that wait in a folder, as far as can be seen without disturbing anybody, the oldest first.
pub fn waiting_lines(directory: &Path, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
    for path in segments_of(directory, None)? {
        let Some((instance, number)) = parts(&path) else { continue };
        let owner = directory.join(format!("{instance}.{OWNER}"));
        let home = File::open(owner).map(|owner| Home {
            directory: directory.to_owned(),
            instance: instance.into(),
            owner: Arc::new(owner),
        });
        let (at, offset) = home.map(|home| home.place()).unwrap_or_default();
        // It may be shipped and removed meanwhile.
        let Ok(bytes) = fs::read(&path) else { continue };
        let from = if number < at {
            bytes.len() as u64
        } else if number == at {
            offset
        } else {
            0
        };
        let rest = bytes.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
        super::line::whole_lines(rest).0.for_each(&mut sink);
    }
    Ok(())
}

/// Why a folder cannot be written to. What it makes to find out, it removes.
pub fn refuse_unwritable(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return tempfile::NamedTempFile::new_in(directory).map(drop);
    }
    // As far as it would have to be made.
    let made = directory.ancestors().skip(1).find(|parent| parent.as_os_str().is_empty() || parent.exists());
    let parent = made.filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if directory.exists() || !parent.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    tempfile::tempdir_in(parent).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(directory: &Path, own: Option<&str>) -> Vec<(String, usize)> {
        let taken = take_up(directory, own).unwrap();
        taken.iter().map(|(home, segments)| (home.instance.to_string(), segments.len())).collect()
    }

    #[test]
    fn what_a_process_left_is_taken_up_by_one_alone_and_never_while_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::claim(folder.path()).unwrap();
        let instance = home.instance.to_string();
        let segments = [home.segment(1).unwrap(), home.segment(2).unwrap()];
        segments.iter().for_each(|segment| assert!(segment.append(b"one\n").unwrap()));
        segments[1].note_shipped(2);
        assert_eq!(left(folder.path(), None), [], "it lives");
        drop((home, segments));
        let taken = take_up(folder.path(), None).unwrap();
        assert_eq!(left(folder.path(), None), [], "somebody has taken it up");
        let shipped: Vec<_> = taken[0].1.iter().map(|one| one.shipped.load(Ordering::Relaxed)).collect();
        assert_eq!((taken.len(), shipped), (1, vec![4, 2]), "the first of two is shipped as a whole");
        drop(taken);
        assert_eq!(left(folder.path(), Some(&instance)), [], "its own");
        // Where only what says whose they are is gone, they are somebody's all the same.
        fs::remove_file(folder.path().join(format!("{instance}.owner"))).unwrap();
        let taken = take_up(folder.path(), None).unwrap();
        assert_eq!((taken.len(), taken[0].1.len(), taken[0].1[0].shipped.load(Ordering::Relaxed)), (1, 2, 0));
        for (home, segments) in taken {
            segments.iter().for_each(Segment::remove);
            home.remove();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn lines_that_wait_are_seen_from_outside() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::claim(folder.path()).unwrap();
        let segment = home.segment(1).unwrap();
        assert!(segment.append(b"one\ntwo\nthree\n").unwrap());
        let waiting = || {
            let mut lines = Vec::new();
            waiting_lines(folder.path(), |line| lines.push(String::from_utf8_lossy(line).into_owned()))
                .unwrap();
            lines
        };
        assert_eq!((waiting().len(), segment.waiting_lines().unwrap()), (3, 3));
        segment.note_shipped(4);
        assert_eq!(
            (waiting(), segment.waiting_lines().unwrap()),
            (vec!["two".to_owned(), "three".to_owned()], 2)
        );
    }

    #[test]
    fn whether_a_folder_can_be_written_to_is_found_out_without_leaving_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        let (file, deep) = (folder.path().join("file"), folder.path().join("a/b/c"));
        assert!(refuse_unwritable(&deep).is_ok() && refuse_unwritable(folder.path()).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(&file, "").unwrap();
        assert!(refuse_unwritable(&file).is_err() && refuse_unwritable(&file.join("b")).is_err());
    }
}
