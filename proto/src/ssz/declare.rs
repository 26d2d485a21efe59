//! Containers, unions and numbered enums are declared, and their encoding is written from that.

/// Declares a struct that is an SSZ container of its fields, in their order.
macro_rules! container {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* pub $field:ident: $type:ty, )+
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )+
        }

        impl $name {
            const FIELDS: &[Option<usize>] = &[$( <$type as $crate::ssz::Ssz>::FIXED_LEN ),+];
        }

        impl $crate::ssz::Ssz for $name {
            const FIXED_LEN: Option<usize> = $crate::ssz::container_len(Self::FIELDS);

            fn ssz_len(&self) -> usize {
                let mut len = $crate::ssz::fixed_part(Self::FIELDS);
                $( if <$type as $crate::ssz::Ssz>::FIXED_LEN.is_none() {
                    len += self.$field.ssz_len();
                } )+
                len
            }

            fn ssz_append(&self, out: &mut Vec<u8>) {
                let mut offset = $crate::ssz::fixed_part(Self::FIELDS);
                $( $crate::ssz::append_fixed_part(&self.$field, &mut offset, out); )+
                debug_assert!(offset >= $crate::ssz::fixed_part(Self::FIELDS));
                $( if <$type as $crate::ssz::Ssz>::FIXED_LEN.is_none() {
                    self.$field.ssz_append(out);
                } )+
            }

            fn from_ssz(bytes: &[u8]) -> Result<Self, $crate::ssz::SszError> {
                let mut fields = $crate::ssz::Fields::new(bytes, Self::FIELDS)?;
                $( let $field = fields.field()?; )+
                Ok(Self { $( $field ),+ })
            }
        }
    )+};
}
pub(crate) use container;

/// Declares an enum that is an SSZ union of containers, with its selectors.
macro_rules! union {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $selector:literal => $variant:ident($type:ty), )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "json", serde(rename_all = "snake_case"))]
        pub enum $name {
            $( $(#[$variant_meta])* $variant($type), )+
        }

        impl $name {
            /// Returns the name of the variant.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $( Self::$variant(_) => stringify!($variant), )+
                }
            }
        }

        $(
            impl From<$type> for $name {
                fn from(value: $type) -> Self {
                    Self::$variant(value)
                }
            }
        )+

        impl $crate::ssz::Ssz for $name {
            const FIXED_LEN: Option<usize> = None;

            fn ssz_len(&self) -> usize {
                1 + match self {
                    $( Self::$variant(value) => value.ssz_len(), )+
                }
            }

            fn ssz_append(&self, out: &mut Vec<u8>) {
                match self {
                    $( Self::$variant(value) => {
                        out.push($selector);
                        value.ssz_append(out);
                    } )+
                }
            }

            fn from_ssz(bytes: &[u8]) -> Result<Self, $crate::ssz::SszError> {
                let (selector, value) =
                    bytes.split_first().ok_or($crate::ssz::SszError::TooShort)?;
                match selector {
                    $( $selector => <$type as $crate::ssz::Ssz>::from_ssz(value).map(Self::$variant), )+
                    number => Err($crate::ssz::SszError::Selector(*number)),
                }
            }
        }
    };
}
pub(crate) use union;

/// Declares a union of requests, each with the type of its answer.
macro_rules! requests {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $call:ident {
            $(
                $(#[$variant_meta:meta])*
                $selector:literal => $variant:ident($type:ty) -> $answer:ty,
            )+
        }
    ) => {
        $crate::ssz::union! {
            $(#[$meta])*
            pub enum $name {
                $( $(#[$variant_meta])* $selector => $variant($type), )+
            }
        }

        $(
            impl $call for $type {
                type Answer = $answer;
            }
        )+
    };
}
pub(crate) use requests;

/// Declares a union of answers, each of which can be taken out of it.
macro_rules! answers {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $selector:literal => $variant:ident($type:ty), )+
        }
    ) => {
        $crate::ssz::union! {
            $(#[$meta])*
            pub enum $name {
                $( $(#[$variant_meta])* $selector => $variant($type), )+
            }
        }

        $(
            impl TryFrom<$name> for $type {
                type Error = $name;

                fn try_from(answer: $name) -> Result<Self, $name> {
                    if let $name::$variant(it) = answer { Ok(it) } else { Err(answer) }
                }
            }
        )+
    };
}
pub(crate) use answers;

/// Declares an enum that is one byte: the number of its variant. One without a name is refused.
macro_rules! numbered {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $number:literal => $variant:ident, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "json", serde(rename_all = "snake_case"))]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )+
        }

        impl $crate::ssz::Ssz for $name {
            const FIXED_LEN: Option<usize> = Some(1);

            fn ssz_len(&self) -> usize {
                1
            }

            fn ssz_append(&self, out: &mut Vec<u8>) {
                out.push(match self {
                    $( Self::$variant => $number, )+
                });
            }

            fn from_ssz(bytes: &[u8]) -> Result<Self, $crate::ssz::SszError> {
                match u8::from_ssz(bytes)? {
                    $( $number => Ok(Self::$variant), )+
                    number => Err($crate::ssz::SszError::Selector(number)),
                }
            }
        }
    };
}
pub(crate) use numbered;
