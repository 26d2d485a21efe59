//! Tests a lower directory whose changes by the host are not announced: what a program looks at is
//! there all the same, and nothing is changed because of what is not there any more.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_core::{ApplyError, ApplyMode, Caller, FsConfig, LowerChange, Overlay};
use memmap2::Mmap;
use tempfile::TempDir;

use crate::support::{Fixture, Mounted};

const OLD: &str = "the old text of the host\n";
const NEW: &str = "THE NEW TEXT OF THE HOST\n";
const LONGER: &str = "the new text of the host, which is longer than the old\n";

struct Place {
    mount: Mounted,
    fixture: Fixture,
    host: TempDir,
}

impl Place {
    /// Creates a place with these files, each with the old text; returns `None` when mounting is
    /// left out.
    fn with(names: &[&str]) -> Option<Self> {
        let host = tempfile::tempdir().unwrap();
        for name in names {
            let path = host.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, OLD).unwrap();
        }
        let fixture = Fixture::new(FsConfig {
            overlay: Some(Overlay {
                lower: host.path().to_owned(),
            }),
            ..FsConfig::default()
        })?;
        let mount = fixture.mount();
        Some(Self {
            mount,
            fixture,
            host,
        })
    }

    fn below(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.mount.path(name)).unwrap()
    }

    fn names(&self, dir: &str) -> BTreeSet<String> {
        names(&self.mount.path(dir))
    }

    /// Asserts that applying finds that the host has changed these files, and leaves them alone.
    #[track_caller]
    fn refuses(&self, names: &[&str], text: &str) {
        let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        let refused = self.fixture.main().apply(ApplyMode::Refuse);
        assert_eq!(refused, Err(ApplyError::Conflicts(names.clone())));
        for name in names {
            assert_eq!(
                fs::read_to_string(self.host.path().join(name)).unwrap(),
                text
            );
        }
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

type Way = fn(&Path, &str);

fn in_place(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn by_rename(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Writes the file and sets its old modification time again, as `cp -p` and `tar` do.
fn with_the_old_time(path: &Path, text: &str) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, text).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

/// Replaces the file by another object, which usually gets the number of the one that is gone.
fn made_anew(path: &Path, text: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, text).unwrap();
}

const WAYS: [Way; 4] = [in_place, by_rename, with_the_old_time, made_anew];

#[test]
fn a_file_that_is_opened_has_what_the_host_wrote() {
    let Some(place) = Place::with(&["f", "dir/f"]) else {
        return;
    };
    for name in ["f", "dir/f"] {
        for (round, rewrite) in WAYS.into_iter().enumerate() {
            for text in [NEW, OLD, LONGER, "", "cut", OLD] {
                rewrite(&place.below(name), text);
                assert_eq!(place.read(name), text, "{name}, {round}");
                let size = fs::metadata(place.mount.path(name)).unwrap().len();
                assert_eq!(size, text.len() as u64, "{name}, {round}");
            }
        }
    }
}

#[test]
fn attributes_are_those_that_the_host_has() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let path = place.mount.path("f");
    for rewrite in WAYS {
        for text in [LONGER, "", OLD] {
            rewrite(&place.below("f"), text);
            assert_eq!(fs::metadata(&path).unwrap().len(), text.len() as u64);
        }
    }
}

