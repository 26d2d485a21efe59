//! The variables of the environment that concern the shim, read once.
//!
//! The values are copied when the library is loaded: programs that rewrite their environment or
//! their process title (setproctitle) would pull the strings away later. No allocation, no lock.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. libc (environ(7)): `environ` is null or points to an array of pointers that ends with a null
//!    pointer, and every pointer before that one to a string that ends with a NUL.
//! 2. The program: while the environment is read, no other thread changes it. It is read when the library
//!    is loaded, before `main`, or else in the program's own first watch; getenv(3) asks the same.
#![expect(unsafe_code, reason = "walks the C environment")]

use std::ffi::{CStr, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::OnceLock;

/// One of the hooks that `AGENTFS_HOOKS_OFF` turns off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hook {
    Inotify,
    Read,
    Ioctl,
    Close,
    Dup,
    Syscall,
    Dlsym,
    Kqueue,
}

impl Hook {
    const ALL: [(&'static [u8], Self); 8] = [
        (b"inotify", Self::Inotify),
        (b"read", Self::Read),
        (b"ioctl", Self::Ioctl),
        (b"close", Self::Close),
        (b"dup", Self::Dup),
        (b"syscall", Self::Syscall),
        (b"dlsym", Self::Dlsym),
        (b"kqueue", Self::Kqueue),
    ];

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A value of a variable. One that is longer than any that makes sense is cut off.
#[derive(Clone, Copy, Debug)]
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    const EMPTY: Self = Self {
        bytes: [0; N],
        len: 0,
    };

    fn of(value: &[u8]) -> Self {
        let mut text = Self::EMPTY;
        for (to, from) in text.bytes.iter_mut().zip(value) {
            *to = *from;
            text.len += 1;
        }
        text
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn to_os(self) -> Option<OsString> {
        let value = self.get();
        (!value.is_empty()).then(|| OsStr::from_bytes(value).to_owned())
    }
}

/// The variables of the shim.
#[derive(Debug)]
pub(crate) struct Config {
    socket: Text<128>,
    runtime_dir: Text<128>,
    token: Text<32>,
    off: u32,
    any_filesystem: bool,
}

impl Config {
    /// Returns `AGENTFS_SOCKET`.
    pub(crate) fn socket(&self) -> Option<OsString> {
        self.socket.to_os()
    }

    /// Returns `XDG_RUNTIME_DIR`.
    pub(crate) fn runtime_dir(&self) -> Option<OsString> {
        self.runtime_dir.to_os()
    }

    /// Returns `AGENTFS_TOKEN`: 32 hexadecimal digits.
    pub(crate) fn token(&self) -> Option<&str> {
        let token = self.token.get();
        std::str::from_utf8(token).ok().filter(|it| !it.is_empty())
    }

    /// Returns whether `AGENTFS_HOOKS_OFF` names the hook, or `all`.
    pub(crate) fn is_off(&self, hook: Hook) -> bool {
        self.off & hook.bit() != 0
    }

    /// Returns whether `AGENTFS_ANY_FILESYSTEM` is 1: then the daemon's mount table alone decides what is
    /// AgentFS, and not the type of the filesystem. It serves authors of a filesystem that is not FUSE.
    pub(crate) fn any_filesystem(&self) -> bool {
        self.any_filesystem
    }

    fn read() -> Self {
        let mut config = Self {
            socket: Text::EMPTY,
            runtime_dir: Text::EMPTY,
            token: Text::EMPTY,
            off: 0,
            any_filesystem: false,
        };
        for variable in variables() {
            config.take(variable);
        }
        config
    }

    fn take(&mut self, variable: &[u8]) {
        if let Some(value) = variable.strip_prefix(b"AGENTFS_SOCKET=") {
            self.socket = Text::of(value);
        } else if let Some(value) = variable.strip_prefix(b"XDG_RUNTIME_DIR=") {
            self.runtime_dir = Text::of(value);
        } else if let Some(value) = variable.strip_prefix(b"AGENTFS_TOKEN=") {
            self.token = Text::of(value);
        } else if let Some(value) = variable.strip_prefix(b"AGENTFS_HOOKS_OFF=") {
            self.off = hooks_named(value);
        } else if let Some(value) = variable.strip_prefix(b"AGENTFS_ANY_FILESYSTEM=") {
            self.any_filesystem = value == b"1";
        }
    }
}

fn hooks_named(list: &[u8]) -> u32 {
    let mut off = 0;
    for name in list.split(|byte| *byte == b',') {
        for (known, hook) in Hook::ALL {
            if name == known || name == b"all" {
                off |= hook.bit();
            }
        }
    }
    off
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Returns the environment, each entry as `NAME=value`.
fn variables() -> impl Iterator<Item = &'static [u8]> {
    // SAFETY: 1 and 2: the variable exists in every program, and is not written meanwhile.
    let mut at = unsafe { environ };
    std::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: 1 and 2: `at` is not null and not behind the null pointer that ends the array.
        let entry = unsafe { *at };
        if entry.is_null() {
            return None;
        }
        // SAFETY: 1: this entry was not the last one, so the next is in the same array.
        at = unsafe { at.add(1) };
        // SAFETY: 1 and 2: the entry is not null, so it is a string, which nobody changes or frees while
        // it is copied. No longer: `Config::take` keeps no reference.
        Some(unsafe { CStr::from_ptr(entry) }.to_bytes())
    })
}

/// Returns the configuration. The first call reads the environment.
pub(crate) fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(Config::read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_turned_off_by_name() {
        assert_eq!(hooks_named(b""), 0);
        assert_eq!(hooks_named(b"read"), Hook::Read.bit());
        assert_eq!(
            hooks_named(b"dlsym,unknown,syscall"),
            Hook::Dlsym.bit() | Hook::Syscall.bit()
        );
        assert_eq!(hooks_named(b"all").count_ones(), 8);
    }

    #[test]
    fn a_value_that_is_too_long_is_cut() {
        assert_eq!(Text::<4>::of(b"abcdef").get(), b"abcd");
        assert_eq!(Text::<4>::of(b"ab").get(), b"ab");
    }
}
