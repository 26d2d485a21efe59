//! Checks what programs without the preloaded library hear on a mount.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use agentfs_client::Client;
use agentfs_core::{Branch, Caller, FsCore, OpenFlags};
use agentfs_daemon::{Config, Daemon, EchoMode};
use agentfs_proto::message::{Mount, Status};
use agentfs_testkit::environment::can_mount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use tempfile::TempDir;

use agentfs_testkit::child::{PATIENCE, soon};
use agentfs_testkit::daemon::{connect, private_directory};

struct World {
    client: Client,
    daemon: Daemon,
    point: TempDir,
    _directory: TempDir,
}

impl World {
    fn new(echo: EchoMode) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let directory = private_directory();
        let mut config = Config::new(directory.path().join("control.sock"));
        config.echo = echo;
        let daemon = Daemon::start(config).unwrap();
        let point = tempfile::tempdir().unwrap();
        let mut client = connect(daemon.socket());
        let request = Mount {
            branch: String::new(),
            path: point.path().into(),
        };
        client.call(request, soon()).unwrap();
        Some(Self {
            client,
            daemon,
            point,
            _directory: directory,
        })
    }

    fn main(&self) -> Branch {
        self.daemon.core().branch(FsCore::MAIN).unwrap()
    }

    /// Starts a program's watch, by system calls alone.
    fn watcher(&self) -> OwnedFd {
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE;
        add_watch(&fd, self.point.path(), flags).unwrap();
        fd
    }

    fn counter(&mut self, name: &str) -> u64 {
        let report = self.client.call(Status { after: 0 }, soon()).unwrap();
        let found = report.counters.iter().find(|it| it.name == name);
        found.unwrap().value
    }
}

/// Returns what a watcher hears, up to this event.
fn heard_until(fd: &OwnedFd, last: &str) -> Vec<String> {
    let mut heard: Vec<String> = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(fd, &mut buffer);
    while heard.last().map(String::as_str) != Some(last) {
        match reader.next() {
            Ok(event) => {
                let kinds = event.events() - ReadFlags::ISDIR;
                let kinds: Vec<_> = kinds.iter_names().map(|(name, _)| name).collect();
                let name = event.file_name().map_or("", |it| it.to_str().unwrap());
                heard.push(format!("{} {name}", kinds.join("+")));
            }
            Err(rustix::io::Errno::AGAIN) => {
                let wait = Timespec::try_from(PATIENCE).unwrap();
                let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&wait)).unwrap();
                assert!(ready > 0, "nothing after {heard:?}");
            }
            Err(errno) => panic!("{errno}"),
        }
    }
    heard
}

fn put(branch: &Branch, path: &str) {
    let root = Caller::root();
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let handle = branch.open(&root, path, flags, 0o644).unwrap();
    branch.write(&root, handle, b"text").unwrap();
    branch.close(&root, handle).unwrap();
}

#[test]
fn a_program_without_the_library_hears_each_change_once() {
    let Some(mut world) = World::new(EchoMode::Auto) else {
        return;
    };
    let (main, root) = (world.main(), Caller::root());
    let watcher = world.watcher();
    // The watch is found after the first change was made; the later changes find it at once.
    main.mkdir(&root, "/first", 0o755).unwrap();
    assert_eq!(heard_until(&watcher, "CREATE first"), ["CREATE first"]);
    for round in 0..50 {
        let (name, other) = (format!("n{round}"), format!("o{round}"));
        put(&main, &format!("/{name}"));
        let flags = agentfs_core::RenameFlags::REPLACE;
        main.rename(&root, format!("/{name}"), format!("/{other}"), flags)
            .unwrap();
        main.unlink(&root, format!("/{other}")).unwrap();
        let gone = format!("DELETE {other}");
        assert_eq!(
            heard_until(&watcher, &gone),
            [
                format!("CREATE {name}"),
                format!("MODIFY {name}"),
                format!("CLOSE_WRITE {name}"),
                format!("MOVED_FROM {name}"),
                format!("MOVED_TO {other}"),
                gone.clone(),
            ]
        );
    }
    // The kernel itself reports what a program does on the mount.
    fs::write(world.point.path().join("mine"), "x").unwrap();
    main.mkdir(&root, "/last", 0o755).unwrap();
    assert_eq!(
        heard_until(&watcher, "CREATE last"),
        [
            "CREATE mine",
            "MODIFY mine",
            "CLOSE_WRITE mine",
            "CREATE last"
        ]
    );
    assert_eq!(world.counter("echoes_failed"), 0);
    assert!(world.counter("echoes") >= 200);
}

#[test]
fn nothing_is_told_by_the_kernel_where_that_is_not_wanted() {
    let Some(mut world) = World::new(EchoMode::Never) else {
        return;
    };
    let watcher = world.watcher();
    world
        .main()
        .mkdir(&Caller::root(), "/outside", 0o755)
        .unwrap();
    fs::create_dir(world.point.path().join("inside")).unwrap();
    assert_eq!(heard_until(&watcher, "CREATE inside"), ["CREATE inside"]);
    assert_eq!(world.counter("echoes"), 0);
}

#[test]
fn who_watches_without_the_library_is_shown() {
    let Some(world) = World::new(EchoMode::Auto) else {
        return;
    };
    let run = |command: &str| {
        let directory = world.daemon.socket().parent().unwrap();
        let output = agentfs_testkit::daemon::agentfs(directory)
            .arg(command)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("doctor").contains("none on any mount"));
    let _watcher = world.watcher();
    let pid = std::process::id().to_string();
    let status = run("status");
    let line = status.lines().find(|it| it.starts_with(&pid)).unwrap();
    assert!(
        line.contains(world.point.path().to_str().unwrap()),
        "{line}"
    );
    assert!(run("doctor").contains(&format!("({pid})")));
}

#[test]
fn where_it_is_wanted_always_the_first_change_is_told_at_once() {
    let Some(world) = World::new(EchoMode::Always) else {
        return;
    };
    let watcher = world.watcher();
    let main = world.main();
    put(&main, "/f");
    let expected = ["CREATE f", "MODIFY f", "CLOSE_WRITE f"];
    assert_eq!(heard_until(&watcher, "CLOSE_WRITE f"), expected);
}
