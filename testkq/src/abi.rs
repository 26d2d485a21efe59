//! Structures and constants of `<sys/event.h>` as macOS has them (`xnu: bsd/sys/event.h`).

#![expect(
    missing_docs,
    reason = "the names are those of the header and of kqueue(2)"
)]

use bytemuck::{Pod, Zeroable};

/// `struct kevent`: 32 bytes, packed to 4.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C, packed(4))]
pub struct Kevent {
    pub ident: usize,
    pub filter: i16,
    pub flags: u16,
    pub fflags: u32,
    pub data: isize,
    /// `void *` in C.
    pub udata: usize,
}

/// `struct kevent64_s`: 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Kevent64 {
    pub ident: u64,
    pub filter: i16,
    pub flags: u16,
    pub fflags: u32,
    pub data: i64,
    pub udata: u64,
    pub ext: [u64; 2],
}

/// `struct kevent_qos_s`: 72 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct KeventQos {
    pub ident: u64,
    pub filter: i16,
    pub flags: u16,
    pub qos: i32,
    pub udata: u64,
    pub fflags: u32,
    pub xflags: u32,
    pub data: i64,
    pub ext: [u64; 4],
}

const _: () = {
    assert!(size_of::<Kevent>() == 32 && align_of::<Kevent>() == 4);
    assert!(size_of::<Kevent64>() == 48 && align_of::<Kevent64>() == 8);
    assert!(size_of::<KeventQos>() == 72 && align_of::<KeventQos>() == 8);
};

pub const EVFILT_READ: i16 = -1;
pub const EVFILT_WRITE: i16 = -2;
pub const EVFILT_VNODE: i16 = -4;
pub const EVFILT_SIGNAL: i16 = -6;
pub const EVFILT_TIMER: i16 = -7;
pub const EVFILT_USER: i16 = -10;

pub const EV_ADD: u16 = 0x0001;
pub const EV_DELETE: u16 = 0x0002;
pub const EV_ENABLE: u16 = 0x0004;
pub const EV_DISABLE: u16 = 0x0008;
pub const EV_ONESHOT: u16 = 0x0010;
pub const EV_CLEAR: u16 = 0x0020;
pub const EV_RECEIPT: u16 = 0x0040;
pub const EV_DISPATCH: u16 = 0x0080;
pub const EV_UDATA_SPECIFIC: u16 = 0x0100;
pub const EV_DISPATCH2: u16 = EV_DISPATCH | EV_UDATA_SPECIFIC;
pub const EV_VANISHED: u16 = 0x0200;
pub const EV_SYSFLAGS: u16 = 0xF000;
pub const EV_ERROR: u16 = 0x4000;
pub const EV_EOF: u16 = 0x8000;

pub const NOTE_DELETE: u32 = 0x01;
pub const NOTE_WRITE: u32 = 0x02;
pub const NOTE_EXTEND: u32 = 0x04;
pub const NOTE_ATTRIB: u32 = 0x08;
pub const NOTE_LINK: u32 = 0x10;
pub const NOTE_RENAME: u32 = 0x20;
pub const NOTE_REVOKE: u32 = 0x40;

pub const NOTE_TRIGGER: u32 = 0x0100_0000;
pub const NOTE_FFNOP: u32 = 0;
pub const NOTE_FFAND: u32 = 0x4000_0000;
pub const NOTE_FFOR: u32 = 0x8000_0000;
pub const NOTE_FFCOPY: u32 = 0xC000_0000;
pub const NOTE_FFCTRLMASK: u32 = 0xC000_0000;
pub const NOTE_FFLAGSMASK: u32 = 0x00FF_FFFF;

pub const NOTE_SECONDS: u32 = 0x01;
pub const NOTE_USECONDS: u32 = 0x02;
pub const NOTE_NSECONDS: u32 = 0x04;

pub const KEVENT_FLAG_IMMEDIATE: u32 = 0x1;
pub const KEVENT_FLAG_ERROR_EVENTS: u32 = 0x2;

/// One change or event in the widest layout; the three C structures convert to and from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Event {
    pub(crate) ident: u64,
    pub(crate) filter: i16,
    pub(crate) flags: u16,
    pub(crate) qos: i32,
    pub(crate) udata: u64,
    pub(crate) fflags: u32,
    pub(crate) data: i64,
    pub(crate) ext: [u64; 4],
}

/// The identity of a knote: ident, filter, and udata if EV_UDATA_SPECIFIC.
pub(crate) type Key = (u64, i16, Option<u64>);

impl Event {
    pub(crate) fn key(&self) -> Key {
        let specific = self.flags & EV_UDATA_SPECIFIC != 0;
        (self.ident, self.filter, specific.then_some(self.udata))
    }
}

/// Which calls a queue accepts: the first one decides (`xnu: kevent_get_kqfile`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    /// `kevent`.
    Legacy,
    /// `kevent64` and `kevent_qos`.
    Modern,
}

/// One of the three C structures.
pub(crate) trait Layout: Pod + From<Event> + Into<Event> {
    const FLAVOUR: Flavour;
}

impl Layout for Kevent {
    const FLAVOUR: Flavour = Flavour::Legacy;
}
impl Layout for Kevent64 {
    const FLAVOUR: Flavour = Flavour::Modern;
}
impl Layout for KeventQos {
    const FLAVOUR: Flavour = Flavour::Modern;
}

impl From<Kevent> for Event {
    fn from(k: Kevent) -> Self {
        Self {
            ident: k.ident as u64,
            filter: k.filter,
            flags: k.flags,
            udata: k.udata as u64,
            fflags: k.fflags,
            data: k.data as i64,
            ..Self::default()
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the values came in through this layout"
)]
impl From<Event> for Kevent {
    fn from(e: Event) -> Self {
        Self {
            ident: e.ident as usize,
            filter: e.filter,
            flags: e.flags,
            fflags: e.fflags,
            data: e.data as isize,
            udata: e.udata as usize,
        }
    }
}

impl From<Kevent64> for Event {
    fn from(k: Kevent64) -> Self {
        Self {
            ident: k.ident,
            filter: k.filter,
            flags: k.flags,
            udata: k.udata,
            fflags: k.fflags,
            data: k.data,
            ext: [k.ext[0], k.ext[1], 0, 0],
            ..Self::default()
        }
    }
}

impl From<Event> for Kevent64 {
    fn from(e: Event) -> Self {
        Self {
            ident: e.ident,
            filter: e.filter,
            flags: e.flags,
            fflags: e.fflags,
            data: e.data,
            udata: e.udata,
            ext: [e.ext[0], e.ext[1]],
        }
    }
}

impl From<KeventQos> for Event {
    fn from(k: KeventQos) -> Self {
        Self {
            ident: k.ident,
            filter: k.filter,
            flags: k.flags,
            qos: k.qos,
            udata: k.udata,
            fflags: k.fflags,
            data: k.data,
            ext: k.ext,
        }
    }
}

impl From<Event> for KeventQos {
    fn from(e: Event) -> Self {
        Self {
            ident: e.ident,
            filter: e.filter,
            flags: e.flags,
            qos: e.qos,
            udata: e.udata,
            fflags: e.fflags,
            xflags: 0,
            data: e.data,
            ext: e.ext,
        }
    }
}
