use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

use super::faults::{self, Fault};
use super::{AttributeChange, Expected, Slot, Transaction, recover};
use crate::lower::{Fingerprint, HostObject, beneath, split};
use crate::model::errno::{Errno, Result};

/// Everything below a directory: inode number, mode, time of the last change of content, and bytes.
type Snapshot = BTreeMap<PathBuf, (u64, u32, i64, Vec<u8>)>;

fn snapshot(root: &Path) -> Snapshot {
    let mut all = Snapshot::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let (time, bytes) = if found.is_dir() {
                open.push(path.clone());
                (0, Vec::new())
            } else if found.is_symlink() {
                (
                    0,
                    fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes(),
                )
            } else {
                let time = found.mtime() * 1_000_000_000 + found.mtime_nsec();
                (time, fs::read(&path).unwrap())
            };
            all.insert(path, (found.ino(), found.mode(), time, bytes));
        }
    }
    all
}

/// The same without inode numbers and times, which differ between two runs.
fn shape(all: &Snapshot) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let shape = |(path, it): (&PathBuf, &(u64, u32, i64, Vec<u8>))| {
        let path: PathBuf = path.components().skip(3).collect();
        (path, (it.1, it.3.clone()))
    };
    all.iter().map(shape).collect()
}

/// A directory above, with a project in it.
struct Project {
    above: tempfile::TempDir,
    root: OwnedFd,
}

impl Project {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let project = above.path().join("project");
        fs::create_dir_all(project.join("empty")).unwrap();
        fs::create_dir(project.join("closed")).unwrap();
        fs::create_dir_all(project.join("moving/inner")).unwrap();
        for name in ["old", "gone", "over", "moved", "touched", "moving/inner/f"] {
            fs::write(project.join(name), name).unwrap();
        }
        fs::hard_link(project.join("old"), project.join("old2")).unwrap();
        std::os::unix::fs::symlink("old", project.join("link")).unwrap();
        let closed = fs::Permissions::from_mode(0o555);
        fs::set_permissions(project.join("closed"), closed).unwrap();
        let root = fs::File::open(&project).unwrap().into();
        Self { above, root }
    }

    fn path(&self) -> PathBuf {
        self.above.path().join("project")
    }

    fn expected(&self, path: &str) -> Expected {
        let (dir, name) = split(path.as_bytes());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = beneath::open(&self.root, dir, flags).unwrap();
        let fingerprint = Fingerprint::at(&dir, name).unwrap();
        Expected {
            fingerprint,
            exact: !fingerprint.is_dir(),
        }
    }
}

fn stage(transaction: &mut Transaction<'_>, text: &str) -> Result<Slot> {
    let slot = transaction.slot();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    faults::point()?;
    let mode = Mode::from_raw_mode(0o640);
    let file = rustix::fs::openat(transaction.staging(), slot.name(), flags, mode)?;
    faults::point()?;
    crate::disk::write_all(&file, text.as_bytes(), 0)?;
    Ok(slot)
}

