//! Predicts how a program will be notified, by how it is linked.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Finding, State};
use crate::platform;

const WHAT: &str = "the program";
/// How many scripts may be the interpreter of one another.
const DEPTH: usize = 4;
/// How many program headers are looked at.
const HEADERS: usize = 64;

/// Why the library is not loaded into a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Barrier {
    Static,
    Privileged,
    Musl,
    Foreign,
}

impl Barrier {
    /// Returns the state, what is found and what to do.
    fn finding(self) -> (State, &'static str, &'static str) {
        match self {
            Self::Static => (
                State::Limited,
                "is linked statically: nothing can be preloaded",
                "the kernel notifies it of changes on the mount. Changes from outside are replayed there \
                 for it (`agentfs daemon --echo`), which takes some tenths of a millisecond for each. A \
                 dynamically linked build is notified sooner",
            ),
            Self::Privileged => (
                State::Limited,
                "is setuid or setgid, or has capabilities: the loader preloads nothing",
                "the kernel notifies it of changes on the mount. Changes from outside are replayed there \
                 for it (`agentfs daemon --echo`). In a branch of an ordinary user it runs without its \
                 privileges",
            ),
            Self::Musl => (
                State::Missing,
                "is linked with musl, into which the library does not load",
                "it does not start under `agentfs run` and `agentfs exec`. Start it with LD_PRELOAD \
                 unset (`env -u LD_PRELOAD COMMAND`): then changes from outside are replayed for it",
            ),
            Self::Foreign => (
                State::Limited,
                "is for another processor than agentfs",
                "the loader reports that it cannot preload and goes on. Changes from outside are replayed \
                 on the mount for the program (`agentfs daemon --echo`)",
            ),
        }
    }
}

/// What is known of some programs: name, finding and advice.
const KNOWN: [(&str, &str, &str); 3] = [
    (
        "tail",
        "takes every mount for a remote filesystem, and looks once a second instead of watching",
        "it hears everything, a second late; -s 0.1 makes it look more often",
    ),
    (
        "tsc",
        "watches by fanotify from version 7 on, and then refuses mounts together with other \
         filesystems",
        "the compiler must lie in the project, and so in the branch: npm install --save-dev \
         typescript",
    ),
    (
        "watchman",
        "leaves watching to a server, which may be running outside of the branch already",
        "end that one first, with: watchman shutdown-server",
    ),
];

pub(super) fn look_at(name: &OsStr) -> Vec<Finding> {
    let Some(path) = find(name) else {
        let found = format!("{} is not on PATH", name.display());
        let advice = "name it as you would to a shell, or with its path";
        return vec![Finding::with(WHAT, State::Missing, found, advice)];
    };
    let mut findings = vec![linked(&path)];
    let stem = path.file_name().unwrap_or_default();
    for (_, found, advice) in KNOWN.iter().filter(|it| stem == it.0) {
        let found = format!("{} {found}", path.display());
        findings.push(Finding::with(WHAT, State::Limited, found, *advice));
    }
    findings
}

fn linked(path: &Path) -> Finding {
    let mut path = path.to_owned();
    for _ in 0..DEPTH {
        let shown = path.display().to_string();
        match Kind::of(&path) {
            Err(error) => {
                let found = format!("{shown}: {error}");
                return Finding::with(WHAT, State::Missing, found, "it cannot be looked at");
            }
            Ok(Kind::Script(interpreter)) => path = interpreter,
            Ok(Kind::Program(None)) => {
                let found = format!("{shown} is dynamically linked: the library is preloaded");
                return Finding::ok(WHAT, found);
            }
            Ok(Kind::Program(Some(barrier))) => {
                let (state, found, advice) = barrier.finding();
                return Finding::with(WHAT, state, format!("{shown} {found}"), advice);
            }
        }
    }
    let found = format!("{} is a script of a script of a script", path.display());
    Finding::with(WHAT, State::Limited, found, "name the program that runs it")
}

/// Finds a program as execvp(3) does.
fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let all = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&all).map(|folder| folder.join(name));
    places.find(|it| fs::metadata(it).is_ok_and(|it| it.is_file() && it.mode() & 0o111 != 0))
}

#[derive(PartialEq, Eq, Debug)]
enum Kind {
    /// A script, and the program that runs it.
    Script(PathBuf),
    Program(Option<Barrier>),
}

