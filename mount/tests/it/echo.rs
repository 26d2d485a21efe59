//! Tests changes of other origins, of which the kernel notifies every watcher on the mount.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, Origin};
use agentfs_core::{Branch, Caller, OpenFlags, RenameFlags, SetAttr, SetTime};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};

use crate::support::{Fixture, Mounted};

/// The changes that were not made on a mount.
#[derive(Default)]
pub(crate) struct Outside(Mutex<Vec<Change>>);

impl EventSink for Outside {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        if !matches!(envelope.origin, Origin::Mount(_)) {
            self.0.lock().unwrap().push(envelope.change.clone());
        }
    }

    fn wants_activity(&self) -> bool {
        true
    }
}

pub(crate) struct World {
    pub(crate) fixture: Fixture,
    pub(crate) mounted: Mounted,
    pub(crate) outside: Arc<Outside>,
    pub(crate) branch: Branch,
    pub(crate) root: Caller,
}

/// A watcher as in a program that does not know AgentFS.
pub(crate) struct Watcher {
    fd: OwnedFd,
    names: Vec<(i32, &'static str)>,
}

impl Watcher {
    pub(crate) fn on(mounted: &Mounted, paths: &[&'static str]) -> Self {
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let names = paths.iter().map(|path| {
            let wd = add_watch(&fd, mounted.path(path), WatchFlags::ALL_EVENTS).unwrap();
            (wd, *path)
        });
        let names = names.collect();
        Self { fd, names }
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        let mut heard = Vec::new();
        while let Ok(event) = reader.next() {
            let on = self.names.iter().find(|(wd, _)| *wd == event.wd());
            let on = on.map_or("?", |(_, name)| name);
            let flags = event.events();
            let is_dir = ReadFlags::ISDIR;
            let dir = if flags.contains(is_dir) { "/" } else { "" };
            let kinds: Vec<String> = (flags - is_dir)
                .iter_names()
                .map(|(name, _)| name.to_lowercase())
                .collect();
            let name = event.file_name().map_or("", |name| name.to_str().unwrap());
            heard.push(format!("{on}: {} {name}{dir}", kinds.join("+")));
        }
        heard
    }
}

impl World {
    pub(crate) fn new() -> Option<Self> {
        let fixture = Fixture::empty()?;
        let branch = fixture.main();
        let root = Caller::root();
        branch.mkdir(&root, "/d", 0o755).unwrap();
        branch.mkdir(&root, "/e", 0o755).unwrap();
        put(&branch, "/f", "first");
        put(&branch, "/g", "first");
        let mounted = fixture.mount();
        let outside = Arc::new(Outside::default());
        fixture.fs.subscribe_events(outside.clone()).unwrap();
        Some(Self {
            fixture,
            mounted,
            outside,
            branch,
            root,
        })
    }

    /// Returns what was done outside since the last call.
    pub(crate) fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut *self.outside.0.lock().unwrap())
    }

    /// Replays everything that was done outside since the last call.
    fn echo(&self) {
        let changes = self.changes();
        let mount = self.mounted.handle.info().id;
        for change in changes {
            self.fixture
                .mounts
                .echoes()
                .replay(mount, &[], &change)
                .unwrap();
        }
        assert_eq!(self.changes(), [], "an echo changes nothing");
    }
}