#[test]
fn names_come_and_go_as_on_the_host() {
    let Some(place) = Place::with(&["f", "dir/f", "mine/f"]) else {
        return;
    };
    // The branch has made this file its own.
    fs::write(place.mount.path("mine/g"), "of the branch").unwrap();
    for dir in ["", "dir", "mine"] {
        let old = place.names(dir);
        let at = |name: &str| Path::new(dir).join(name);
        let new = place.mount.path(at("new").to_str().unwrap());
        assert_eq!(fs::metadata(&new).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(place.host.path().join(at("new")), NEW).unwrap();
        assert_eq!(fs::read_to_string(&new).unwrap(), NEW);
        let mut with_new = old.clone();
        with_new.insert("new".to_owned());
        assert_eq!(place.names(dir), with_new, "{dir}");
        fs::remove_file(place.host.path().join(at("new"))).unwrap();
        assert_eq!(place.names(dir), old, "{dir}");
        assert_eq!(fs::metadata(&new).unwrap_err().kind(), ErrorKind::NotFound);
        let gone = place.mount.path(at("f").to_str().unwrap());
        assert!(fs::exists(&gone).unwrap());
        fs::remove_file(place.host.path().join(at("f"))).unwrap();
        assert!(!fs::exists(&gone).unwrap());
    }
    assert_eq!(place.names("mine"), set(&["g"]));
}

/// The directory is listed as a program in Go lists it: without asking for the attributes first.
#[test]
fn a_directory_that_stays_open_is_listed_anew() {
    let Some(place) = Place::with(&["f", "mine/f"]) else {
        return;
    };
    fs::write(place.mount.path("mine/g"), "of the branch").unwrap();
    for dir in ["", "mine"] {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let path = place.mount.path(dir);
        let open = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
        let mut listing = rustix::fs::Dir::new(open).unwrap();
        for round in 0..50 {
            let name = format!("new-{round}");
            fs::write(place.host.path().join(dir).join(&name), NEW).unwrap();
            listing.rewind();
            let listed: Vec<_> = listing.by_ref().map(|entry| entry.unwrap()).collect();
            let is_listed = listed
                .iter()
                .any(|entry| entry.file_name().to_bytes() == name.as_bytes());
            assert!(is_listed, "{name} in {dir:?}");
        }
    }
}

#[test]
fn a_symbolic_link_leads_where_the_host_has_it_lead() {
    let Some(place) = Place::with(&["a", "b"]) else {
        return;
    };
    let (link, below) = (place.mount.path("link"), place.below("link"));
    symlink("a", &below).unwrap();
    for round in 0..20 {
        let target = ["b", "a"][round % 2];
        assert_eq!(
            fs::read_link(&link).unwrap(),
            Path::new(["a", "b"][round % 2])
        );
        // The new file usually gets the number of the one that is gone.
        fs::remove_file(&below).unwrap();
        symlink(target, &below).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(target), "{round}");
    }
}

/// A program that has the file open keeps the bytes it has until somebody opens the file again, as
/// on NFS; it never sees bytes that the file never had.
#[test]
fn a_file_that_is_open_never_shows_zeros() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let mut open = File::open(place.mount.path("f")).unwrap();
    let mut text = String::new();
    let mut before = OLD;
    for (round, next) in [LONGER, "cut", LONGER, OLD].into_iter().enumerate() {
        text.clear();
        open.seek(SeekFrom::Start(0)).unwrap();
        open.read_to_string(&mut text).unwrap();
        in_place(&place.below("f"), next);
        let size = open.metadata().unwrap().len();
        assert_eq!(size, next.len() as u64);
        text.clear();
        open.seek(SeekFrom::Start(0)).unwrap();
        open.read_to_string(&mut text).unwrap();
        assert!(text == next || text == before, "{round}: {text:?}");
        assert!(!text.contains('\0'), "{round}: {text:?}");
        before = next;
    }
}

#[test]
fn a_mapping_shows_what_the_host_wrote_once_somebody_opens_the_file() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let file = File::open(place.mount.path("f")).unwrap();
    #[expect(unsafe_code, reason = "the file is not cut while it is mapped")]
    // SAFETY: the file keeps its length, and what changes in it is compared as bytes.
    let mapping = unsafe { Mmap::map(&file) }.unwrap();
    assert_eq!(&*mapping, OLD.as_bytes());
    for rewrite in [in_place as Way, with_the_old_time] {
        for text in [NEW, OLD] {
            rewrite(&place.below("f"), text);
            assert_eq!(place.read("f"), text);
            assert_eq!(&*mapping, text.as_bytes());
        }
    }
}

/// Several programs open the file while the first one still waits for its answer.
#[test]
fn whoever_opens_a_file_sees_what_was_there_before_however_many_open_it() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let path = place.mount.path("f");
    for round in 0..300 {
        let text = format!("{round:0>25}");
        in_place(&place.below("f"), &text);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(fs::read_to_string(&path).unwrap(), text));
            }
        });
    }
}

/// The edit is made as an editor or `sed -i` makes it: with what was read before.
#[test]
fn an_edit_of_what_is_outdated_conflicts() {
    for rewrite in WAYS {
        let Some(place) = Place::with(&["saved", "replaced", "removed"]) else {
            return;
        };
        let text = place.read("saved");
        place.read("replaced");
        place.read("removed");
        for name in ["saved", "replaced", "removed"] {
            rewrite(&place.below(name), LONGER);
        }
        fs::write(place.mount.path("saved"), text.replace("old", "good old")).unwrap();
        fs::write(place.mount.path("beside"), text.replace("old", "good old")).unwrap();
        fs::rename(place.mount.path("beside"), place.mount.path("replaced")).unwrap();
        fs::remove_file(place.mount.path("removed")).unwrap();
        place.refuses(&["removed", "replaced", "saved"], LONGER);
    }
}

