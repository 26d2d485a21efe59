//! `<sys/event.h>`: the structures a program hands to a kevent call, and the constants the hooks
//! look at (`xnu: bsd/sys/event.h`).

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
    assert!(std::mem::offset_of!(Kevent, udata) == 24);
    assert!(size_of::<Kevent64>() == 48 && align_of::<Kevent64>() == 8);
    assert!(std::mem::offset_of!(Kevent64, ext) == 32);
    assert!(size_of::<KeventQos>() == 72 && align_of::<KeventQos>() == 8);
    assert!(std::mem::offset_of!(KeventQos, ext) == 40);
};

pub const EVFILT_READ: i16 = -1;
pub const EVFILT_VNODE: i16 = -4;
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
/// Bits that a program cannot set.
pub const EV_SYSFLAGS: u16 = 0xF000;
pub const EV_ERROR: u16 = 0x4000;
pub const EV_EOF: u16 = 0x8000;

pub const NOTE_WRITE: u32 = 0x02;
pub const NOTE_TRIGGER: u32 = 0x0100_0000;

pub const KEVENT_FLAG_IMMEDIATE: u32 = 0x1;
pub const KEVENT_FLAG_ERROR_EVENTS: u32 = 0x2;
pub const KEVENT_FLAG_WORKQ: u32 = 0x20;

/// A change or an event in the widest layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    pub ident: u64,
    pub filter: i16,
    pub flags: u16,
    pub fflags: u32,
    pub data: i64,
    pub udata: u64,
    pub qos: i32,
    pub ext: [u64; 4],
}

impl Event {
    /// Returns the event with the flags as the kernel understands them: what a program may not set is gone,
    /// EV_DELETE overrules EV_ADD, and EV_DISABLE overrules EV_ENABLE (`xnu: kevent_register`).
    #[must_use]
    pub const fn simplified(mut self) -> Self {
        self.flags &= !EV_SYSFLAGS;
        if self.flags & EV_DELETE != 0 {
            self.flags &= !EV_ADD;
        }
        if self.flags & EV_DISABLE != 0 {
            self.flags &= !EV_ENABLE;
        }
        self
    }

    #[must_use]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag == flag
    }
}

/// Which calls a queue accepts: the first call decides (`xnu: kevent_get_kqfile`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// `kevent`.
    Legacy,
    /// `kevent64` and `kevent_qos`.
    Modern,
}

/// One of the three structures, and how it maps to [`Event`].
pub trait Layout: Pod + Default {
    const FLAVOUR: Flavour;

    /// Widens the structure.
    fn event(&self) -> Event;

    /// Narrows an event: what the structure has no field for is dropped.
    fn from_event(event: &Event) -> Self;

    /// Returns ident, filter and flags, without widening the rest.
    fn head(&self) -> (u64, i16, u16);

    /// Adds bits to fflags.
    fn add_fflags(&mut self, bits: u32);
}

impl Layout for Kevent {
    const FLAVOUR: Flavour = Flavour::Legacy;

    fn event(&self) -> Event {
        Event {
            ident: self.ident as u64,
            filter: self.filter,
            flags: self.flags,
            fflags: self.fflags,
            data: self.data as i64,
            udata: self.udata as u64,
            ..Event::default()
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the values came in through this layout"
    )]
    fn from_event(event: &Event) -> Self {
        Self {
            ident: event.ident as usize,
            filter: event.filter,
            flags: event.flags,
            fflags: event.fflags,
            data: event.data as isize,
            udata: event.udata as usize,
        }
    }

    fn head(&self) -> (u64, i16, u16) {
        (self.ident as u64, self.filter, self.flags)
    }

    fn add_fflags(&mut self, bits: u32) {
        self.fflags |= bits;
    }
}

impl Layout for Kevent64 {
    const FLAVOUR: Flavour = Flavour::Modern;

    fn event(&self) -> Event {
        Event {
            ident: self.ident,
            filter: self.filter,
            flags: self.flags,
            fflags: self.fflags,
            data: self.data,
            udata: self.udata,
            ext: [self.ext[0], self.ext[1], 0, 0],
            ..Event::default()
        }
    }

    fn from_event(event: &Event) -> Self {
        Self {
            ident: event.ident,
            filter: event.filter,
            flags: event.flags,
            fflags: event.fflags,
            data: event.data,
            udata: event.udata,
            ext: [event.ext[0], event.ext[1]],
        }
    }

    fn head(&self) -> (u64, i16, u16) {
        (self.ident, self.filter, self.flags)
    }

    fn add_fflags(&mut self, bits: u32) {
        self.fflags |= bits;
    }
}

impl Layout for KeventQos {
    const FLAVOUR: Flavour = Flavour::Modern;

    fn event(&self) -> Event {
        Event {
            ident: self.ident,
            filter: self.filter,
            flags: self.flags,
            fflags: self.fflags,
            data: self.data,
            udata: self.udata,
            qos: self.qos,
            ext: self.ext,
        }
    }

    fn from_event(event: &Event) -> Self {
        Self {
            ident: event.ident,
            filter: event.filter,
            flags: event.flags,
            qos: event.qos,
            udata: event.udata,
            fflags: event.fflags,
            xflags: 0,
            data: event.data,
            ext: event.ext,
        }
    }

    fn head(&self) -> (u64, i16, u16) {
        (self.ident, self.filter, self.flags)
    }

    fn add_fflags(&mut self, bits: u32) {
        self.fflags |= bits;
    }
}
