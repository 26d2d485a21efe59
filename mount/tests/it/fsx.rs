//! Exercises one file in every way at once, and compares it with a model of its bytes: the
//! algorithm of fsx (Apple's and Linux's file system exerciser), in which reads and writes meet
//! maps, truncation, holes and copies in pages that are half of the one and half of the other.
//!
//! `AGENTFS_FSX_OPERATIONS` sets how many operations a seed has.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use agentfs_testkit::random::Random;
use memmap2::MmapOptions;
use rustix::fs::FallocateFlags;

use crate::support::{Fixture, program};

/// The largest file, as fsx has it by default.
const MAX: u64 = 256 * 1024;
/// The longest single operation.
const LONGEST: u64 = 64 * 1024;

struct Exercise {
    file: File,
    path: std::path::PathBuf,
    model: Vec<u8>,
    rng: Random,
    seed: u64,
    number: u64,
}

impl Exercise {
    fn new(path: &Path, seed: u64) -> Self {
        let mut options = File::options();
        options.create_new(true).read(true).write(true);
        Self {
            file: options.open(path).unwrap(),
            path: path.to_owned(),
            model: Vec::new(),
            rng: Random::new(seed),
            seed,
            number: 0,
        }
    }

    fn run(&mut self, operations: u64) {
        for number in 0..operations {
            self.number = number;
            self.step();
            if number % 1000 == 999 {
                self.compare_all();
            }
        }
        self.compare_all();
    }

    /// Returns a range whose start is in the file or not far behind it.
    fn range(&mut self) -> (u64, u64) {
        let start = self.rng.range(0..MAX);
        let length = 1 + self.rng.range(0..LONGEST);
        (start, length.min(MAX - start))
    }

    /// Returns a range within the file; `None` when there is none.
    fn range_inside(&mut self) -> Option<(usize, usize)> {
        let size = self.model.len() as u64;
        if size == 0 {
            return None;
        }
        let start = self.rng.range(0..size);
        let length = (1 + self.rng.range(0..LONGEST)).min(size - start);
        Some((index(start), index(length)))
    }

    fn step(&mut self) {
        match self.rng.range(0..11) {
            0 | 1 => self.read(),
            2 | 3 => self.write(),
            4 => self.read_map(),
            5 => self.write_map(),
            6 => self.truncate(),
            7 => self.punch(),
            8 => self.zero(),
            9 => self.copy(),
            _ => self.allocate_or_reopen(),
        }
        let size = self.file.metadata().unwrap().len();
        assert_eq!(size, self.model.len() as u64, "{}", self.where_from());
    }

    fn where_from(&self) -> String {
        format!("seed {}, operation {}", self.seed, self.number)
    }

    fn compare(&self, start: usize, seen: &[u8]) {
        let expected = &self.model[start..start + seen.len()];
        if let Some(at) = expected.iter().zip(seen).position(|(a, b)| a != b) {
            panic!(
                "{}: byte {:#x} is {:#x} and should be {:#x}",
                self.where_from(),
                start + at,
                seen[at],
                expected[at]
            );
        }
    }

    fn read(&mut self) {
        if let Some((start, length)) = self.range_inside() {
            let mut buffer = vec![0; length];
            self.file.read_exact_at(&mut buffer, start as u64).unwrap();
            self.compare(start, &buffer);
        }
    }

    fn grow(&mut self, end: u64) {
        if index(end) > self.model.len() {
            self.model.resize(index(end), 0);
        }
    }

    fn write(&mut self) {
        let (start, length) = self.range();
        let byte = self.rng.next_u64().to_le_bytes()[0];
        let data: Vec<u8> = (0..length)
            .map(|at| byte.wrapping_add(at.to_le_bytes()[0]))
            .collect();
        self.file.write_all_at(&data, start).unwrap();
        self.grow(start + length);
        self.model[index(start)..index(start + length)].copy_from_slice(&data);
    }

