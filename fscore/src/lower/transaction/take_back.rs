//! How operations are taken back: by what is found on the host, because after a crash nothing else
//! says which of them were performed.
//!
//! Objects are recognised by their inode numbers and versions, and not by the device, whose number
//! may be another one after a restart. What other programs have changed since stays as they left it.

use super::attributes::AttributeChange;
use super::faults;
use super::op::{At, Host, Op, Slot, is_empty, new_name, old_name, rename_plainly};
use crate::lower::host_object::HostObject;
use crate::lower::stat::Fingerprint;
use crate::model::errno::{Errno, Result};

impl Host<'_> {
    /// Takes an operation back. One that was not performed is left alone.
    pub(super) fn take_back(&self, op: &Op) -> Result<()> {
        match op {
            Op::Place { slot, new, path } => self.take_back_place(*slot, new, path),
            Op::Replace {
                slot,
                new,
                path,
                old,
            } => self.take_back_replace(*slot, new, path, &old.fingerprint),
            Op::Remove {
                slot,
                path,
                old,
                mode,
            } => match old {
                Some(old) => self.take_back_remove(*slot, path, &old.fingerprint, *mode),
                None => Ok(()),
            },
            Op::Rename { from, to, object } => self.take_back_rename(from, to, &object.fingerprint),
            Op::Set {
                path,
                object,
                before,
                after,
            } => self.take_back_set(path, object, before, after),
        }
    }

    fn take_back_place(&self, slot: Slot, new: &Fingerprint, path: &[u8]) -> Result<()> {
        let slot = slot.name();
        let staged = self.staged(&slot);
        if staged.look()?.is_some() {
            return Ok(());
        }
        let Some((dir, name)) = self.dir(path)? else {
            return Ok(());
        };
        let at = At { dir: &dir, name };
        let is_it = |now: Fingerprint| now.is_version_of(new);
        if !at.look()?.is_some_and(is_it) || (new.is_dir() && !is_empty(&at)?) {
            return Ok(());
        }
        self.no_replace(&at, &staged)?;
        // Another program may have been quicker.
        if staged.look()?.is_some_and(is_it) && (!new.is_dir() || is_empty(&staged)?) {
            return Ok(());
        }
        self.put_back(&staged, &at)
    }

    fn take_back_replace(
        &self,
        slot: Slot,
        new: &Fingerprint,
        path: &[u8],
        old: &Fingerprint,
    ) -> Result<()> {
        let slot = slot.name();
        let staged = self.staged(&slot);
        let kept_name = old_name(&slot);
        let kept = self.staged(&kept_name);
        // Where names cannot be exchanged, the old object may be on its way.
        let from = if kept.look()?.is_some_and(|now| now.is_object_of(old)) {
            kept
        } else if staged.look()?.is_some_and(|now| now.is_object_of(old)) {
            staged
        } else {
            return Ok(());
        };
        let Some((dir, name)) = self.dir(path)? else {
            return self.keep_in_root(&from);
        };
        let at = At { dir: &dir, name };
        match at.look()? {
            Some(now) if now.is_object_of(old) => {
                faults::point()?;
                Ok(rustix::fs::unlinkat(
                    from.dir,
                    from.name,
                    rustix::fs::AtFlags::empty(),
                )?)
            }
            Some(now) if now.is_version_of(new) => self.swap_back(&from, &at, new),
            Some(_) | None => self.put_back(&from, &at),
        }
    }

    /// Gives the old object its place, which the new one has.
    fn swap_back(&self, from: &At<'_>, at: &At<'_>, new: &Fingerprint) -> Result<()> {
        if self.plain.get() {
            // The new object may be one that was moved here: it is put back later.
            let name = new_name(from.name);
            rename_plainly(at, &self.staged(&name))?;
            return rename_plainly(from, at);
        }
        faults::point()?;
        self.exchange_back(from, at)?;
        if from.look()?.is_none_or(|now| now.is_version_of(new)) {
            return Ok(());
        }
        // Another program has put something there in this moment: it stays there.
        self.exchange_back(from, at)?;
        self.put_back(from, at)
    }

    fn take_back_remove(
        &self,
        slot: Slot,
        path: &[u8],
        old: &Fingerprint,
        mode: u32,
    ) -> Result<()> {
        let slot = slot.name();
        // Where names cannot be exchanged, what had taken another object's place is aside.
        let aside = old_name(&slot);
        let asides = [slot.clone(), new_name(&slot), new_name(&aside), aside];
        for aside in &asides {
            let staged = self.staged(aside);
            if !staged.look()?.is_some_and(|now| now.is_object_of(old)) {
                continue;
            }
            let Some((dir, name)) = self.dir(path)? else {
                return self.keep_in_root(&staged);
            };
            self.put_back(&staged, &At { dir: &dir, name })?;
        }
        if !old.is_dir() || mode & 0o200 != 0 {
            return Ok(());
        }
        // The directory was made writable so that it could be moved.
        let Some((dir, name)) = self.dir(path)? else {
            return Ok(());
        };
        match HostObject::at(&dir, name) {
            Ok(object) if Fingerprint::of(&object.stat()?).is_object_of(old) => {
                let mode = rustix::fs::Mode::from_raw_mode(mode as rustix::fs::RawMode);
                Ok(object.set_mode(mode)?)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn take_back_rename(&self, from: &[u8], to: &[u8], object: &Fingerprint) -> Result<()> {
        let (Some(from), Some(to)) = (self.dir(from)?, self.dir(to)?) else {
            return Ok(());
        };
        let from = At {
            dir: &from.0,
            name: from.1,
        };
        let to = At {
            dir: &to.0,
            name: to.1,
        };
        let is_it = |now: Fingerprint| now.is_object_of(object);
        if from.look()?.is_some() || !to.look()?.is_some_and(is_it) {
            return Ok(());
        }
        match self.no_replace(&to, &from) {
            Err(Errno::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }

    fn take_back_set(
        &self,
        path: &[u8],
        expected: &Fingerprint,
        before: &AttributeChange,
        after: &AttributeChange,
    ) -> Result<()> {
        let Some((dir, name)) = self.dir(path)? else {
            return Ok(());
        };
        let Ok(object) = HostObject::at(&dir, name) else {
            return Ok(());
        };
        let now = object.stat()?;
        if !Fingerprint::of(&now).is_object_of(expected) {
            return Ok(());
        }
        let before = before.without_times_unless(after, &now);
        faults::point()?;
        before.set(&object, &dir, name)
    }

    /// Keeps an object of the host whose directory is gone.
    fn keep_in_root(&self, from: &At<'_>) -> Result<()> {
        let name = super::names::kept_name();
        let kept = At {
            dir: self.root,
            name: &name,
        };
        self.no_replace(from, &kept)?;
        tracing::error!(
            kept_as = %String::from_utf8_lossy(&name),
            "the directory of a file that was replaced is gone; the file is in the project"
        );
        Ok(())
    }
}
