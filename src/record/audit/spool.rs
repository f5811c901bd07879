//! The files of the journal: segments of one process beside those of others, and the file that says whose they are.
//!
//! Decides what the files are called, that a process writes to its own alone, and that those of a process that is gone
//! are taken up by exactly one other: whoever gets the lock of the file that it held as long as it lived.

use std::{
    cmp::Ordering::{Equal, Greater, Less},
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::OFlags;
use uuid::Uuid;

const SEGMENT: &str = "journal";
const OWNER: &str = "owner";
/// Bytes of the place that stands in the owner's file.
const PLACE: usize = 32;

/// What was taken up, and what stays because it cannot be read.
#[derive(Default)]
pub struct TakenUp {
    pub homes: Vec<(Home, Vec<Segment>)>,
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

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
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let owner = open_plain(&path, &mut options)?;
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

    /// The segments there are, oldest first, but for those that cannot be read.
    fn segments(&self, unreadable: &mut Vec<(PathBuf, io::Error)>) -> io::Result<Vec<Segment>> {
        let (at, offset) = self.place();
        let mut segments = Vec::new();
        for path in segments_of(&self.directory, Some(&self.instance))? {
            let number = parts(&path).map_or(0, |(_, number)| number);
            let opened = open_plain(&path, OpenOptions::new().read(true));
            match opened.and_then(|file| Ok((file.metadata()?.len(), file))) {
                Ok((length, file)) => segments.push(self.holding(path, number, file, length)),
                Err(error) => unreadable.push((path, error)),
            }
        }
        // A place that no process of ours can have noted says nothing: then all is sent again.
        let is_place = segments.iter().any(|one| one.number == at && one.begins_a_line(offset));
        for segment in segments.iter().filter(|_| is_place) {
            let shipped = match segment.number.cmp(&at) {
                Less => segment.length.load(Ordering::Relaxed),
                Equal => offset,
                Greater => 0,
            };
            segment.shipped.store(shipped, Ordering::Relaxed);
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

    /// Reads what is not shipped, at most so many bytes, in place of what stands in `bytes`.
    pub fn read(&self, bytes: &mut Vec<u8>, most: usize) -> io::Result<()> {
        let (from, length) = (self.shipped.load(Ordering::Relaxed), self.length.load(Ordering::Acquire));
        let size = usize::try_from(length.saturating_sub(from)).unwrap_or(most).min(most);
        bytes.clear();
        bytes.resize(size, 0);
        let mut filled = 0;
        while filled < size {
            match self.file.read_at(&mut bytes[filled..], from + filled as u64)? {
                0 => break,
                some => filled += some,
            }
        }
        bytes.truncate(filled);
        Ok(())
    }

    /// Whether a line begins there, or would.
    fn begins_a_line(&self, offset: u64) -> bool {
        let mut before = [0];
        offset == 0 || self.file.read_exact_at(&mut before, offset - 1).is_ok_and(|()| before == *b"\n")
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

/// Opens a file that is a plain one: what is put into the folder must not lead elsewhere, nor make anybody wait.
pub fn open_plain(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // The flags are bits of a C `int`.
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok(file)
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

/// Takes up what processes left behind that are gone, oldest first. Empty where all that is there is somebody's. One file
/// that cannot be read holds up no other.
pub fn take_up(directory: &Path, own: Option<&str>) -> io::Result<TakenUp> {
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
    let mut taken = TakenUp::default();
    for instance in instances {
        let owner = directory.join(format!("{instance}.{OWNER}"));
        match Home::lock(directory, instance) {
            Ok(Some(home)) => {
                let segments = home.segments(&mut taken.unreadable)?;
                taken.homes.push((home, segments));
            }
            Ok(None) => {}
            Err(error) => taken.unreadable.push((owner, error)),
        }
    }
    Ok(taken)
}

/// The lines that wait in a folder, as far as can be seen without disturbing anybody, the oldest first.
pub fn waiting_lines(directory: &Path, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
    for path in segments_of(directory, None)? {
        let Some((instance, number)) = parts(&path) else { continue };
        let owner = directory.join(format!("{instance}.{OWNER}"));
        let home = open_plain(&owner, OpenOptions::new().read(true)).map(|owner| Home {
            directory: directory.to_owned(),
            instance: instance.into(),
            owner: Arc::new(owner),
        });
        let (at, offset) = home.map(|home| home.place()).unwrap_or_default();
        // It may be shipped and removed meanwhile.
        let Ok(mut file) = open_plain(&path, OpenOptions::new().read(true)) else { continue };
        let mut bytes = Vec::new();
        if file.read_to_end(&mut bytes).is_err() {
            continue;
        }
        let from = if number < at {
            bytes.len() as u64
        } else if number == at {
            offset
        } else {
            0
        };
        let rest = usize::try_from(from).ok().and_then(|from| bytes.get(from..)).unwrap_or(&bytes);
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
        taken.homes.iter().map(|(home, segments)| (home.instance.to_string(), segments.len())).collect()
    }

    #[test]
    fn what_a_process_left_is_taken_up_by_one_alone_and_never_while_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::claim(folder.path()).unwrap();
        let instance = home.instance.to_string();
        let segments = [home.segment(1).unwrap(), home.segment(2).unwrap()];
        segments.iter().for_each(|segment| assert!(segment.append(b"one\n").unwrap()));
        segments[1].note_shipped(4);
        assert_eq!(left(folder.path(), None), [], "it lives");
        drop((home, segments));
        let taken = take_up(folder.path(), None).unwrap().homes;
        assert_eq!(left(folder.path(), None), [], "somebody has taken it up");
        let shipped: Vec<_> = taken[0].1.iter().map(|one| one.shipped.load(Ordering::Relaxed)).collect();
        assert_eq!((taken.len(), shipped), (1, vec![4, 4]), "the first of two is shipped as a whole");
        drop(taken);
        assert_eq!(left(folder.path(), Some(&instance)), [], "its own");
        // Where only what says whose they are is gone, they are somebody's all the same.
        fs::remove_file(folder.path().join(format!("{instance}.owner"))).unwrap();
        let taken = take_up(folder.path(), None).unwrap().homes;
        assert_eq!((taken.len(), taken[0].1.len(), taken[0].1[0].shipped.load(Ordering::Relaxed)), (1, 2, 0));
        for (home, segments) in taken {
            segments.iter().for_each(Segment::remove);
            home.remove();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_none_of_ours_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::claim(folder.path()).unwrap();
        let instance = home.instance.to_string();
        home.segment(1).unwrap().append(b"one\n").unwrap();
        drop(home);
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("/nowhere", at(&format!("{instance}-0000000002.journal"))).unwrap();
        fs::create_dir(at("a.owner")).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("b.owner")).unwrap();
        // Nobody ever writes to it: whoever opens it as a file waits for ever.
        let made = std::process::Command::new("mkfifo").arg(at("c-1.journal")).status().unwrap();
        assert!(made.success());
        let taken = take_up(folder.path(), None).unwrap();
        let of_ours = taken.homes.iter().find(|(home, _)| *home.instance == *instance).unwrap();
        assert_eq!((of_ours.1.len(), of_ours.1[0].waiting_lines().unwrap()), (1, 1));
        assert_eq!(taken.unreadable.len(), 4, "{:?}", taken.unreadable);
        waiting_lines(folder.path(), |_| {}).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_one_costs_no_line() {
        for (place, expected) in [(4, 4), (3, 0), (99, 0), (0, 0)] {
            let folder = tempfile::tempdir().unwrap();
            let home = Home::claim(folder.path()).unwrap();
            let segment = home.segment(1).unwrap();
            segment.append(b"one\ntwo\n").unwrap();
            segment.note_shipped(place);
            drop((home, segment));
            let taken = take_up(folder.path(), None).unwrap().homes;
            assert_eq!(taken[0].1[0].shipped.load(Ordering::Relaxed), expected, "place {place}");
        }
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