/// Lists operations of every kind, several of them about one name.
fn list<'a>(project: &'a Project) -> Result<Transaction<'a>> {
    let mut all = Transaction::begin(&project.root)?;
    let new = stage(&mut all, "new content")?;
    let first = all.replace(new, b"old", project.expected("old"))?;
    assert!(first.is_file());
    let other = all.slot();
    rustix::fs::linkat(
        all.staging(),
        new.name(),
        all.staging(),
        other.name(),
        rustix::fs::AtFlags::empty(),
    )?;
    let was = Expected {
        exact: false,
        ..project.expected("old2")
    };
    all.replace(other, b"old2", was)?;
    all.remove(b"gone", Some(project.expected("gone")), 0);
    all.remove(b"never", None, 0);
    all.remove(b"empty", Some(project.expected("empty")), 0o755);
    all.remove(b"closed", Some(project.expected("closed")), 0o555);
    let dir = all.slot();
    rustix::fs::mkdirat(all.staging(), dir.name(), Mode::RWXU)?;
    let made = all.place(dir, b"gone")?;
    let inside = stage(&mut all, "inside")?;
    all.place(inside, b"gone/inside")?;
    all.rename(b"moving", b"gone/moving", project.expected("moving"));
    let deep = stage(&mut all, "deep")?;
    let f = project.expected("moving/inner/f");
    all.replace(deep, b"gone/moving/inner/f", f)?;
    let (moved, over) = (project.expected("moved"), project.expected("over"));
    all.rename_over(b"moved", b"over", moved, over);
    let link = all.slot();
    rustix::fs::symlinkat(c"elsewhere", all.staging(), link.name())?;
    all.replace(link, b"link", project.expected("link"))?;
    let object = HostObject::at(&project.root, b"touched")?;
    let after = AttributeChange {
        mode: Some(0o600),
        times: Some((1, 2)),
        xattrs: vec![(b"user.colour".to_vec(), Some(b"red".to_vec()))],
        ..AttributeChange::default()
    };
    let before = after.reverse(&object)?;
    let touched = project.expected("touched").fingerprint;
    all.set(b"touched", touched, before, after);
    let after = AttributeChange {
        mode: Some(0o555),
        ..AttributeChange::default()
    };
    all.set(b"gone", made, AttributeChange::default(), after);
    Ok(all)
}

fn run(project: &Project, is_plain: bool) -> Result<()> {
    let mut all = list(project)?;
    all.plain.set(is_plain);
    all.seal()?;
    while all.performed() < all.len() {
        assert!(all.perform_next()?, "nobody else is at work");
    }
    all.commit()
}

/// Returns what is beside the project.
fn beside(project: &Project) -> usize {
    fs::read_dir(project.above.path()).unwrap().count() - 1
}

/// Runs the transaction until it is stopped after so many points. Returns whether it was.
fn stopped_after(points: usize, fault: Fault, is_plain: bool) -> bool {
    let project = Project::new();
    let before = snapshot(&project.path());
    let is_kill = matches!(fault, Fault::Kill);
    faults::after(points, fault);
    let ended = run(&project, is_plain);
    let (_, was_stopped) = faults::end();
    if is_kill && was_stopped {
        recover(&project.root).unwrap();
    }
    let after = snapshot(&project.path());
    let is_after = after.contains_key(&project.path().join("gone/inside"));
    assert!(
        is_after || ended.is_err(),
        "what is said to be done is done"
    );
    if !is_after {
        assert_eq!(after, before, "after {points} points");
    } else {
        let whole = Project::new();
        run(&whole, false).unwrap();
        let wanted = shape(&snapshot(&whole.path()));
        assert_eq!(shape(&after), wanted, "after {points} points");
    }
    // A refused removal of what was replaced is made up for by the next command.
    recover(&project.root).unwrap();
    assert_eq!(beside(&project), 0, "after {points} points");
    was_stopped
}

fn at_every_point(fault: impl Fn() -> Fault) {
    for is_plain in [false, true] {
        let points = (0..).take_while(|points| stopped_after(*points, fault(), is_plain));
        let count = points.count();
        assert!(count > 40, "{count}");
    }
}

#[test]
fn a_kill_at_any_point_leaves_the_project_before_or_after() {
    at_every_point(|| Fault::Kill);
}

#[test]
fn a_full_disk_at_any_point_leaves_the_project_before_or_after() {
    at_every_point(|| Fault::Refuse(Errno::ENOSPC));
}

#[test]
fn a_kill_while_it_is_taken_back_is_no_different() {
    for points in 0.. {
        let project = Project::new();
        let before = snapshot(&project.path());
        let mut all = list(&project).unwrap();
        all.seal().unwrap();
        while all.performed() < all.len() {
            assert_eq!(all.perform_next(), Ok(true));
        }
        faults::after(points, Fault::Kill);
        drop(all);
        let (_, was_stopped) = faults::end();
        recover(&project.root).unwrap();
        assert_eq!(snapshot(&project.path()), before, "after {points} points");
        assert_eq!(beside(&project), 0);
        if !was_stopped {
            assert!(points > 15, "{points}");
            return;
        }
    }
}

