//! A file of which small parts are written here and there: the content of a store. Those that follow
//! one another closely, such as what a program appends to its log line by line, are copied to a
//! mapped part of the file; others, and large ones, are written by system calls.
//!
//! What `appended_file.rs` says of the kernel, of a sync and of SIGBUS holds here too. No room is
//! reserved before, so a full disk is a reason for SIGBUS as well, and the system call that follows
//! says so.

use std::io::IoSlice;
use std::ops::Range;

use rustix::fd::{AsFd as _, BorrowedFd};

use super::platform;
use crate::disk::DiskFile;
use crate::disk::directory::NamedFile;
use crate::disk::host_file::HostFile;
use crate::disk::mapping::Window;
use crate::model::errno::Result;
use crate::sync::Mutex;

/// What is as long as this is written by a system call: a page that is filled as a whole costs less
/// so than one that the kernel first has to fill with what was there.
const SMALL: u64 = 4096;

/// How much is mapped at a time, from a multiple of it on.
const WINDOW: u64 = 1 << 20;

/// How many parts of the file are mapped at most.
const MOST_WINDOWS: usize = 16;

#[derive(Debug)]
pub(super) struct SharedFile {
    file: HostFile,
    mapped: Mutex<Mapped>,
}

/// The parts of a file that are mapped.
#[derive(Debug)]
struct Mapped {
    is_possible: bool,
    /// The file is at least so long. What lies behind its end in a page that it has is lost without
    /// a signal, so no window goes further.
    end: u64,
    /// Where the file will end once all that has begun is written, so it is never made shorter.
    future_end: u64,
    /// With the number of each, the one that was used last at the end.
    windows: Vec<(u64, Window)>,
    /// The number of the window that the last small part lay in. It is mapped for the next one.
    last: u64,
}

impl SharedFile {
    pub(super) fn new(file: HostFile) -> Result<Self> {
        let end = file.len()?;
        let mapped = Mapped {
            is_possible: platform::writes_in_place(file.as_fd()),
            end,
            future_end: end,
            windows: Vec::new(),
            last: u64::MAX,
        };
        let mapped = Mutex::new(mapped);
        Ok(Self { file, mapped })
    }

    /// Says that the file is going to be so long, before it is written.
    fn grow(&self, end: u64) {
        let mut mapped = self.mapped.lock();
        mapped.future_end = mapped.future_end.max(end);
    }
}

impl Mapped {
    /// Writes to a mapped part of the file; returns whether the bytes are there.
    fn write(&mut self, file: &HostFile, parts: &[IoSlice<'_>], range: Range<u64>) -> bool {
        let number = range.start / WINDOW;
        if !self.is_possible || number != (range.end - 1) / WINDOW {
            return false;
        }
        let is_again = std::mem::replace(&mut self.last, number) == number;
        let at = self.windows.iter().rposition(|(it, _)| *it == number);
        let Some((_, mut window)) = at.map(|at| self.windows.remove(at)).or_else(|| {
            let window = is_again.then(|| self.map(file, number)).flatten()?;
            Some((number, window))
        }) else {
            return false;
        };
        let is_written = window.write(parts, range.start);
        if is_written {
            self.windows.push((number, window));
        } else {
            // Something else may have cut the file off.
            self.end = 0;
        }
        is_written
    }

    /// Maps a part of the file, which is made so long first.
    fn map(&mut self, file: &HostFile, number: u64) -> Option<Window> {
        let range = number * WINDOW..(number + 1) * WINDOW;
        if self.end < range.end {
            let len = range.end.max(self.future_end);
            file.set_len(len).ok()?;
            (self.end, self.future_end) = (len, len);
        }
        if self.windows.len() == MOST_WINDOWS {
            self.windows.remove(0);
        }
        let window = Window::map(file.as_fd(), range).ok();
        self.is_possible = window.is_some();
        window
    }
}

impl DiskFile for SharedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let range = at..at + len;
        if len < SMALL && self.mapped.lock().write(&self.file, parts, range) {
            return Ok(());
        }
        self.grow(at + len);
        self.file.write_at(parts, at)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.file.punch(range)
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        self.grow(at + (from.end - from.start));
        self.file.copy_from(host, from, at)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

impl NamedFile for SharedFile {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut mapped = self.mapped.lock();
        mapped.windows.clear();
        (mapped.end, mapped.future_end) = (len, len);
        self.file.set_len(len)
    }

