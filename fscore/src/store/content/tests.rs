//! The content of files against arrays of bytes.

use agentfs_testkit::random::Random;

use super::{File, len_of};
use crate::store::extents::Extents;

/// A file, and what must be in it.
#[derive(Clone, Default)]
struct Pair {
    file: File,
    model: Vec<u8>,
}

impl Pair {
    fn check(&self, what: &str) {
        assert_eq!(self.file.size(), self.model.len() as u64, "{what}");
        let mut bytes = vec![1; self.model.len() + 10];
        let read = self.file.read(0, &mut bytes, &|_, _, _| Ok(0));
        assert_eq!(read, Ok(self.model.len()), "{what}");
        let differs = bytes.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}");
        assert_eq!(self.file.tally(0..u64::MAX), self.file.counted(), "{what}");
    }

    fn step(&mut self, extents: &std::sync::Arc<Extents>, random: &mut Random) -> String {
        let unit = [1, 100, 4096][len_of(random.range(0..3))];
        let start = random.range(0..12) * unit + random.range(0..2);
        let len = random.range(1..6) * unit;
        let (from, to) = (len_of(start), len_of(start + len));
        match random.range(0..6) {
            0 => {
                self.file.resize(start);
                self.model.resize(from, 0);
                format!("resize to {start}")
            }
            1 => {
                self.file.punch(extents, start, start + len).expect("room");
                let end = self.model.len();
                self.model[from.min(end)..to.min(end)].fill(0);
                format!("punch {start}..{}", start + len)
            }
            2 => {
                self.file.allocate(start, start + len);
                format!("allocate {start}..{}", start + len)
            }
            _ => {
                // Most files grow at their end.
                let start = if random.range(0..3) == 0 {
                    self.file.size()
                } else {
                    start
                };
                let data: Vec<u8> = (0..len)
                    .map(|_| random.next_u64().to_le_bytes()[0])
                    .collect();
                self.file.write(extents, start, &data).expect("room");
                let (from, to) = (len_of(start), len_of(start + len));
                self.model.resize(self.model.len().max(to), 0);
                self.model[from..to].copy_from_slice(&data);
                format!("write {start}..{}", start + len)
            }
        }
    }
}

/// Files that are written, cut and punched hold what arrays hold, clones do not change, files with
/// the same bytes are equal, and nothing is left once all are gone.
#[test]
fn files_agree_with_arrays_and_clones_do_not_change() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let extents = Extents::in_memory();
        let mut pairs = vec![Pair::default()];
        for step in 0..60 {
            let chosen = len_of(random.range(0..pairs.len() as u64));
            if random.range(0..8) == 0 && pairs.len() < 5 {
                pairs.push(pairs[chosen].clone());
            }
            let what = pairs[chosen].step(&extents, &mut random);
            for pair in &pairs {
                pair.check(&format!("seed {seed}, step {step}: {what}"));
            }
            for other in &pairs {
                let same = pairs[chosen].file.same_content(&other.file);
                let equal = pairs[chosen].model == other.model;
                assert_eq!(same, equal, "seed {seed}, step {step}: {what}");
            }
        }
        drop(pairs);
        assert_eq!(extents.in_use(), 0, "seed {seed}");
    }
}

#[test]
fn a_file_that_grows_write_by_write_has_few_pieces() {
    let extents = Extents::in_memory();
    let mut file = File::default();
    for write in 0..4096 {
        file.write(&extents, write * 1000, &[7; 1000])
            .expect("room");
    }
    let pieces = file.pieces.within(0..u64::MAX).count();
    assert!(pieces < 20, "{pieces}");
}

/// Overwriting page by page changes the pieces in place, also where one follows another.
#[test]
fn a_file_that_is_overwritten_stays_where_it_is() {
    let extents = Extents::in_memory();
    let mut file = File::default();
    let write = |file: &mut File, page: u64| {
        file.write(&extents, page * 4096, &[7; 4096]).expect("room");
    };
    let places = |file: &File| {
        let (_, parts) = file.parts(0..u64::MAX);
        let place = |part: &super::Part| (part.first, part.extent.at(), part.len);
        parts.iter().map(place).collect::<Vec<_>>()
    };
    (0..1000).for_each(|page| write(&mut file, page));
    let before = places(&file);
    (0..1000).for_each(|page| write(&mut file, page));
    assert_eq!(places(&file), before);
}

#[test]
fn what_is_overwritten_or_cut_is_free_again() {
    let extents = Extents::in_memory();
    let mut file = File::default();
    file.write(&extents, 0, &vec![7; 1 << 20]).expect("room");
    let whole = extents.in_use();
    file.punch(&extents, 1 << 18, 1 << 19).expect("room");
    assert_eq!(extents.in_use(), whole - (1 << 18));
    file.resize(1 << 17);
    assert_eq!(extents.in_use(), 1 << 17);
    let snapshot = file.clone();
    file.write(&extents, 4096, &[8; 4096]).expect("room");
    assert_eq!(extents.in_use(), (1 << 17) + 4096);
    drop(snapshot);
    file.resize(0);
    assert_eq!(extents.in_use(), 0);
}
