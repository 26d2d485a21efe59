//! One connection: frames in, frames and descriptors out, never waiting.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use agentfs_proto::descriptor;
use agentfs_proto::frame::{self, FrameError, FrameReader, MAX_FRAME};
use agentfs_proto::message::{FromDaemon, Reply};
use rustix::io::Errno;

/// Unsent bytes from which on nothing more is read of a session: whoever does not read its answers
/// gets no further ones.
const STALLED: usize = 4 * MAX_FRAME;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    reader: FrameReader,
    unsent: VecDeque<Outgoing>,
    unsent_bytes: usize,
    /// The last that came.
    descriptor: Option<OwnedFd>,
}

/// A frame on its way out.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Those that go with the first byte.
    descriptors: Vec<OwnedFd>,
}

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Some bytes.
    Some,
    /// Nothing now.
    Nothing,
    /// The other side is gone.
    End,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            reader: FrameReader::default(),
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            descriptor: None,
        }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next message, if it is here completely.
    pub(crate) fn message(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.reader.message()
    }

    /// Reads what is here, at most one frame's worth. Of descriptors the last is kept, for the one
    /// request that takes one; the others are closed.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> rustix::io::Result<Filled> {
        match descriptor::receive(&self.stream, &mut *buffer) {
            Ok(received) if received.len == 0 => Ok(Filled::End),
            Ok(mut received) => {
                if let Some(last) = received.descriptors.pop() {
                    self.descriptor = Some(last);
                }
                self.reader
                    .feed(buffer.get(..received.len).unwrap_or_default());
                Ok(Filled::Some)
            }
            Err(Errno::AGAIN) => Ok(Filled::Nothing),
            Err(error) => Err(error),
        }
    }

    /// The descriptor that came along, if one did.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Queues an answer. One that does not fit a frame becomes an error.
    pub(crate) fn push(&mut self, request: u64, body: Reply, descriptors: Vec<OwnedFd>) {
        let count = u8::try_from(descriptors.len()).unwrap_or(u8::MAX);
        let mut bytes = Vec::new();
        let message = FromDaemon {
            request,
            descriptors: count,
            body,
        };
        if let Err(error) = frame::append(&message, &mut bytes) {
            let body = crate::base::refusal::Refusal::invalid(error.to_string()).into_reply();
            let message = FromDaemon {
                request,
                descriptors: 0,
                body,
            };
            if frame::append(&message, &mut bytes).is_err() {
                return;
            }
            self.push_frame(bytes, Vec::new());
            return;
        }
        self.push_frame(bytes, descriptors);
    }

    /// Queues a frame that is encoded already.
    pub(crate) fn push_frame(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) {
        self.unsent_bytes += bytes.len();
        self.unsent.push_back(Outgoing {
            bytes,
            sent: 0,
            descriptors,
        });
    }

    /// Whether the other side reads too little to be answered further.
    pub(crate) fn is_stalled(&self) -> bool {
        self.unsent_bytes >= STALLED
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> rustix::io::Result<()> {
        let mut batch = Vec::new();
        while let Some(first) = self.unsent.front_mut() {
            let rest = first.bytes.get(first.sent..).unwrap_or_default();
            let is_new = first.sent == 0;
            let sent = if is_new && !first.descriptors.is_empty() {
                let descriptors: Vec<_> = first.descriptors.iter().map(|fd| fd.as_fd()).collect();
                descriptor::send(&self.stream, rest, &descriptors)
            } else {
                // Frames without descriptors go out together.
                batch.clear();
                batch.extend_from_slice(rest);
                for next in self.unsent.iter().skip(1) {
                    if !next.descriptors.is_empty() || batch.len() + next.bytes.len() > MAX_FRAME {
                        break;
                    }
                    batch.extend_from_slice(&next.bytes);
                }
                descriptor::send(&self.stream, &batch, &[])
            };
            match sent {
                Ok(len) => self.sent(len),
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sent(&mut self, mut len: usize) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(len);
        while len > 0 {
            let Some(first) = self.unsent.front_mut() else {
                return;
            };
            let rest = first.bytes.len() - first.sent;
            if len < rest {
                first.sent += len;
                // They left with the first byte.
                first.descriptors.clear();
                return;
            }
            len -= rest;
            self.unsent.pop_front();
        }
    }
}
