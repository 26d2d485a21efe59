//! A file that grows at its end by small parts: a segment of the log. Where that is safe, its end is
//! mapped, and a part is copied there in place of a system call, which takes ten times as long.
//!
//! The kernel has the bytes as soon as they are copied, so they survive the process; a sync writes
//! them as any others.
//!
//! What is mapped could be refused by the kernel later, by the signal SIGBUS: when the file has lost
//! its end, or the disk has failed. The copy notices that (`disk/mapping/linux.rs`), and the bytes
//! are written by a system call then, whose error counts. After that nothing of the file is mapped.

use std::io::IoSlice;
use std::ops::Range;

use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::io::retry_on_intr;

use super::{platform, write_zeros};
use crate::disk::DiskFile;
use crate::disk::directory::NamedFile;
use crate::disk::host_file::HostFile;
use crate::disk::mapping::{Window, page_size};
use crate::model::errno::Result;
use crate::sync::Mutex;

/// How much is mapped at a time.
const WINDOW: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct AppendedFile {
    file: HostFile,
    end: Mutex<End>,
}

/// How the end of the file is written.
#[derive(Debug)]
struct End {
    /// Up to where the disk has reserved room, and zero if nothing may be mapped.
    mappable: u64,
    window: Option<Window>,
}

impl AppendedFile {
    pub(super) fn new(file: HostFile) -> Self {
        let end = Mutex::new(End {
            mappable: 0,
            window: None,
        });
        Self { file, end }
    }
}

impl End {
    /// Writes to the mapped part of the file; returns whether the bytes are there.
    fn write(&mut self, file: &HostFile, parts: &[IoSlice<'_>], at: u64) -> bool {
        let range = at..at + parts.iter().map(|part| part.len() as u64).sum::<u64>();
        if !self.is_mapped(file, range) {
            return false;
        }
        let window = self.window.as_mut();
        let is_written = window.is_some_and(|window| window.write(parts, at));
        if !is_written {
            self.give_up();
        }
        is_written
    }

    /// Returns whether a range of the file is mapped, after mapping it where that is possible.
    fn is_mapped(&mut self, file: &HostFile, range: Range<u64>) -> bool {
        if self.window.as_ref().is_some_and(|it| it.has(&range)) {
            return true;
        }
        let page = page_size() as u64;
        let start = range.start / page * page;
        let end = self.mappable.min(start + WINDOW) / page * page;
        if range.end > end {
            return false;
        }
        self.window = Window::map(file.as_fd(), start..end).ok();
        if self.window.is_none() {
            self.give_up();
        }
        self.window.is_some()
    }

    /// Maps nothing any more.
    fn give_up(&mut self) {
        self.mappable = 0;
        self.window = None;
    }
}

impl DiskFile for AppendedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()> {
        let mut end = self.end.lock();
        if end.write(&self.file, parts, at) {
            return Ok(());
        }
        self.file.write_at(parts, at)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.end.lock().give_up();
        self.file.punch(range)
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        self.file.copy_from(host, from, at)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

impl NamedFile for AppendedFile {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.end.lock().give_up();
        self.file.set_len(len)
    }

