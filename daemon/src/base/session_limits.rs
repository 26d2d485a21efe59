//! What one session may have, so that none can take what the others need.

use std::time::Duration;

/// Bounds of every session. What would exceed one is refused with [`Code::LIMIT`], but for the frame
/// rate, which only makes the session wait.
///
/// [`Code::LIMIT`]: agentfs_proto::message::Code::LIMIT
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// Connections at a time.
    pub sessions: usize,
    /// Time for the handshake.
    pub handshake: Duration,
    /// Queues of a session.
    pub queues: u32,
    /// Watches of a session, over all its queues.
    pub watches: u32,
    /// Bytes of all rings of a session.
    pub ring_bytes: u64,
    /// Files that a session has open by request.
    pub handles: usize,
    /// Broadcast subscriptions of a session.
    pub subscriptions: usize,
    /// Frames a second, on average.
    pub frame_rate: u32,
    /// Frames at once, after a pause.
    pub frame_burst: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions: 1024,
            handshake: Duration::from_secs(5),
            queues: 1024,
            watches: 1 << 20,
            ring_bytes: 256 << 20,
            handles: 1024,
            subscriptions: 64,
            frame_rate: 50_000,
            frame_burst: 10_000,
        }
    }
}