#[test]
fn what_is_open_from_before_cannot_change_a_part_of_what_is_there_now() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let path = place.mount.path("f");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut text = [0; 25];
    file.read_exact_at(&mut text, 0).unwrap();
    in_place(&place.below("f"), LONGER);
    let refused = file.write_all_at(b"THE", 0).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StaleNetworkFileHandle);
    assert_eq!(place.read("f"), LONGER);
    // A program that opens the file anew can write.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"THE", 0).unwrap();
    assert_eq!(place.read("f"), LONGER.replacen("the", "THE", 1));
    place.fixture.main().apply(ApplyMode::Refuse).unwrap();
    let applied = fs::read_to_string(place.below("f")).unwrap();
    assert_eq!(applied, LONGER.replacen("the", "THE", 1));
}

#[test]
fn a_page_of_what_is_outdated_is_not_written_over_what_is_there_now() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let path = place.mount.path("f");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    #[expect(unsafe_code, reason = "the file is not cut while it is mapped")]
    // SAFETY: nobody cuts the file while it is mapped, and nobody else has the mapping.
    let mut mapping = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    mapping[0..3].copy_from_slice(b"The");
    in_place(&place.below("f"), NEW);
    mapping.flush().unwrap_err();
    drop(mapping);
    drop(file);
    assert_eq!(place.read("f"), NEW);
    assert_eq!(fs::read_to_string(place.below("f")).unwrap(), NEW);
}

#[test]
fn what_is_appended_comes_after_what_the_host_wrote() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let path = place.mount.path("f");
    place.read("f");
    let mut file = File::options().append(true).open(&path).unwrap();
    in_place(&place.below("f"), LONGER);
    file.write_all(b"mine\n").unwrap();
    assert_eq!(place.read("f"), format!("{LONGER}mine\n"));
    place.refuses(&["f"], LONGER);
}

/// The host makes a file where the kernel believes that there is none.
#[test]
fn a_name_that_the_host_took_is_not_taken_again() {
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let new = place.mount.path("new");
    assert!(!fs::exists(&new).unwrap());
    fs::write(place.below("new"), NEW).unwrap();
    let taken = File::create_new(&new).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(place.read("new"), NEW);
}

/// The directory was created when no more directories could be watched, on a mount whose kernel was
/// allowed before to keep all listings.
#[test]
fn a_listing_is_not_kept_where_nobody_tells_of_changes_any_more() {
    const DEADLINE: Duration = Duration::from_secs(20);
    let Some(place) = Place::with(&["f"]) else {
        return;
    };
    let announced = place.fixture.fs.announced().unwrap();
    announced.add("".as_ref());
    announced.set_whole(true);
    assert_eq!(place.names(""), set(&["f"]));
    announced.set_whole(false);
    fs::create_dir(place.below("later")).unwrap();
    // The directory has an object of the branch: the directory's times say nothing of what the host
    // does in it.
    fs::write(place.mount.path("later/mine"), "of the branch").unwrap();
    for round in 0..20 {
        place.names("later");
        let name = format!("new-{round}");
        fs::write(place.below("later").join(&name), NEW).unwrap();
        // The kernel is made to drop the listing after it has it, and nothing announces when it
        // has.
        let until = Instant::now() + DEADLINE;
        while !place.names("later").contains(&name) {
            assert!(Instant::now() < until, "{name} is listed");
        }
    }
}

/// Where changes are announced, the kernel does not ask again: this is what makes watched files
/// fast.
#[test]
fn what_is_announced_is_asked_for_once() {
    let Some(place) = Place::with(&["f", "dir/f"]) else {
        return;
    };
    let announced = place.fixture.fs.announced().unwrap();
    announced.add("".as_ref());
    let size = |name: &str| fs::metadata(place.mount.path(name)).unwrap().len();
    for name in ["f", "dir/f"] {
        assert_eq!(size(name), OLD.len() as u64);
        in_place(&place.below(name), LONGER);
    }
    // The first size is remembered, because no change was announced; the second is not remembered.
    assert_eq!(size("f"), OLD.len() as u64);
    assert_eq!(size("dir/f"), LONGER.len() as u64);
    place
        .fixture
        .fs
        .lower_changed(&LowerChange::Written("f".into()));
    assert_eq!(size("f"), LONGER.len() as u64);
    // An open looks at the file all the same.
    in_place(&place.below("f"), "cut");
    assert_eq!(place.read("f"), "cut");
    let root = Caller::root();
    assert_eq!(place.fixture.main().stat(&root, "/f").unwrap().size, 3);
}