    fn allocate(&self, range: Range<u64>) -> Result<()> {
        self.grow(range.end);
        self.file.allocate(range)
    }
}

#[cfg(test)]
mod tests {
    use agentfs_testkit::random::Random;
    use rustix::fs::OFlags;

    use super::*;
    use crate::disk::directory::Directory as _;
    use crate::disk::host_directory::HostDirectory;

    fn file() -> (tempfile::TempDir, HostDirectory, SharedFile) {
        let path = tempfile::tempdir().unwrap();
        let directory = HostDirectory::open(path.path()).unwrap();
        let file = directory.open_with("a", OFlags::CREATE).unwrap();
        (path, directory, SharedFile::new(file).unwrap())
    }

    fn write(file: &SharedFile, bytes: &[u8], at: u64) -> Result<()> {
        let (one, two) = bytes.split_at(bytes.len() / 3);
        file.write_at(&[one, two].map(IoSlice::new), at)
    }

    fn windows(file: &SharedFile) -> usize {
        file.mapped.lock().windows.len()
    }

    #[test]
    fn parts_of_all_sizes_are_where_a_system_call_finds_them() {
        const END: usize = 24 << 20;
        let (_path, directory, file) = file();
        let (mut random, mut model) = (Random::new(1), vec![0; END]);
        let mut most = 0;
        for _ in 0..4000 {
            let len = random.pick(&[1, 100, 100, 4095, 4096, 50_000]);
            let near = random.below(24) << 20;
            let at = (near + random.below(5000)).saturating_sub(random.below(5000));
            for step in 0..3 {
                let at = (at + step * len).min(END - len);
                let part = random.bytes(len);
                write(&file, &part, at as u64).unwrap();
                model[at..at + len].copy_from_slice(&part);
            }
            most = most.max(windows(&file));
        }
        let mut bytes = vec![0; END];
        directory.open("a").unwrap().read_at(&mut bytes, 0).unwrap();
        assert!(bytes == model);
        let is_possible = platform::writes_in_place(file.file.as_fd());
        assert_eq!(most, if is_possible { MOST_WINDOWS } else { 0 });
    }

    #[test]
    fn file_that_has_lost_its_end_is_written_all_the_same() {
        let (_path, directory, file) = file();
        write(&file, &[1; 100], 0).unwrap();
        write(&file, &[2; 100], 100).unwrap();
        directory.open("a").unwrap().set_len(0).unwrap();
        write(&file, &[3; 100], 200).unwrap();
        write(&file, &[4; 100], 300).unwrap();
        let mut bytes = [9; 401];
        let read = directory.open("a").unwrap().read_at(&mut bytes, 0);
        assert!(read.unwrap() >= 400);
        let expected = [&[0; 200][..], &[3; 100], &[4; 100]].concat();
        assert_eq!(&bytes[..400], expected);
    }

    /// Threads write small and large parts of their own while the file grows.
    #[test]
    fn growing_takes_nothing_from_what_other_threads_write() {
        const EACH: u64 = 8 << 20;
        let (_path, directory, file) = file();
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                let file = &file;
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    let byte = thread.to_le_bytes()[0] + 1;
                    let mut at = thread * EACH;
                    while at < (thread + 1) * EACH {
                        let left = usize::try_from((thread + 1) * EACH - at).unwrap();
                        let len = random.pick(&[300, 3000, 90_000]).min(left);
                        write(file, &vec![byte; len], at).unwrap();
                        at += len as u64;
                    }
                });
            }
        });
        let mut bytes = vec![0; usize::try_from(3 * EACH).unwrap()];
        directory.open("a").unwrap().read_at(&mut bytes, 0).unwrap();
        for (thread, part) in bytes.chunks(usize::try_from(EACH).unwrap()).enumerate() {
            assert!(
                part.iter().all(|byte| usize::from(*byte) == thread + 1),
                "{thread}"
            );
        }
    }
}