pub(crate) fn put(branch: &Branch, path: &str, text: &str) {
    let root = Caller::root();
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let handle = branch.open(&root, path, flags, 0o644).unwrap();
    branch.write(&root, handle, text.as_bytes()).unwrap();
    branch.close(&root, handle).unwrap();
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a table: a change and the events of its echo"
)]
fn the_kernel_tells_each_change_as_if_it_had_been_made_there() {
    let Some(w) = World::new() else { return };
    let watcher = Watcher::on(&w.mounted, &["", "d", "e", "f"]);
    let check = |what: &str, make: &dyn Fn(), expected: &[&str]| {
        make();
        assert_eq!(watcher.heard(), Vec::<String>::new(), "{what}: too early");
        w.echo();
        assert_eq!(watcher.heard(), expected, "{what}");
    };
    let b = &w.branch;
    check(
        "write",
        &|| put(b, "/f", "second"),
        &[
            ": modify f",
            "f: modify ",
            ": open f",
            "f: open ",
            ": close_write f",
            "f: close_write ",
        ],
    );
    check(
        "create",
        &|| put(b, "/d/new", "x"),
        &[
            "d: create new",
            "d: modify new",
            "d: open new",
            "d: close_write new",
        ],
    );
    check(
        "chmod",
        &|| {
            b.chmod(&w.root, "/d/new", 0o600).unwrap();
        },
        &["d: attrib new"],
    );
    check(
        "times",
        &|| {
            let set = SetAttr {
                mtime: Some(SetTime::To(5)),
                ..SetAttr::default()
            };
            let node = b.stat(&w.root, "/d/new").unwrap().node;
            b.setattr_node(&w.root, node, None, &set).unwrap();
        },
        &["d: modify new"],
    );
    check(
        "rename",
        &|| {
            b.rename(&w.root, "/d/new", "/e/newer", RenameFlags::REPLACE)
                .unwrap();
        },
        &["d: moved_from new", "e: moved_to newer"],
    );
    check(
        "rename over",
        &|| {
            b.rename(&w.root, "/g", "/f", RenameFlags::REPLACE).unwrap();
        },
        &[
            ": moved_from g",
            ": moved_to f",
            "f: attrib ",
            "f: delete_self ",
            "f: ignored ",
        ],
    );
    check(
        "unlink",
        &|| b.unlink(&w.root, "/e/newer").unwrap(),
        &["e: delete newer"],
    );
    check(
        "mkdir",
        &|| {
            b.mkdir(&w.root, "/d/sub", 0o700).unwrap();
        },
        &["d: create sub/"],
    );
    check(
        "rmdir",
        &|| b.rmdir(&w.root, "/d/sub").unwrap(),
        &["d: delete sub/"],
    );
    check(
        "rmdir of what is watched",
        &|| b.rmdir(&w.root, "/e").unwrap(),
        &["e: delete_self ", "e: ignored ", ": delete e/"],
    );
    check(
        "symlink",
        &|| {
            b.symlink(&w.root, "/f", "/d/link").unwrap();
        },
        &["d: create link"],
    );
    check(
        "exchange",
        &|| {
            b.rename(&w.root, "/d/link", "/f", RenameFlags::EXCHANGE)
                .unwrap();
        },
        &[
            "d: moved_from link",
            ": moved_to f",
            ": moved_from f",
            "d: moved_to link",
        ],
    );
}

/// Afterwards the mount shows what the branch has.
#[test]
fn an_echo_leaves_nothing_behind() {
    let Some(w) = World::new() else { return };
    let _watcher = Watcher::on(&w.mounted, &["", "d"]);
    let b = &w.branch;
    for round in 0..20 {
        let path = format!("/d/r{round}");
        put(b, &path, "one");
        b.rename(&w.root, &path, "/f", RenameFlags::REPLACE)
            .unwrap();
        put(b, &path, "two");
        b.unlink(&w.root, &path).unwrap();
        // The changes are echoed when they are long over.
        w.echo();
        let shown = |path: &str| fs::read_to_string(w.mounted.path(path));
        assert_eq!(shown("f").unwrap(), "one");
        shown(&path[1..]).unwrap_err();
        let listed = fs::read_dir(w.mounted.path("d")).unwrap().count();
        assert_eq!(listed, 0);
        let attr = b.stat(&w.root, "/f").unwrap();
        assert_eq!((attr.size, attr.nlink, attr.mode & 0o777), (3, 1, 0o644));
        let meta = fs::metadata(w.mounted.path("f")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&meta), 1);
    }
}
