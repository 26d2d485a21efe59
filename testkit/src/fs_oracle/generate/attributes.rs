//! Generates attributes, and operations that only look.

use super::*;

impl Generator {
    pub(super) fn attributes(&mut self) -> Try {
        let path = self.any();
        let follow = self.rng.chance(75);
        let slot = self.world.open_slot(&mut self.rng, None);
        let (uid, gid) = (self.id(), self.id());
        let (atime, mtime) = (self.stamp(), self.stamp());
        let op = match self.rng.below(30) {
            0..=4 => Op::Chmod {
                path,
                mode: self.mode(),
            },
            5 => Op::Fchmod {
                slot,
                mode: self.mode(),
            },
            6..=9 => Op::Chown {
                path,
                uid,
                gid,
                follow,
            },
            // A setattr that sets nothing is no call: one id is given.
            10 => Op::Fchown {
                slot,
                uid: uid.or(Some(1000)),
                gid,
            },
            11..=14 => Op::Utimens {
                path,
                atime,
                mtime,
                follow,
            },
            15 => Op::Futimens { slot, atime, mtime },
            16..=18 => {
                let len = self.offset();
                Op::Truncate {
                    path: self.path(Some(Kind::File)),
                    len,
                }
            }
            19..=22 => {
                let len = self.rng.pick(&[0, 1, 30, 30, 2000]);
                let flags = self.rng.pick(&[0, 0, 0, 0, 0, 1, 1, 2, 3, 8]);
                let seed = self.seed();
                let path = self.marked(path);
                let name = self.xattr();
                let op = Op::SetXattr {
                    path,
                    name,
                    seed,
                    len,
                    flags,
                    follow,
                };
                return Try {
                    op,
                    then: Effect::Marks(path),
                };
            }
            23 | 24 => Op::GetXattr {
                path: self.marked(path),
                name: self.xattr(),
                follow,
            },
            25 => Op::ListXattr {
                path: self.marked(path),
                follow,
            },
            26 | 27 => Op::RemoveXattr {
                path: self.marked(path),
                name: self.xattr(),
                follow,
            },
            _ => Op::Access {
                path,
                mask: self.rng.pick(&[0, 1, 2, 4, 6, 7, 8]),
            },
        };
        op.into()
    }

    pub(super) fn dir_mode(&mut self) -> u32 {
        let mode = self.rng.pick(&DIR_MODES);
        // Where this machine guards sticky directories that others can write to
        // (`fs.protected_symlinks` and its kin), there shall be none.
        if mode & 0o1000 != 0 && guards_sticky_dirs() {
            mode & !0o022
        } else {
            mode
        }
    }

    /// Returns mostly the path that got an extended attribute last.
    pub(super) fn marked(&mut self, other: &'static str) -> &'static str {
        match self.world.marked {
            Some(path) if self.rng.chance(70) => path,
            _ => other,
        }
    }

    pub(super) fn xattr(&mut self) -> &'static str {
        match self.rng.below(60) {
            0 => intern(format!("user.{}", "x".repeat(250))),
            1 => intern(format!("user.{}", "x".repeat(251))),
            2 => "",
            _ => self.rng.pick(&XATTRS),
        }
    }

    pub(super) fn mode(&mut self) -> u32 {
        if self.rng.chance(50) {
            self.rng.pick(&FILE_MODES)
        } else {
            self.dir_mode()
        }
    }

    pub(super) fn id(&mut self) -> Option<u32> {
        if !self.users {
            return self.rng.pick(&[None, Some(0)]);
        }
        self.rng.pick(&[
            None,
            None,
            Some(0),
            Some(1000),
            Some(1000),
            Some(1001),
            Some(3000),
        ])
    }

    pub(super) fn stamp(&mut self) -> Stamp {
        match self.rng.below(6) {
            0 => Stamp::Omit,
            1 => Stamp::Now,
            2 => Stamp::At(-5, 7),
            _ => Stamp::At(
                i64::try_from(self.rng.range(0..1_400_000_000)).unwrap(),
                u32::try_from(self.rng.range(0..1_000_000_000)).unwrap(),
            ),
        }
    }

    pub(super) fn look(&mut self) -> Try {
        let op = match self.rng.below(20) {
            0..=8 => {
                let follow = self.rng.chance(60);
                Op::Stat {
                    path: self.any(),
                    follow,
                }
            }
            9..=12 => Op::Readdir {
                path: self.path(Some(Kind::Dir)),
            },
            13 => Op::Readdir { path: self.any() },
            14..=16 => Op::Readlink {
                path: self.path(Some(Kind::Link)),
            },
            17 => Op::Readlink { path: self.any() },
            _ => Op::Statfs { path: self.any() },
        };
        op.into()
    }
}