    fn allocate(&self, range: Range<u64>) -> Result<()> {
        match retry_on_intr(|| platform::allocate(self.file.as_fd(), range.clone())) {
            Ok(()) => {
                let mut end = self.end.lock();
                let is_first = range.start == 0 && platform::writes_in_place(self.file.as_fd());
                // It stays unmapped once it was given up.
                if is_first || end.mappable > 0 {
                    end.mappable = range.end;
                }
                Ok(())
            }
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                write_zeros(&self.file, range)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use agentfs_testkit::random::Random;
    use rustix::fs::OFlags;
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;
    use crate::disk::directory::Directory as _;
    use crate::disk::host_directory::HostDirectory;

    const LEN: u64 = 4 << 20;

    fn file() -> (tempfile::TempDir, HostDirectory, AppendedFile) {
        let path = tempfile::tempdir().unwrap();
        let directory = HostDirectory::open(path.path()).unwrap();
        let file = AppendedFile::new(directory.open_with("a", OFlags::CREATE).unwrap());
        file.allocate(0..LEN).unwrap();
        (path, directory, file)
    }

    fn write(file: &AppendedFile, bytes: &[u8], at: u64) -> Result<()> {
        let (one, two) = bytes.split_at(bytes.len() / 3);
        file.write_at(&[one, two].map(IoSlice::new), at)
    }

    /// Returns whether the file is written through a mapping, as it has to be on this filesystem.
    fn is_written_as_it_can_be(file: &AppendedFile) -> bool {
        let is_mapped = file.end.lock().window.is_some();
        is_mapped == platform::writes_in_place(file.file.as_fd())
    }

    fn contents(directory: &HostDirectory, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = directory.open("a").unwrap().read_at(&mut bytes, 0);
        assert_eq!(read, Ok(len));
        bytes
    }

    #[test]
    fn parts_are_where_a_system_call_finds_them() {
        let (_path, directory, file) = file();
        let (mut random, mut model) = (Random::new(1), Vec::new());
        while model.len() < 3 << 20 {
            let len = random.pick(&[1, 190, 190, 5000, 70_000]);
            let part = random.bytes(len);
            write(&file, &part, model.len() as u64).unwrap();
            model.extend(part);
            assert!(is_written_as_it_can_be(&file));
        }
        assert!(contents(&directory, model.len()) == model);
        let file_end = model.len();
        // Neither what is longer than the mapped part nor what lies behind the room is mapped.
        model.resize(file_end + (2 << 20), 7);
        write(&file, &model[file_end..], file_end as u64).unwrap();
        assert!(contents(&directory, model.len()) == model);
        let len = model.len() as u64;
        file.allocate(len..2 * LEN).unwrap();
        write(&file, b"one more", len).unwrap();
        model.extend(b"one more");
        assert!(contents(&directory, model.len()) == model);
        assert!(is_written_as_it_can_be(&file));
    }

    #[test]
    fn file_that_has_lost_its_end_is_written_by_system_calls_from_then_on() {
        let (_path, directory, file) = file();
        write(&file, b"before", 0).unwrap();
        assert!(is_written_as_it_can_be(&file));
        directory.open("a").unwrap().set_len(0).unwrap();
        write(&file, &vec![1; 20_000], 0).unwrap();
        assert!(file.end.lock().window.is_none());
        write(&file, &[2; 100], 20_000).unwrap();
        let bytes = contents(&directory, 20_100);
        assert_eq!(bytes, [vec![1; 20_000], vec![2; 100]].concat());
    }

    #[test]
    fn file_that_was_cut_off_is_not_mapped_again() {
        let (_path, directory, file) = file();
        write(&file, b"before", 0).unwrap();
        file.set_len(6).unwrap();
        file.allocate(6..LEN).unwrap();
        write(&file, b"after", 6).unwrap();
        assert!(file.end.lock().window.is_none());
        assert_eq!(contents(&directory, 11), b"beforeafter");
    }

    /// The variable that makes this process the one that gets the signal.
    const CHILD: &str = "AGENTFS_SIGBUS_TEST_CHILD";

    #[test]
    fn bus_error_that_is_none_of_a_mapped_file_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            let (_path, _directory, file) = file();
            write(&file, b"mapped", 0).unwrap();
            // The first goes to the handler of Rust's runtime, which gives itself up for it. Those
            // that are raised before another one is taken are one with it.
            for _ in 0..10_000 {
                kill_process(getpid(), Signal::BUS).unwrap();
            }
            return;
        }
        let (_crate, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::bus_error_that_is_none_of_a_mapped_file_ends_the_process");
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", &name]).env(CHILD, "1").output();
        assert_eq!(output.unwrap().status.signal(), Some(Signal::BUS.as_raw()));
    }
}
