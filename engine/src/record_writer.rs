//! Makes one record of what one watch hears, unless an unread record says it already.

use agentfs_core::event::{Change, Envelope, Origin, Place};
use agentfs_core::id::NodeId;
use agentfs_proto::record::flags::{HEALED, LAST_NAME};
use agentfs_proto::record::{AgentFsEvent, Kind};

use crate::queue::{Open, Slot, WatchId};
use crate::recent::{PATHS, PathFlags};
use crate::synth::fsevents::{self, CREATE_FILE_EVENTS, ROOT_CHANGED};
use crate::synth::inotify::{EntryName, Heard, IN_DELETE_SELF, IN_IGNORED, Step};
use crate::synth::{self, Role};
use crate::watch::path_hash;

/// What a watch hears of a change, in the terms of its API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ApiEvent {
    /// An inotify event, and whether the watch survives it.
    Inotify(Step, Heard),
    /// `NOTE_*` bits that are posted together to the knotes of one node.
    Vnode(Role, u32),
    /// An FSEvents entry, for a stream with these create flags.
    FsEvents(fsevents::Entry, u32),
    /// `kFSEventStreamEventFlagRootChanged`.
    RootChanged,
    /// A native record.
    Native,
    /// The watch is over, and the kernel has notified the program of that.
    Ended,
}

/// A change on its way to the queues, the same for all that hear it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoutedChange<'a> {
    pub(crate) envelope: &'a Envelope,
    /// What joins the two halves of a rename; 0 for other changes.
    pub(crate) cookie: u32,
    /// Record flags beyond those of the change.
    pub(crate) flags: u32,
}

impl RoutedChange<'_> {
    fn record(&self, watch: WatchId, node: Option<NodeId>) -> AgentFsEvent {
        AgentFsEvent {
            seqno: self.envelope.seq.0,
            ts_nanos: self.envelope.time_ns,
            node: node.map_or(0, |node| node.0),
            watch: watch.0,
            kind: synth::kind(&self.envelope.change),
            flags: synth::record_flags(&self.envelope.change) | self.flags,
            ..AgentFsEvent::default()
        }
    }

    fn node(&self, role: Role) -> Option<NodeId> {
        synth::nodes(&self.envelope.change)[role.index()]
    }

    fn names(&self) -> (Option<&Place>, Option<&Place>) {
        let change = &self.envelope.change;
        (change.place(), change.new_place())
    }
}

impl Open {
    /// Enqueues what a watch hears of a change. Returns whether the watch has ended and must be
    /// removed.
    pub(crate) fn enqueue(
        &mut self,
        slot: Slot,
        event: &ApiEvent,
        change: RoutedChange<'_>,
    ) -> bool {
        if !self.channel.admits(change.envelope.seq) {
            let seq = change.envelope.seq;
            if change.envelope.origin == Origin::Lower && !self.channel.is_among_missed(seq) {
                // Both states of a difference show the host as it is, so this change is in none.
                self.channel.overflow();
            }
            return false;
        }
        let Some(watch) = self.watches.get(slot) else {
            return false;
        };
        let id = watch.id;
        match event {
            ApiEvent::Inotify(step, heard) => self.enqueue_inotify(id, step, *heard, change),
            ApiEvent::Vnode(role, hint) => {
                self.enqueue_vnode(slot, *hint, change.record(id, change.node(*role)));
                false
            }
            ApiEvent::FsEvents(entry, create) => {
                self.enqueue_fsevents(id, *entry, *create, change);
                false
            }
            ApiEvent::RootChanged => {
                let event = AgentFsEvent {
                    mask: ROOT_CHANGED,
                    ..change.record(id, None)
                };
                self.channel.enqueue(&event, &[], &[]);
                false
            }
            ApiEvent::Native => {
                self.enqueue_native(id, change);
                false
            }
            ApiEvent::Ended => true,
        }
    }

    fn enqueue_inotify(
        &mut self,
        id: WatchId,
        step: &Step,
        heard: Heard,
        change: RoutedChange<'_>,
    ) -> bool {
        let record = change.record(id, change.node(step.role));
        let ignored = AgentFsEvent {
            kind: Kind::IGNORED,
            mask: IN_IGNORED,
            ..record
        };
        if heard == Heard::Ignored {
            self.recent.remember(&ignored, &[]);
            self.channel.enqueue(&ignored, &[], &[]);
            return true;
        }
        let (old, new) = change.names();
        let name = match step.name {
            EntryName::None => None,
            EntryName::Old => old,
            EntryName::New => new,
        };
        let name: &[u8] = name.map_or(&[], |place| &place.name);
        let event = AgentFsEvent {
            mask: step.mask,
            cookie: if step.has_cookie() { change.cookie } else { 0 },
            ..record
        };
        // As the kernel's `event_compare`: an event that the last unread one of the queue says
        // already is dropped. The cookie is not compared.
        let repeats = self.recent.watch == event.watch
            && self.recent.mask == event.mask
            && self.recent.path == name
            && self.channel.is_unread(self.channel.last);
        if repeats {
            self.channel.counters.coalesced += 1;
        } else {
            self.recent.remember(&event, name);
            self.channel.enqueue(&event, name, &[]);
        }
        if heard == Heard::LastEvent {
            self.recent.remember(&ignored, &[]);
            self.channel.enqueue(&ignored, &[], &[]);
        }
        heard == Heard::LastEvent
    }

