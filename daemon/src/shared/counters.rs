//! What the control server counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($( $(#[$doc:meta])* $name:ident, )+) => {
        /// Numbers that only grow.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $( $name: AtomicU64, )+
        }

        impl Counters {
            $(
                $(#[$doc])*
                pub(crate) fn $name(&self) {
                    // Nothing is read because of a counter, so no order is needed.
                    self.$name.fetch_add(1, Ordering::Relaxed);
                }
            )+

            /// All of them with their names.
            pub(crate) fn values(&self) -> Vec<(&'static str, u64)> {
                vec![ $( (stringify!($name), self.$name.load(Ordering::Relaxed)), )+ ]
            }
        }
    };
}

counters! {
    /// A connection was taken.
    sessions_opened,
    /// A connection ended.
    sessions_closed,
    /// A connection was ended because it broke the protocol.
    sessions_refused,
    /// A request was read.
    requests,
    /// A session was made to wait because it sent too much.
    throttled,
}