impl Kind {
    fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut start = Vec::new();
        file.by_ref().take(256).read_to_end(&mut start)?;
        if let Some(line) = start.strip_prefix(b"#!") {
            return interpreter(line).map(Self::Script);
        }
        let Some(header) = Header::parse(&start) else {
            let text = "neither a script nor a program";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        let barrier = if is_privileged(path)? {
            Some(Barrier::Privileged)
        } else if !header.is_ours {
            Some(Barrier::Foreign)
        } else {
            match header.loader(&mut file)? {
                None => Some(Barrier::Static),
                Some(loader) if loader.windows(7).any(|it| it == b"ld-musl") => Some(Barrier::Musl),
                Some(_) => None,
            }
        };
        Ok(Self::Program(barrier))
    }
}

/// Returns the program that the first line of a script names, or what `env` would run there.
fn interpreter(line: &[u8]) -> io::Result<PathBuf> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let none = || io::Error::new(io::ErrorKind::InvalidData, "a script without interpreter");
    let first = Path::new(OsStr::from_bytes(words.next().ok_or_else(none)?));
    if first.file_name() != Some(OsStr::new("env")) {
        return Ok(first.to_owned());
    }
    let is_setting = |word: &&[u8]| word.starts_with(b"-") || word.contains(&b'=');
    let name = words.find(|word| !is_setting(word)).ok_or_else(none)?;
    let name = OsString::from(OsStr::from_bytes(name));
    find(&name).ok_or_else(|| {
        let text = format!("its interpreter {} is not on PATH", name.display());
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// Returns whether a program runs with other rights than its caller's (`AT_SECURE`, getauxval(3)).
fn is_privileged(path: &Path) -> io::Result<bool> {
    let found = fs::metadata(path)?;
    let own = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let is_set = |bit: u32| found.mode() & bit != 0;
    let changes_user = is_set(0o4000) && found.uid() != own.0;
    let changes_group = is_set(0o2000) && found.gid() != own.1;
    Ok(changes_user || changes_group || (own.0 != 0 && platform::has_capabilities(path)))
}

/// The place of the program headers (elf(5)).
struct Header {
    is_ours: bool,
    offset: u64,
    entry: usize,
    count: usize,
}

impl Header {
    fn parse(start: &[u8]) -> Option<Self> {
        let rest = start.strip_prefix(b"\x7fELF")?;
        let machine = u16::from_le_bytes(start.get(18..20)?.try_into().ok()?);
        let own = match std::env::consts::ARCH {
            "x86_64" => 62,
            "aarch64" => 183,
            _ => machine,
        };
        Some(Self {
            // 64 bits, little-endian.
            is_ours: rest.starts_with(&[2, 1]) && machine == own,
            offset: u64::from_le_bytes(start.get(32..40)?.try_into().ok()?),
            entry: u16::from_le_bytes(start.get(54..56)?.try_into().ok()?).into(),
            count: u16::from_le_bytes(start.get(56..58)?.try_into().ok()?).into(),
        })
    }

    /// Returns the loader of the program (`PT_INTERP`), which would load the library.
    fn loader(&self, file: &mut File) -> io::Result<Option<Vec<u8>>> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut table = vec![0; self.entry * self.count.min(HEADERS)];
        file.read_exact(&mut table)?;
        let number = |header: &[u8], at: usize| {
            let bytes = header.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let headers = table.chunks_exact(self.entry.max(1));
        let interpreters = headers.filter(|it| it.starts_with(&3_u32.to_le_bytes()));
        let found = interpreters
            .filter_map(|it| Some((number(it, 8)?, number(it, 32)?)))
            .next();
        let Some((at, len)) = found else {
            return Ok(None);
        };
        file.seek(SeekFrom::Start(at))?;
        let mut name = Vec::new();
        file.take(len.min(4096)).read_to_end(&mut name)?;
        Ok(Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script_is_found() {
        let of = |line: &[u8]| interpreter(line).ok();
        assert_eq!(of(b"/bin/sh -e\nexit"), Some("/bin/sh".into()));
        assert_eq!(of(b" /bin/sh"), Some("/bin/sh".into()));
        assert_eq!(of(b"/usr/bin/env -S A=b sh\n"), find(OsStr::new("sh")));
        assert_eq!(of(b"\n"), None);
        assert_eq!(of(b"/usr/bin/env no-such-program\n"), None);
    }

    #[test]
    fn what_is_no_program_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        for content in ["", "text", "\x7fELF", "#!"] {
            fs::write(&file, content).unwrap();
            assert_eq!(linked(&file).state, State::Missing, "{content:?}");
        }
        fs::write(&file, format!("#!{}\n", file.display())).unwrap();
        assert_eq!(linked(&file).state, State::Limited);
    }
}