    /// Maps a range of the file, and returns what `with` makes of it.
    fn map<T>(&self, start: usize, length: usize, with: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut options = MmapOptions::new();
        options.offset(start as u64).len(length);
        #[expect(
            unsafe_code,
            reason = "nobody can promise that a mapped file stays as it is"
        )]
        // SAFETY: this thread alone changes the file, and not while the map lives.
        let mut map = unsafe { options.map_mut(&self.file) }.unwrap();
        let result = with(&mut map);
        map.flush().unwrap();
        result
    }

    fn read_map(&mut self) {
        if let Some((start, length)) = self.range_inside() {
            let seen = self.map(start, length, |bytes| bytes.to_vec());
            self.compare(start, &seen);
        }
    }

    fn write_map(&mut self) {
        if let Some((start, length)) = self.range_inside() {
            let byte = self.rng.next_u64().to_le_bytes()[0];
            self.map(start, length, |bytes| bytes.fill(byte));
            self.model[start..start + length].fill(byte);
        }
    }

    fn truncate(&mut self) {
        let size = self.rng.range(0..MAX);
        self.file.set_len(size).unwrap();
        self.model.resize(index(size), 0);
    }

    fn punch(&mut self) {
        let (start, length) = self.range();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, start, length).unwrap();
        let end = index(start + length).min(self.model.len());
        if index(start) < end {
            self.model[index(start)..end].fill(0);
        }
    }

    /// Zeroes a range by `FALLOC_FL_ZERO_RANGE`, which tmpfs does not have and FsCore need not
    /// have.
    fn zero(&mut self) {
        let (start, length) = self.range();
        match rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, start, length) {
            Ok(()) => {
                self.grow(start + length);
                self.model[index(start)..index(start + length)].fill(0);
            }
            Err(error) => assert_eq!(error, rustix::io::Errno::OPNOTSUPP),
        }
    }

    /// Copies by copy_file_range(2) within the file, between ranges that do not overlap.
    fn copy(&mut self) {
        let Some((from, length)) = self.range_inside() else {
            return;
        };
        let to = index(self.rng.range(0..MAX - length as u64));
        if from < to + length && to < from + length {
            return;
        }
        let (mut from_at, mut to_at) = (from as u64, to as u64);
        let mut left = length;
        while left > 0 {
            let copied = rustix::fs::copy_file_range(
                &self.file,
                Some(&mut from_at),
                &self.file,
                Some(&mut to_at),
                left,
            )
            .unwrap();
            assert_ne!(copied, 0, "{}", self.where_from());
            left -= copied;
        }
        self.grow((to + length) as u64);
        self.model.copy_within(from..from + length, to);
    }

    fn allocate_or_reopen(&mut self) {
        if self.rng.range(0..2) == 0 {
            let (start, length) = self.range();
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), start, length).unwrap();
            self.grow(start + length);
        } else {
            let mut options = File::options();
            self.file = options.read(true).write(true).open(&self.path).unwrap();
        }
    }

    fn compare_all(&self) {
        let seen = std::fs::read(&self.path).unwrap();
        assert_eq!(seen.len(), self.model.len(), "{}", self.where_from());
        self.compare(0, &seen);
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

#[test]
fn a_file_holds_what_was_put_into_it_in_whatever_way() {
    if let Some(fixture) = Fixture::empty() {
        exercise(&fixture, 0..2);
    }
}

#[test]
fn a_file_in_a_store_holds_what_was_put_into_it_in_whatever_way() {
    if let Some(fixture) = Fixture::in_store() {
        exercise(&fixture, 2..4);
    }
}

fn exercise(fixture: &Fixture, seeds: Range<u64>) {
    let mount = fixture.mount();
    let operations = std::env::var("AGENTFS_FSX_OPERATIONS").map_or(10_000, |text| {
        text.parse().expect("AGENTFS_FSX_OPERATIONS is a number")
    });
    std::thread::scope(|scope| {
        for seed in seeds {
            let path = mount.path(&format!("f{seed}"));
            scope.spawn(move || Exercise::new(&path, seed).run(operations));
        }
    });
}

/// The configuration of the exerciser of crates.io: it does everything that it can.
const CONFIG: &str = "
flen = 131072

[opsize]
max = 16384

[weights]
close_open = 1
copy_file_range = 5
invalidate = 1
mapread = 10
mapwrite = 10
posix_fallocate = 2
posix_fadvise = 1
punch_hole = 3
read = 10
sendfile = 5
fsync = 1
truncate = 5
write = 10
";

#[test]
fn the_exerciser_of_others_finds_nothing_in_60_000_operations() {
    if let (Some(fixture), Some(fsx)) = (Fixture::empty(), program("AGENTFS_FSX")) {
        exercise_by_others(&fixture, &fsx, "60000");
    }
}

#[test]
fn the_exerciser_of_others_finds_nothing_in_40_000_operations_in_a_store() {
    if let (Some(fixture), Some(fsx)) = (Fixture::in_store(), program("AGENTFS_FSX")) {
        exercise_by_others(&fixture, &fsx, "40000");
    }
}

fn exercise_by_others(fixture: &Fixture, fsx: &Path, operations: &str) {
    let mount = fixture.mount();
    let outside = tempfile::tempdir().unwrap();
    let config = outside.path().join("fsx.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let output = Command::new("timeout")
        .args(["-k", "5", "240"])
        .arg(fsx)
        .args(["-q", "-N", operations, "-S", "1"])
        .arg("-f")
        .arg(&config)
        .arg("-P")
        .arg(outside.path())
        .arg(mount.path("f"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("All operations completed"), "{said}");
}
