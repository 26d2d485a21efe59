//! A filesystem under test, and a sink that records the events it gets.

use std::sync::{Arc, Mutex};

use agentfs_core::event::{
    Change, CreatedBy, Envelope, EventKind, EventSink, NodeRef, Place, RenameHow,
};
use agentfs_core::{BackstoreMode, Branch, Caller, FsConfig, FsCore, HandleId, OpenFlags, Overlay};

/// Reports that a test, or the rest of it, is left out, and why.
#[expect(clippy::print_stderr, reason = "what is left out is said")]
pub(crate) fn left_out(why: &str, errno: impl std::fmt::Display) {
    eprintln!("LEFT OUT: {why}: {errno}");
}

pub(crate) struct World {
    pub(crate) fs: FsCore,
    pub(crate) b: Branch,
    pub(crate) root: Caller,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(FsConfig::default())
    }

    pub(crate) fn with(config: FsConfig) -> Self {
        let fs = FsCore::new(config).unwrap();
        let b = fs.branch(FsCore::MAIN).unwrap();
        Self {
            fs,
            b,
            root: Caller::root(),
        }
    }

    pub(crate) fn over(lower: &std::path::Path) -> Self {
        Self::kept_in(BackstoreMode::Memory, Some(lower))
    }

    /// Creates a filesystem that is kept there, over a directory or over nothing.
    pub(crate) fn kept_in(backstore: BackstoreMode, lower: Option<&std::path::Path>) -> Self {
        Self::with(FsConfig {
            backstore,
            overlay: lower.map(|lower| Overlay {
                lower: lower.to_owned(),
            }),
            ..FsConfig::default()
        })
    }

    pub(crate) fn mkdir(&self, path: &str) {
        self.b.mkdir(&self.root, path, 0o755).unwrap();
    }

    /// Makes the file, or replaces what it holds.
    pub(crate) fn put(&self, path: &str, content: &str) {
        put(&self.b, path, content);
    }

    pub(crate) fn get(&self, path: &str) -> String {
        get(&self.b, path)
    }

    pub(crate) fn open(&self, path: &str) -> HandleId {
        self.b
            .open(&self.root, path, OpenFlags::READ_WRITE, 0)
            .unwrap()
    }

    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        names(&self.b, path)
    }

    /// Subscribes a recorder, which hears everything from now on.
    pub(crate) fn listen(&self, activity: bool) -> Arc<Recorder> {
        let recorder = Arc::new(Recorder {
            activity,
            ..Recorder::default()
        });
        self.fs.subscribe_events(recorder.clone()).unwrap();
        recorder
    }
}

pub(crate) fn put(b: &Branch, path: &str, content: &str) {
    let root = Caller::root();
    let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::READ_WRITE;
    let h = b.open(&root, path, flags, 0o644).unwrap();
    assert_eq!(
        b.write(&root, h, content.as_bytes()).unwrap(),
        content.len()
    );
    b.close(&root, h).unwrap();
}

pub(crate) fn get(b: &Branch, path: &str) -> String {
    let root = Caller::root();
    let h = b.open(&root, path, OpenFlags::READ, 0).unwrap();
    let mut buffer = vec![0; usize::try_from(b.fstat(h).unwrap().size).unwrap()];
    assert_eq!(b.read(&root, h, &mut buffer).unwrap(), buffer.len());
    b.close(&root, h).unwrap();
    String::from_utf8(buffer).unwrap()
}

pub(crate) fn names(b: &Branch, path: &str) -> Vec<String> {
    let all = b.list(&Caller::root(), path).unwrap();
    let mut names: Vec<String> = all
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
        .collect();
    names.sort();
    names
}

#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) activity: bool,
    heard: Mutex<Vec<Envelope>>,
    pub(crate) batches: std::sync::atomic::AtomicUsize,
}

impl EventSink for Recorder {
    fn on_event(&self, _: &EventKind) {
        panic!("the envelope is what is asked for");
    }

    fn on_envelope(&self, envelope: &Envelope) {
        self.heard.lock().unwrap().push(envelope.clone());
    }

    fn wants_activity(&self) -> bool {
        self.activity
    }

    fn on_batch_end(&self) {
        self.batches
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Recorder {
    /// Returns the events since the last call.
    pub(crate) fn take(&self) -> Vec<Envelope> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }

    /// Returns the events since the last call, one line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.take()
            .iter()
            .map(|envelope| line(&envelope.change))
            .collect()
    }
}

fn place(at: &Place) -> String {
    at.path().display().to_string()
}

fn maybe(at: &Option<Place>) -> String {
    at.as_ref().map_or_else(|| "-".to_owned(), place)
}

/// Returns the kind, the link count, and a star if the object is open.
fn node(node: &NodeRef) -> String {
    let open = if node.open { "*" } else { "" };
    format!("{:?}{}{open}", node.kind, node.nlink)
}

/// Returns a change in a form that reads well in a table.
pub(crate) fn line(change: &Change) -> String {
    match change {
        Change::Created { node: n, at, by } => {
            let by = match by {
                CreatedBy::New => "",
                CreatedBy::Link => " link",
                CreatedBy::LinkTmpfile => " tmpfile",
            };
            format!("created {} {}{by}", place(at), node(n))
        }
        Change::Removed { node: n, at } => format!("removed {} {}", place(at), node(n)),
        Change::Written { node: n, at, size } => {
            format!("written {} {} {size:?}", maybe(at), node(n))
        }
        Change::Resized {
            node: n,
            at,
            size,
            by,
        } => {
            format!("resized {} {} {size:?} {by:?}", maybe(at), node(n))
        }
        Change::Attributes { node: n, at, set } => {
            let set: String = [
                (set.mode, "m"),
                (set.owner, "o"),
                (set.atime, "A"),
                (set.mtime, "M"),
            ]
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, letter)| *letter)
            .collect();
            format!("attributes {} {} {set}", maybe(at), node(n))
        }
        Change::Xattr {
            node: n,
            at,
            removed,
        } => {
            let how = if *removed { "removed" } else { "set" };
            format!("xattr {} {} {how}", maybe(at), node(n))
        }
        Change::Renamed {
            node: n,
            from,
            to,
            how,
        } => {
            let how = match how {
                RenameHow::Free => String::new(),
                RenameHow::Replaced(target) => format!(" over {}", node(target)),
                RenameHow::ExchangeFirst(other) => format!(" first, with {}", node(other)),
                RenameHow::ExchangeSecond(other) => format!(" second, with {}", node(other)),
            };
            format!("renamed {} to {} {}{how}", place(from), place(to), node(n))
        }
        Change::BranchCreated { id, name } => format!("branch {id} {name}"),
        Change::SnapshotCreated { id, name } => format!("snapshot {id} {name}"),
        Change::Opened { node: n, at } => format!("opened {} {}", maybe(at), node(n)),
        Change::Read { node: n, at } => format!("read {} {}", maybe(at), node(n)),
        Change::Closed {
            node: n,
            at,
            write,
            written,
        } => {
            let write = if *write { " write" } else { "" };
            let written = if *written { " written" } else { "" };
            format!("closed {} {}{write}{written}", maybe(at), node(n))
        }
    }
}
