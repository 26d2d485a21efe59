//! The functions that a program finds instead of libc's.
//!
//! Every hook decides in a few instructions, before the call, whether the call concerns it. Otherwise it
//! *jumps* to the original: nothing of the shim is on the stack then, and nothing runs afterwards. If the
//! call concerns it, the hook goes on in Rust, under [`guarded`](crate::guard::guarded).

mod close;
mod dlsym;
mod dup;
mod inotify;
mod read;
mod syscall;

/// Makes a hook of a function whose first argument is a descriptor: it jumps to the original unless the
/// table has the descriptor, and then to `$owned`, which takes the same arguments.
///
/// Either is entered as the program entered the hook: the stack is untouched, and the code uses registers
/// only that the ABI leaves to it and that carry no argument (r10 and r11; x9, x10 and x16). It reads the
/// table below `LEN` alone, and the word of the original, which is always a callable address.
#[cfg(target_arch = "x86_64")]
macro_rules! by_descriptor {
    ($(#[$doc:meta])* $name:ident => $original:ident, $owned:path) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                "mov r10d, edi",
                "cmp r10d, {len}",
                "jae 2f",
                "mov r11, [rip + {table}@GOTPCREL]",
                "cmp qword ptr [r11 + r10 * 8], 0",
                "jne 3f",
                "2:",
                "mov r11, [rip + {original}@GOTPCREL]",
                "jmp [r11]",
                "3:",
                "jmp {owned}",
                len = const crate::fd_table::LEN,
                table = sym crate::fd_table::TABLE,
                original = sym crate::real::$original,
                owned = sym $owned,
            )
        }
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! by_descriptor {
    ($(#[$doc:meta])* $name:ident => $original:ident, $owned:path) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                "mov w9, w0",
                "cmp w9, #{pages}, lsl #12",
                "b.hs 2f",
                "adrp x10, :got:{table}",
                "ldr x10, [x10, :got_lo12:{table}]",
                "ldr x10, [x10, x9, lsl #3]",
                "cbnz x10, 3f",
                "2:",
                "adrp x16, :got:{original}",
                "ldr x16, [x16, :got_lo12:{original}]",
                "ldr x16, [x16]",
                "br x16",
                "3:",
                "b {owned}",
                pages = const crate::fd_table::LEN >> 12,
                table = sym crate::fd_table::TABLE,
                original = sym crate::real::$original,
                owned = sym $owned,
            )
        }
    };
}

pub(crate) use by_descriptor;
