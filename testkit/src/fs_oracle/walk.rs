//! Asks for everything that can be seen of a filesystem, with the same operations that the
//! sequences are made of.

use libc::{O_NOFOLLOW, O_RDONLY};

use super::op::{Answer, Op, SLOTS, Step, WALKER, Who};
use super::world::intern;

/// What one path shows: a line for each question and its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub path: &'static str,
    pub question: Op,
    pub answer: Answer,
}

/// Returns the state of all open descriptors, which are closed then, and of the whole tree. The
/// lists are in the order of the sorted names, so that two equal filesystems give equal lists.
pub fn everything(mut run: impl FnMut(Step) -> Answer) -> Vec<Seen> {
    let mut walk = Walk {
        run: &mut run,
        seen: Vec::new(),
    };
    for slot in 0..SLOTS {
        let path = intern(format!("slot {slot}"));
        let _kind = walk.ask(path, Op::Fstat { slot });
        let _position = walk.ask(
            path,
            Op::Seek {
                slot,
                whence: super::op::Whence::Cur,
                to: 0,
            },
        );
        walk.content(path, slot);
        let _closed = walk.ask(path, Op::Close { slot });
    }
    walk.tree("/");
    walk.seen
}

/// Returns the state of the whole tree.
pub fn tree(mut run: impl FnMut(Step) -> Answer) -> Vec<Seen> {
    let mut walk = Walk {
        run: &mut run,
        seen: Vec::new(),
    };
    walk.tree("/");
    walk.seen
}

struct Walk<'r> {
    run: &'r mut dyn FnMut(Step) -> Answer,
    seen: Vec<Seen>,
}

impl Walk<'_> {
    fn ask(&mut self, path: &'static str, question: Op) -> Answer {
        let answer = (self.run)(Step {
            by: Who::Root,
            op: question,
        });
        self.seen.push(Seen {
            path,
            question,
            answer: answer.clone(),
        });
        answer
    }

    fn tree(&mut self, path: &'static str) {
        let Answer::Attr(attr) = self.ask(
            path,
            Op::Stat {
                path,
                follow: false,
            },
        ) else {
            return;
        };
        self.xattrs(path);
        match attr.mode & libc::S_IFMT {
            libc::S_IFDIR => {
                let Answer::Names(names) = self.ask(path, Op::Readdir { path }) else {
                    return;
                };
                for (name, _) in names
                    .iter()
                    .filter(|(name, _)| name != b"." && name != b"..")
                {
                    let name = std::str::from_utf8(name).unwrap();
                    let path = intern(format!("{}/{name}", path.trim_end_matches('/')));
                    self.tree(path);
                }
            }
            libc::S_IFLNK => {
                let _target = self.ask(path, Op::Readlink { path });
            }
            libc::S_IFREG => {
                let slot = WALKER;
                let flags = O_RDONLY | O_NOFOLLOW;
                let _opened = self.ask(
                    path,
                    Op::Open {
                        slot,
                        path,
                        flags,
                        mode: 0,
                    },
                );
                self.content(path, slot);
                let _closed = self.ask(path, Op::Close { slot });
            }
            _ => {}
        }
    }

    fn xattrs(&mut self, path: &'static str) {
        let Answer::Names(names) = self.ask(
            path,
            Op::ListXattr {
                path,
                follow: false,
            },
        ) else {
            return;
        };
        for (name, _) in names {
            let name = intern(String::from_utf8(name).unwrap());
            let _value = self.ask(
                path,
                Op::GetXattr {
                    path,
                    name,
                    follow: false,
                },
            );
        }
    }

    /// Asks for the first megabytes and the places far out that the generator writes to.
    fn content(&mut self, path: &'static str, slot: usize) {
        let mut at = 0;
        while at < 3_000_000 {
            match self.ask(
                path,
                Op::Pread {
                    slot,
                    at,
                    len: 1 << 20,
                },
            ) {
                Answer::Bytes(bytes) if bytes.len() == 1 << 20 => at += 1 << 20,
                Answer::Bytes(_) => return,
                _ => break,
            }
        }
        for at in [1 << 40, 1 << 62] {
            let _bytes = self.ask(
                path,
                Op::Pread {
                    slot,
                    at,
                    len: 200_000,
                },
            );
        }
    }
}
