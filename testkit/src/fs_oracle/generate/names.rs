//! Generates operations on names.

use super::*;

impl Generator {
    pub(super) fn names(&mut self) -> Try {
        match self.rng.below(22) {
            0..=4 => self.mkdir(),
            5 => {
                let mode = self.dir_mode();
                Op::Mkdir {
                    path: self.any(),
                    mode,
                }
                .into()
            }
            6..=9 => self.symlink(),
            10..=12 => {
                let kind = self.rng.pick(&[Some(Kind::File), Some(Kind::File), None]);
                let from = self.world.existing(&mut self.rng, kind);
                let to = self.world.fresh(&mut self.rng);
                let known = self.world.kind(&from).unwrap_or(Kind::File);
                let then = Effect::Adds(to.clone(), known);
                let (from, to) = (spelled(&mut self.rng, &from), spelled(&mut self.rng, &to));
                Try {
                    op: Op::Link { from, to },
                    then,
                }
            }
            13 => {
                let path = self.world.fresh(&mut self.rng);
                let special = self.rng.pick(&[
                    Special::Regular,
                    Special::Fifo,
                    Special::Socket,
                    Special::Char(5, 1),
                    Special::Block(7, 300),
                ]);
                let is_device = matches!(special, Special::Char(..) | Special::Block(..));
                let special = if is_device && !self.users {
                    Special::Fifo
                } else {
                    special
                };
                let is_file = special == Special::Regular;
                let kind = if is_file { Kind::File } else { Kind::Special };
                let mode = self.rng.pick(&FILE_MODES);
                let op = Op::Mknod {
                    path: spelled(&mut self.rng, &path),
                    special,
                    mode,
                };
                Try {
                    op,
                    then: Effect::Adds(path, kind),
                }
            }
            _ => self.rename(),
        }
    }

    pub(super) fn symlink(&mut self) -> Try {
        let path = self.world.fresh(&mut self.rng);
        let target = match self.rng.below(10) {
            0..=3 => self.world.existing(&mut self.rng, None),
            4 => path.clone(),
            5 => self.world.fresh(&mut self.rng),
            6 => format!("{}/", self.world.existing(&mut self.rng, Some(Kind::Dir))),
            7 => ["", ".", "..", "/", "../..", "a1/../b1"][self.rng.below(6)].to_owned(),
            8 => "t".repeat(self.rng.pick(&[255, 4094, 4095, 4096])),
            // The target is relative to the link's own directory.
            _ => {
                let to = self.world.existing(&mut self.rng, None);
                let up = path.matches('/').count() - 1;
                format!("{}{}", "../".repeat(up), to.trim_start_matches('/'))
            }
        };
        let op = Op::Symlink {
            target: intern(target),
            path: spelled(&mut self.rng, &path),
        };
        Try {
            op,
            then: Effect::Adds(path, Kind::Link),
        }
    }

    pub(super) fn rename(&mut self) -> Try {
        let kind = self.rng.pick(&[None, Some(Kind::File), Some(Kind::Dir)]);
        let from = self.world.existing(&mut self.rng, kind);
        let known = self.world.kind(&from);
        let to = match self.rng.below(20) {
            0..=7 => self.world.fresh(&mut self.rng),
            8..=14 => self.world.existing(&mut self.rng, known),
            15 | 16 => self.world.any(&mut self.rng),
            17 => from.clone(),
            // The rename goes into the directory itself, or over a parent.
            18 => format!("{from}/c1"),
            _ => from.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned(),
        };
        let flags = match self.rng.below(20) {
            0..=12 => RenameFlags::None,
            13..=15 => RenameFlags::NoReplace,
            16..=18 => RenameFlags::Exchange,
            _ => RenameFlags::Both,
        };
        let then = match flags {
            _ if from == to || known.is_none() => Effect::None,
            RenameFlags::None | RenameFlags::NoReplace => Effect::Renames(from.clone(), to.clone()),
            RenameFlags::Exchange => Effect::Exchanges(from.clone(), to.clone()),
            RenameFlags::Both => Effect::None,
        };
        let (from, to) = (spelled(&mut self.rng, &from), spelled(&mut self.rng, &to));
        Try {
            op: Op::Rename { from, to, flags },
            then,
        }
    }

    pub(super) fn removal(&mut self) -> Try {
        let kind = self
            .rng
            .pick(&[Some(Kind::File), Some(Kind::File), Some(Kind::Dir), None]);
        let path = match kind {
            Some(Kind::Dir) => self.world.leaf_dir(&mut self.rng),
            _ => self.world.existing(&mut self.rng, kind),
        };
        let is_dir = self.world.kind(&path) == Some(Kind::Dir);
        let rmdir = is_dir != self.rng.chance(4);
        let then = Effect::Removes(path.clone());
        let path = spelled(&mut self.rng, &path);
        let op = if rmdir {
            Op::Rmdir { path }
        } else {
            Op::Unlink { path }
        };
        Try { op, then }
    }
}
