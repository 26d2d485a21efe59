//! The flag words of system calls, with Linux's values on every platform.

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$flag_doc:meta])* $flag:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub struct $name(u32);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self($value);)*

            /// Returns the flags of a system call's word. Bits without a name here are kept.
            #[must_use]
            pub const fn from_bits(bits: u32) -> Self {
                Self(bits)
            }

            /// Returns the system call's word.
            #[must_use]
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Returns whether all bits of `other` are set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Returns whether any bit of `other` is set.
            #[must_use]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// Returns the flags without the bits of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

flags! {
    /// How to open: the words of open(2) on x86-64 Linux. Flags that mean nothing here, such as
    /// `O_CLOEXEC`, are ignored.
    OpenFlags {
        /// `O_RDONLY`, the absence of the next two.
        READ = 0;
        /// `O_WRONLY`.
        WRITE_ONLY = 0o1;
        /// `O_RDWR`.
        READ_WRITE = 0o2;
        /// `O_CREAT`.
        CREATE = 0o100;
        /// `O_EXCL`.
        EXCLUSIVE = 0o200;
        /// `O_TRUNC`.
        TRUNCATE = 0o1000;
        /// `O_APPEND`.
        APPEND = 0o2000;
        /// `O_DIRECTORY`.
        DIRECTORY = 0o200_000;
        /// `O_NOFOLLOW`.
        NOFOLLOW = 0o400_000;
    }
}

impl OpenFlags {
    /// Returns whether the handle may read.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self.0 & 3, 0 | 2)
    }

    /// Returns whether the handle may write.
    #[must_use]
    pub const fn can_write(self) -> bool {
        matches!(self.0 & 3, 1 | 2)
    }
}

flags! {
    /// The flags of renameat2(2).
    RenameFlags {
        /// None: replace what is there.
        REPLACE = 0;
        /// `RENAME_NOREPLACE`.
        NOREPLACE = 1;
        /// `RENAME_EXCHANGE`.
        EXCHANGE = 2;
    }
}

flags! {
    /// The flags of setxattr(2).
    XattrFlags {
        /// None: create or replace.
        ANY = 0;
        /// `XATTR_CREATE`.
        CREATE = 1;
        /// `XATTR_REPLACE`.
        REPLACE = 2;
    }
}

flags! {
    /// The mode of fallocate(2). As on tmpfs, ranges can be allocated and punched; zeroing,
    /// collapsing and inserting are `EOPNOTSUPP`.
    AllocateFlags {
        /// None: allocate, and grow the file to the range's end.
        GROW = 0;
        /// `FALLOC_FL_KEEP_SIZE`.
        KEEP_SIZE = 0x01;
        /// `FALLOC_FL_PUNCH_HOLE`, only together with `KEEP_SIZE`.
        PUNCH_HOLE = 0x02;
        /// `FALLOC_FL_COLLAPSE_RANGE`.
        COLLAPSE_RANGE = 0x08;
        /// `FALLOC_FL_ZERO_RANGE`.
        ZERO_RANGE = 0x10;
        /// `FALLOC_FL_INSERT_RANGE`.
        INSERT_RANGE = 0x20;
    }
}

flags! {
    /// What access(2) asks for.
    Access {
        /// `F_OK`: only that it exists.
        EXISTS = 0;
        /// `X_OK`: to execute, or to search a directory.
        EXECUTE = 1;
        /// `W_OK`.
        WRITE = 2;
        /// `R_OK`.
        READ = 4;
    }
}
