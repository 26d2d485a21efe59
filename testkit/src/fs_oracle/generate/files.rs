//! Generates operations on open files.

use super::*;

impl Generator {
    pub(super) fn open(&mut self) -> Try {
        let slot = self.rng.below(SLOTS);
        let access = self.rng.pick(&[O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, O_RDWR]);
        let (path, flags, kind) = match self.rng.below(20) {
            0..=6 => (
                self.world.fresh(&mut self.rng),
                access | O_CREAT,
                Kind::File,
            ),
            7 | 8 => (
                self.world.fresh(&mut self.rng),
                access | O_CREAT | O_EXCL,
                Kind::File,
            ),
            9 => (
                self.world.any(&mut self.rng),
                access | O_CREAT | O_EXCL,
                Kind::File,
            ),
            10..=12 => (
                self.world.existing(&mut self.rng, Some(Kind::File)),
                access,
                Kind::File,
            ),
            13 => (self.world.any(&mut self.rng), access | O_TRUNC, Kind::File),
            14 => (
                self.world.any(&mut self.rng),
                access | O_CREAT | O_TRUNC,
                Kind::File,
            ),
            15 => (
                self.world.existing(&mut self.rng, Some(Kind::Dir)),
                O_DIRECTORY,
                Kind::Dir,
            ),
            16 => (
                self.world.existing(&mut self.rng, Some(Kind::Link)),
                access | O_CREAT,
                Kind::File,
            ),
            17 => (
                self.world.any(&mut self.rng),
                access | O_NOFOLLOW,
                Kind::File,
            ),
            18 => (
                self.world.any(&mut self.rng),
                access | O_DIRECTORY,
                Kind::Dir,
            ),
            _ => (
                self.world.any(&mut self.rng),
                access | O_CREAT | O_NOFOLLOW,
                Kind::File,
            ),
        };
        let flags = if self.rng.chance(15) {
            flags | O_APPEND
        } else {
            flags
        };
        // Directories are opened to read.
        let kind = if self.world.kind(&path) == Some(Kind::Dir) {
            Kind::Dir
        } else {
            kind
        };
        let mode = self.rng.pick(&FILE_MODES);
        let op = Op::Open {
            slot,
            path: spelled(&mut self.rng, &path),
            flags,
            mode,
        };
        let creates = flags & O_CREAT != 0 && kind == Kind::File;
        let then = if creates {
            Effect::Creates(slot, path)
        } else {
            Effect::Opens(slot, kind)
        };
        Try { op, then }
    }

    pub(super) fn descriptor(&mut self) -> Try {
        let slot = self.file_slot();
        let (seed, len, at) = (self.seed(), self.length(), self.offset());
        let op = match self.rng.below(40) {
            0..=7 => Op::Write { slot, seed, len },
            8..=12 => Op::Pwrite {
                slot,
                at,
                seed,
                len,
            },
            13..=17 => Op::Pread { slot, at, len },
            18..=21 => Op::Read { slot, len },
            22..=24 => Op::Ftruncate { slot, len: at },
            25..=27 => {
                // These are only modes that every version of tmpfs knows, and one that none does.
                let mode = self.rng.pick(&[0, 0, 1, 3, 3, 2, 0x10]);
                let len = if self.rng.chance(95) {
                    self.rng.range(1..200_000)
                } else {
                    0
                };
                // The size is limited, so that the machine's memory does not decide.
                let at = if !(4_000_000..=1 << 61).contains(&at) {
                    at
                } else {
                    0
                };
                Op::Fallocate {
                    slot,
                    mode,
                    at,
                    len,
                }
            }
            28..=31 => self.seek(slot, at),
            32..=34 => {
                let to = self.file_slot();
                let to_at = self.offset();
                Op::CopyRange {
                    from: slot,
                    from_at: at,
                    to,
                    to_at,
                    len,
                }
            }
            35 | 36 => Op::Fstat { slot },
            37 => Op::Fsync { slot },
            _ => {
                return Try {
                    op: Op::Close { slot },
                    then: Effect::Closes(slot),
                };
            }
        };
        op.into()
    }

    pub(super) fn seek(&mut self, slot: usize, at: u64) -> Op {
        let whence = self.rng.pick(&[
            Whence::Set,
            Whence::Cur,
            Whence::End,
            Whence::Data,
            Whence::Hole,
        ]);
        let whence = match whence {
            // Where a lower file has holes is not known.
            Whence::Data | Whence::Hole if !self.seeks_holes => Whence::Set,
            other => other,
        };
        let to = at.cast_signed();
        let to = if self.rng.chance(15) {
            to.wrapping_neg()
        } else {
            to
        };
        Op::Seek { slot, whence, to }
    }
}