/// As `list` runs, the host changes each of its paths before its turn.
#[test]
fn what_the_host_changes_before_its_turn_stays_and_takes_everything_back() {
    for path in [
        "old", "old2", "gone", "never", "empty", "over", "moved", "link", "touched",
    ] {
        for is_plain in [false, true] {
            let project = Project::new();
            let mut all = list(&project).unwrap();
            all.plain.set(is_plain);
            all.seal().unwrap();
            let at = project.path().join(path);
            match path {
                "empty" => fs::write(at.join("theirs"), "theirs").unwrap(),
                "link" => {
                    fs::remove_file(&at).unwrap();
                    fs::write(&at, "theirs").unwrap();
                }
                _ => {
                    let new = project.path().join("theirs");
                    fs::write(&new, "theirs").unwrap();
                    fs::rename(&new, &at).unwrap();
                }
            }
            let before = snapshot(&project.path());
            let mut is_done = true;
            while is_done && all.performed() < all.len() {
                is_done = all.perform_next().unwrap();
            }
            assert!(!is_done, "{path} was another one");
            drop(all);
            assert_eq!(snapshot(&project.path()), before, "{path}");
            assert_eq!(beside(&project), 0);
        }
    }
}

#[test]
fn what_somebody_did_after_a_crash_is_not_lost() {
    let project = Project::new();
    let mut all = list(&project).unwrap();
    all.seal().unwrap();
    while all.performed() < all.len() {
        assert_eq!(all.perform_next(), Ok(true));
    }
    // The process is killed here.
    faults::after(0, Fault::Kill);
    faults::point().unwrap_err();
    drop(all);
    let _ = faults::end();
    let at = |name: &str| project.path().join(name);
    fs::write(at("gone/theirs"), "theirs").unwrap();
    fs::write(at("old"), "edited after the crash").unwrap();
    fs::remove_file(at("link")).unwrap();
    recover(&project.root).unwrap();
    let read = |name: &str| fs::read_to_string(at(name)).unwrap();
    assert_eq!(read("old"), "edited after the crash");
    assert_eq!(read("gone/theirs"), "theirs");
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("old"));
    assert_eq!(
        (read("over"), read("moved")),
        ("over".into(), "moved".into())
    );
    assert_eq!(read("moving/inner/f"), "moving/inner/f");
    // What cannot have its name back is there under another one.
    let kept = fs::read_dir(project.path()).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        name.starts_with("agentfs-kept-")
            .then(|| fs::read_to_string(path).unwrap())
    });
    let mut kept: Vec<_> = kept.collect();
    kept.sort();
    assert_eq!(kept, ["gone", "old", "old"]);
    assert_eq!(beside(&project), 0);
}

#[test]
fn a_damaged_list_counts_as_none() {
    let project = Project::new();
    let all = list(&project).unwrap();
    let bytes = super::intent::encode(&all.ops);
    assert_eq!(super::intent::decode(&bytes), Some(all.ops.clone()));
    for len in 0..bytes.len() {
        assert_eq!(super::intent::decode(&bytes[..len]), None);
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(super::intent::decode(&damaged), None);
    }
}

#[test]
fn where_nothing_can_lie_beside_the_project_it_lies_inside_and_git_does_not_see_it() {
    let project = Project::new();
    for attempt in 0..4 {
        let ino = fs::metadata(project.path()).unwrap().ino();
        let name = super::names::area_name(ino, attempt);
        let name = String::from_utf8(name).unwrap();
        // It belongs to somebody else: it can be read by all.
        let taken = project.above.path().join(name);
        fs::create_dir(&taken).unwrap();
        fs::set_permissions(&taken, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let all = list(&project).unwrap();
    let inside = fs::read_dir(project.path()).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        super::is_temporary(path.file_name().unwrap().as_encoded_bytes()).then_some(path)
    });
    let inside: Vec<_> = inside.collect();
    assert_eq!(inside.len(), 1);
    assert_eq!(fs::read(inside[0].join(".gitignore")).unwrap(), b"*\n");
    drop(all);
    assert!(!inside[0].exists());
    run(&project, false).unwrap();
    assert!(!inside[0].exists());
    assert!(project.path().join("gone/inside").exists());
}
