//! Watches paths with inotify and prints one line for each event, the same in every run.
//!
//! ```text
//! ino_demo [--count N] [--mask HEX] PATH...
//! LD_PRELOAD=libagentfs_interpose_shim.so ino_demo /mnt/branch /mnt/branch/file
//! ```
//!
//! A line is the path, the event's names in the kernel's order, the entry's name or `-`, and for the
//! two halves of a rename `c1`, `c2` and so on instead of the cookie, which differs from run to run.
//! The program knows nothing of AgentFS.
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "calls libc, as programs do")
)]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::io::Result<()> {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::ffi::CString;
    use std::io::{Error, ErrorKind, Result, Write as _};

    const NAMES: [(u32, &str); 16] = [
        (libc::IN_ACCESS, "ACCESS"),
        (libc::IN_MODIFY, "MODIFY"),
        (libc::IN_ATTRIB, "ATTRIB"),
        (libc::IN_CLOSE_WRITE, "CLOSE_WRITE"),
        (libc::IN_CLOSE_NOWRITE, "CLOSE_NOWRITE"),
        (libc::IN_OPEN, "OPEN"),
        (libc::IN_MOVED_FROM, "MOVED_FROM"),
        (libc::IN_MOVED_TO, "MOVED_TO"),
        (libc::IN_CREATE, "CREATE"),
        (libc::IN_DELETE, "DELETE"),
        (libc::IN_DELETE_SELF, "DELETE_SELF"),
        (libc::IN_MOVE_SELF, "MOVE_SELF"),
        (libc::IN_UNMOUNT, "UNMOUNT"),
        (libc::IN_Q_OVERFLOW, "Q_OVERFLOW"),
        (libc::IN_IGNORED, "IGNORED"),
        (libc::IN_ISDIR, "ISDIR"),
    ];

    struct Arguments {
        count: usize,
        mask: u32,
        paths: Vec<String>,
    }

    fn arguments() -> Result<Arguments> {
        let wrong = |what: &str| Error::new(ErrorKind::InvalidInput, what.to_owned());
        let mut found = Arguments {
            count: usize::MAX,
            mask: libc::IN_ALL_EVENTS,
            paths: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--count" => {
                    let count = arguments.next().and_then(|it| it.parse().ok());
                    found.count = count.ok_or_else(|| wrong("--count takes a number"))?;
                }
                "--mask" => {
                    let mask = arguments
                        .next()
                        .and_then(|it| u32::from_str_radix(&it, 16).ok());
                    found.mask = mask.ok_or_else(|| wrong("--mask takes a hexadecimal number"))?;
                }
                _ => found.paths.push(argument),
            }
        }
        if found.paths.is_empty() {
            return Err(wrong("name a path to watch"));
        }
        Ok(found)
    }

    pub(crate) fn main() -> Result<()> {
        let arguments = arguments()?;
        // SAFETY: no preconditions.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) })?;
        let mut watches = BTreeMap::new();
        for path in arguments.paths {
            let name = CString::new(path.as_str())?;
            // SAFETY: a string.
            let wd = unsafe { libc::inotify_add_watch(fd, name.as_ptr(), arguments.mask) };
            watches.insert(check(wd)?, path);
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "ready")?;
        let mut printer = Printer {
            watches,
            cookies: Vec::new(),
        };
        let mut left = arguments.count;
        let mut buffer = vec![0_u8; 65_536];
        while left > 0 {
            // SAFETY: a buffer of this length.
            let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
            let read = usize::try_from(read).map_err(|_| Error::last_os_error())?;
            let mut rest = buffer.get(..read).unwrap_or_default();
            while let Some((line, after)) = printer.next(rest) {
                rest = after;
                if left > 0 {
                    writeln!(out, "{line}")?;
                    left -= 1;
                }
            }
            out.flush()?;
        }
        Ok(())
    }

    fn check(result: i32) -> Result<i32> {
        if result < 0 {
            return Err(Error::last_os_error());
        }
        Ok(result)
    }

    struct Printer {
        watches: BTreeMap<i32, String>,
        cookies: Vec<u32>,
    }

    impl Printer {
        /// The line of the first event, and what is behind it.
        fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<(String, &'a [u8])> {
            let word = |at: usize| -> Option<u32> {
                Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
            };
            let (wd, mask, cookie) = (word(0)?.cast_signed(), word(4)?, word(8)?);
            let end = 16 + usize::try_from(word(12)?).ok()?;
            let name = String::from_utf8_lossy(bytes.get(16..end)?).into_owned();
            let name = name.trim_end_matches('\0');
            let path = self.watches.get(&wd).map_or("?", String::as_str);
            let mut line = format!("{path} {}", names(mask));
            line.push(' ');
            line.push_str(if name.is_empty() { "-" } else { name });
            if cookie != 0 {
                line.push_str(&format!(" c{}", self.number(cookie)));
            }
            Some((line, bytes.get(end..)?))
        }

        fn number(&mut self, cookie: u32) -> usize {
            let known = self.cookies.iter().position(|it| *it == cookie);
            known.map_or_else(
                || {
                    self.cookies.push(cookie);
                    self.cookies.len()
                },
                |at| at + 1,
            )
        }
    }

    fn names(mask: u32) -> String {
        let set: Vec<&str> = NAMES
            .iter()
            .filter(|(bit, _)| mask & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        set.join("|")
    }
}