    /// Enqueues what the reader of an inotify watch gets when the inode is gone. `wants` says
    /// whether the watch asked for `IN_DELETE_SELF`.
    pub(crate) fn enqueue_gone(&mut self, id: WatchId, wants: bool) {
        if wants {
            let event = AgentFsEvent {
                watch: id.0,
                kind: Kind::REMOVED,
                mask: IN_DELETE_SELF,
                flags: LAST_NAME | HEALED,
                ..AgentFsEvent::default()
            };
            self.recent.remember(&event, &[]);
            self.channel.enqueue(&event, &[], &[]);
        }
        self.enqueue_ignored(id);
    }

    /// Enqueues the `IN_IGNORED` of a watch that is gone.
    pub(crate) fn enqueue_ignored(&mut self, id: WatchId) {
        let ignored = AgentFsEvent {
            watch: id.0,
            kind: Kind::IGNORED,
            mask: IN_IGNORED,
            ..AgentFsEvent::default()
        };
        self.recent.remember(&ignored, &[]);
        self.channel.enqueue(&ignored, &[], &[]);
    }

    fn enqueue_vnode(&mut self, slot: Slot, hint: u32, record: AgentFsEvent) {
        let Some(watch) = self.watches.get(slot) else {
            return;
        };
        // Records are read in order, so while the first is unread all of them are.
        let unread = self.channel.is_unread(watch.first_unread);
        if unread && hint & !watch.unread_bits == 0 {
            self.channel.counters.coalesced += 1;
            return;
        }
        let event = AgentFsEvent {
            mask: hint,
            ..record
        };
        let place = self.channel.enqueue(&event, &[], &[]);
        if unread {
            watch.unread_bits |= hint;
        } else {
            watch.unread_bits = hint;
            watch.first_unread = place;
        }
    }

    fn enqueue_fsevents(
        &mut self,
        id: WatchId,
        entry: fsevents::Entry,
        create: u32,
        change: RoutedChange<'_>,
    ) {
        let (old, new) = change.names();
        let name = match entry.at {
            fsevents::At::Old => old,
            fsevents::At::New => new,
        };
        let path = &mut self.recent.scratch.0;
        path.clear();
        let mask = if create & CREATE_FILE_EVENTS != 0 {
            append_path(path, name);
            entry.flags
        } else {
            path.extend_from_slice(name.map_or(&[], |place| &place.dir));
            path.push(b'/');
            0
        };
        let hash = path_hash([path, &[]]);
        if self.recent.unread.is_empty() {
            self.recent.unread = vec![PathFlags::default(); PATHS];
        }
        #[expect(clippy::cast_possible_truncation, reason = "masked to a few bits")]
        let known = &mut self.recent.unread[hash as usize & (PATHS - 1)];
        let same = known.hash == hash && known.watch == id.0;
        let unread = same && self.channel.is_unread(known.first);
        if unread && mask & !known.flags == 0 {
            self.channel.counters.coalesced += 1;
            return;
        }
        let event = AgentFsEvent {
            mask,
            data: change.envelope.seq.0,
            ..change.record(id, change.node(Role::Object))
        };
        let place = self.channel.enqueue(&event, path, &[]);
        if unread {
            known.flags |= mask;
        } else {
            *known = PathFlags {
                hash,
                watch: id.0,
                flags: mask,
                first: place,
            };
        }
    }

    fn enqueue_native(&mut self, id: WatchId, change: RoutedChange<'_>) {
        let (old, new) = change.names();
        let mut event = AgentFsEvent {
            data: u64::from(change.envelope.pid),
            ..change.record(id, change.node(Role::Object))
        };
        let (path, aux) = &mut self.recent.scratch;
        path.clear();
        aux.clear();
        if let Change::BranchCreated { id, name } = &change.envelope.change {
            path.extend_from_slice(name.as_bytes());
            event.data = id.0;
        } else if let Change::SnapshotCreated { id, name } = &change.envelope.change {
            path.extend_from_slice(name.as_bytes());
            event.data = id.0;
        } else {
            append_path(path, old);
        }
        if new.is_some() {
            append_path(aux, new);
        }
        let repeats = event.kind == Kind::MODIFIED
            && self.recent.kind == event.kind
            && self.recent.watch == event.watch
            && self.recent.flags == event.flags
            && self.recent.path == *path
            && self.channel.is_unread(self.channel.last);
        if repeats {
            self.channel.counters.coalesced += 1;
            return;
        }
        self.channel.enqueue(&event, path, aux);
        std::mem::swap(&mut self.recent.path, path);
        self.recent.key(&event);
    }
}

/// Appends the path of a name; without a name, the path of the root.
fn append_path(path: &mut Vec<u8>, name: Option<&Place>) {
    if let Some(name) = name {
        path.extend_from_slice(&name.dir);
    }
    path.push(b'/');
    if let Some(name) = name {
        path.extend_from_slice(&name.name);
    }
}
