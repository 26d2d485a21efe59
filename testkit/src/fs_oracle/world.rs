//! What a generator believes to exist, so that most of what it asks for succeeds. Beliefs may be
//! wrong (an operation failed): then an error is compared instead.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex};

use super::op::SLOTS;
use crate::random::Random;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    File,
    Dir,
    Link,
    Special,
}

#[derive(Clone, Debug)]
pub struct World {
    names: Vec<(String, Kind)>,
    /// Whether a slot holds something, and whether it is a directory.
    pub slots: [Option<Kind>; SLOTS],
    /// The path that got an extended attribute last.
    pub marked: Option<&'static str>,
    /// How many different names a directory may get.
    spread: usize,
}

impl World {
    pub fn new(spread: usize) -> Self {
        Self {
            names: vec![("".into(), Kind::Dir)],
            slots: [None; SLOTS],
            marked: None,
            spread,
        }
    }

    pub fn add(&mut self, path: &str, kind: Kind) {
        if !self.names.iter().any(|(known, _)| known == path) {
            self.names.push((path.to_owned(), kind));
        }
    }

    pub fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        if !path.is_empty() {
            self.names
                .retain(|(known, _)| known != path && !known.starts_with(&below));
        }
    }

    pub fn kind(&self, path: &str) -> Option<Kind> {
        self.names
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, kind)| *kind)
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let moved = self.take(from);
        self.remove(to);
        self.put(to, moved);
    }

    pub fn exchange(&mut self, from: &str, to: &str) {
        let (one, two) = (self.take(from), self.take(to));
        self.put(to, one);
        self.put(from, two);
    }

    /// Removes a subtree; the names are relative to it.
    fn take(&mut self, top: &str) -> Vec<(String, Kind)> {
        let below = format!("{top}/");
        let (taken, left) = std::mem::take(&mut self.names)
            .into_iter()
            .partition(|(name, _)| name == top && !top.is_empty() || name.starts_with(&below));
        self.names = left;
        taken
            .into_iter()
            .map(|(name, kind): (String, Kind)| (name[top.len()..].to_owned(), kind))
            .collect()
    }

    fn put(&mut self, top: &str, subtree: Vec<(String, Kind)>) {
        for (name, kind) in subtree {
            self.names.push((format!("{top}{name}"), kind));
        }
        if self.names.is_empty() {
            self.names.push((String::new(), Kind::Dir));
        }
    }

    /// Returns a name that exists, of this kind if there is one.
    pub fn existing(&self, rng: &mut Random, kind: Option<Kind>) -> String {
        let fits: Vec<&String> = self
            .names
            .iter()
            .filter(|(_, known)| kind.is_none_or(|kind| *known == kind))
            .map(|(name, _)| name)
            .collect();
        match fits.len() {
            0 => self.names[rng.below(self.names.len())].0.clone(),
            // Young entries are preferred, because that is where the interesting states are.
            n => {
                let back = rng.below(n).min(rng.below(n));
                fits[n - 1 - back].clone()
            }
        }
    }

    /// Returns a directory, an empty one if a few tries find one.
    pub fn leaf_dir(&self, rng: &mut Random) -> String {
        let mut dir = String::new();
        for _ in 0..4 {
            dir = self.existing(rng, Some(Kind::Dir));
            let below = format!("{dir}/");
            if !self.names.iter().any(|(name, _)| name.starts_with(&below)) {
                break;
            }
        }
        dir
    }

    /// Returns a name that probably does not exist, in a directory that does.
    pub fn fresh(&self, rng: &mut Random) -> String {
        let dir = self.existing(rng, Some(Kind::Dir));
        let name = rng.below(self.spread);
        match rng.below(80) {
            0 => format!("{dir}/{}", "n".repeat(255)),
            1 => format!("{dir}/{}", "n".repeat(256)),
            2 => format!("{dir}/\u{e9}{name} \u{1F980}"),
            3 => format!("{dir}/.h{name}"),
            _ => format!("{dir}/{}{name}", rng.pick(&["a", "b", "c"])),
        }
    }

    pub fn any(&self, rng: &mut Random) -> String {
        if rng.chance(92) {
            self.existing(rng, None)
        } else {
            self.fresh(rng)
        }
    }

    /// Returns a slot with something in it, if there is one.
    pub fn open_slot(&self, rng: &mut Random, kind: Option<Kind>) -> usize {
        let open: Vec<usize> = (0..SLOTS)
            .filter(|slot| match (self.slots[*slot], kind) {
                (Some(held), Some(kind)) => held == kind,
                (held, _) => held.is_some(),
            })
            .collect();
        if open.is_empty() {
            rng.below(SLOTS)
        } else {
            rng.pick(&open)
        }
    }
}

/// Returns another spelling of a path: now and then with `.`, `..`, doubled or trailing slashes, or one
/// that leads nowhere.
pub fn spelled(rng: &mut Random, path: &str) -> &'static str {
    let path = if path.is_empty() { "/" } else { path };
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    intern(match rng.below(200) {
        0..=2 => format!("{path}/"),
        3 => format!("{path}//"),
        4 => format!("{path}/."),
        5 => format!("{path}/.."),
        6 => format!("{dir}/./{name}"),
        7 => format!("{dir}/../{}/{name}", dir.rsplit('/').next().unwrap_or("")),
        8 => format!("/..{path}"),
        9 => format!("{path}/below"),
        10 => format!("{dir}//{name}"),
        11 if rng.chance(20) => String::new(),
        12 if rng.chance(20) => format!("{}{path}", "/.".repeat(2048)),
        13 if rng.chance(20) => format!("{}{path}", "/.".repeat((4095 - path.len().min(4000)) / 2)),
        _ => path.to_owned(),
    })
}

/// Returns the one copy of a text that lives as long as the process.
pub fn intern(text: String) -> &'static str {
    static KNOWN: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    if let Some(text) = known.get(text.as_str()) {
        return text;
    }
    let text: &'static str = text.leak();
    known.insert(text);
    text
}
