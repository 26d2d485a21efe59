//! What a program writes into its request channel: registrations of inotify watches, without a round
//! trip.
//!
//! The channel itself is [`RequestChannelOpen`](crate::message::RequestChannelOpen); a request is
//! four words. Nothing answers. A registration that cannot be carried out (no such queue, mount or
//! node, or too many watches) is skipped: the program keeps its kernel's watch, which it made
//! first. Requests are carried out in order.
//!
//! | word | bits | holds |
//! |---|---|---|
//! | 0 | 0..32 | operation: 1 set, 2 remove, 3 close the queue, 4 resume |
//! | 0 | 32..64 | queue |
//! | 1 | 0..32 | wd |
//! | 1 | 32..64 | mask |
//! | 2 | | `st_dev` of the object; of a resumed queue the instance of the daemon before |
//! | 3 | | `st_ino` of the object; of a resumed queue the last change that is known to be delivered |

/// A request in the channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Registration {
    /// Makes a watch, or changes the one that has this number.
    Set {
        /// The queue.
        queue: u32,
        /// The watch descriptor that the kernel gave.
        wd: u32,
        /// The whole mask that is in force now: event bits with `IN_ONESHOT` and `IN_EXCL_UNLINK`.
        /// `IN_MASK_ADD` is worked out by the program.
        mask: u32,
        /// The device of the object's mount.
        st_dev: u64,
        /// The object.
        st_ino: u64,
    },
    /// Ends a watch, as [`WatchUnregister`](crate::message::WatchUnregister).
    Remove {
        /// The queue.
        queue: u32,
        /// The watch descriptor.
        wd: u32,
    },
    /// Ends a queue, as [`QueueClose`](crate::message::QueueClose).
    Close {
        /// The queue.
        queue: u32,
    },
    /// Goes on with a new queue where one of a daemon that was killed has ended. Nothing is delivered until
    /// the program rings the refill doorbell, which it does when its watches are registered. What was
    /// missed follows then, or one overflow record.
    Resume {
        /// The new queue.
        queue: u32,
        /// [`Welcome::instance`](crate::message::Welcome) of the daemon before.
        instance: u64,
        /// The last change that the daemon before has noted as delivered.
        after: u64,
    },
}

const SET: u32 = 1;
const REMOVE: u32 = 2;
const CLOSE: u32 = 3;
const RESUME: u32 = 4;

/// What a daemon notes in the channel while it still owes changes of an earlier one. A daemon that does not
/// know [`Registration::Resume`] notes nothing, which is 0.
pub const NOT_DELIVERED: u64 = 1;

impl Registration {
    /// Returns the four words.
    #[must_use]
    pub fn to_words(self) -> [u64; 4] {
        match self {
            Self::Set {
                queue,
                wd,
                mask,
                st_dev,
                st_ino,
            } => [pair(SET, queue), pair(wd, mask), st_dev, st_ino],
            Self::Remove { queue, wd } => [pair(REMOVE, queue), pair(wd, 0), 0, 0],
            Self::Close { queue } => [pair(CLOSE, queue), 0, 0, 0],
            Self::Resume {
                queue,
                instance,
                after,
            } => [pair(RESUME, queue), 0, instance, after],
        }
    }

    /// Reads four words. Returns `None` for an operation that only a newer program knows.
    #[must_use]
    pub fn from_words(words: [u64; 4]) -> Option<Self> {
        let [first, second, st_dev, st_ino] = words;
        let (operation, queue) = halves(first);
        let (wd, mask) = halves(second);
        match operation {
            SET => Some(Self::Set {
                queue,
                wd,
                mask,
                st_dev,
                st_ino,
            }),
            REMOVE => Some(Self::Remove { queue, wd }),
            CLOSE => Some(Self::Close { queue }),
            RESUME => Some(Self::Resume {
                queue,
                instance: st_dev,
                after: st_ino,
            }),
            _ => None,
        }
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two halves")]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
