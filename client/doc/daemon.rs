// A daemon of a few lines in a thread of the example's own, so that the examples of the documentation
// run. They include this file, out of sight. It serves one session, and knows one file and one change.
//
// It is not testkit's scripted daemon, because the documentation tests of a published crate must run
// without testkit, which is not published.
#[allow(dead_code, reason = "each example needs a part")]
mod daemon {
    use std::error::Error;
    use std::io::{Read as _, Write as _};
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::time::Duration;

    use agentfs_client::{Client, Deadline};
    use agentfs_proto::frame::{self, LENGTH_WORD};
    use agentfs_proto::message::*;
    use agentfs_proto::record::{AgentFsEvent, Kind, encode, encoded_len};
    use agentfs_proto::ssz::Ssz as _;
    use agentfs_proto::descriptor;
    use agentfs_ring::{Capacity, Producer, Reserve, create, doorbell};

    type Outcome<T = ()> = Result<T, Box<dyn Error>>;

    /// Starts the daemon. Returns the path of its socket.
    pub fn start() -> Outcome<PathBuf> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("agentfs-example-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path)?;
        let socket = path.clone();
        std::thread::spawn(move || {
            let accepted = listener.accept();
            let _ = std::fs::remove_file(socket);
            if let Ok((connection, _)) = accepted {
                // It ends with an error when the example ends.
                let _ = Session { connection, rings: Vec::new() }.serve();
            }
        });
        Ok(path)
    }

    /// Starts the daemon and connects to it.
    pub fn client() -> Outcome<Client> {
        let path = start()?;
        let (client, _) = Client::connect(&path, Hello::new("example"), soon())?;
        Ok(client)
    }

    pub fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    /// A queue's ring, and the descriptors whose other ends the program has.
    struct Ring(Producer, Vec<OwnedFd>, doorbell::Ringer);

    struct Session {
        connection: UnixStream,
        rings: Vec<Ring>,
    }

    impl Session {
        fn serve(mut self) -> Outcome {
            loop {
                let mut word = [0; LENGTH_WORD];
                self.connection.read_exact(&mut word)?;
                let mut body = vec![0; frame::frame_len(word)? - LENGTH_WORD];
                self.connection.read_exact(&mut body)?;
                let asked = ToDaemon::from_ssz(&body)?;
                self.answer(asked.request, asked.body)?;
            }
        }

        fn answer(&mut self, number: u64, request: Request) -> Outcome {
            match request {
                Request::Hello(_) => self.reply(number, welcome(), &[]),
                Request::Ping(it) => self.reply(number, Done { value: it.nonce }, &[]),
                Request::Fs(_) => self.reply(number, FsReply::Attr(attr()), &[]),
                Request::QueueOpen(_) => self.open_queue(number),
                Request::WatchRegisterTree(_) => {
                    self.publish()?;
                    self.reply(number, WatchRegistered { node: 0 }, &[])
                }
                Request::WatchDoorbell(it) => {
                    let (_, waiter) = doorbell::pipe()?;
                    let given = DoorbellGiven { queue: it.queue };
                    self.reply(number, given, &[waiter.into()])
                }
                Request::EventsSubscribe(_) => {
                    self.reply(number, Done { value: 1 }, &[])?;
                    self.reply(0, change(), &[])
                }
                Request::SnapshotRestore(_) => {
                    self.reply(number, Waiting { ahead: 1 }, &[])?;
                    self.reply(number, Done { value: 0 }, &[])
                }
                Request::MountServe(it) => {
                    let info = MountInfo {
                        id: 1,
                        branch: 1,
                        branch_name: it.branch,
                        st_dev: 41,
                        path: "/mnt".into(),
                    };
                    self.reply(number, info, &[])
                }
                _ => {
                    let error = ErrorReply {
                        code: Code::UNSUPPORTED,
                        errno: 0,
                        message: "the daemon of the examples does not know this".to_owned(),
                    };
                    self.reply(number, error, &[])
                }
            }
        }

        fn reply(&mut self, request: u64, body: impl Into<Reply>, fds: &[OwnedFd]) -> Outcome {
            let mut bytes = Vec::new();
            let descriptors = u8::try_from(fds.len())?;
            frame::append(&FromDaemon { request, descriptors, body: body.into() }, &mut bytes)?;
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            let sent = descriptor::send(&self.connection, &bytes, &fds)?;
            self.connection.write_all(&bytes[sent..])?;
            Ok(())
        }

        fn open_queue(&mut self, number: u64) -> Outcome {
            let (producer, ring) = create(Capacity::MIN)?;
            let (refill, our_refill) = doorbell::pipe()?;
            let (our_bell, bell) = doorbell::pipe()?;
            let opened = QueueOpened { queue: 1, capacity: 4096 };
            self.reply(number, opened, &[ring, refill.into(), bell.into()])?;
            self.rings.push(Ring(producer, vec![our_refill.into()], our_bell));
            Ok(())
        }

        /// Publishes that `/src/hello` was created.
        fn publish(&mut self) -> Outcome {
            let path = b"/src/hello";
            let event = AgentFsEvent { seqno: 1, kind: Kind::CREATED, ..AgentFsEvent::default() };
            for Ring(producer, _, bell) in &mut self.rings {
                if let Reserve::Slot(mut slot) = producer.reserve(encoded_len(path, b"")?)? {
                    encode(&event, path, b"", |part| slot.put(part))?;
                    slot.commit();
                }
                if producer.publish()? == agentfs_ring::Bell::Ring {
                    bell.ring()?;
                }
            }
            Ok(())
        }
    }

    fn welcome() -> Welcome {
        Welcome {
            version: VERSION_MAX,
            session: 1,
            branch: 1,
            branch_name: "main".to_owned(),
            daemon_pid: std::process::id(),
            instance: 1,
            max_queues: 1,
            max_watches: 1,
        }
    }

    fn attr() -> Attr {
        Attr {
            ino: 7,
            mode: 0o100_644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 5,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
        }
    }

    fn change() -> FsEventBroadcast {
        FsEventBroadcast {
            subscription: 1,
            kind: Kind::CREATED.0,
            flags: 0,
            seqno: 1,
            ts_nanos: 0,
            node: 7,
            pid: 0,
            path: "/src/hello".into(),
            aux: "".into(),
        }
    }
}
