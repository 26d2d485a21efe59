//! Reports the directories of a project that the daemon does not watch.

use agentfs_proto::message::StatusReport;

use agentfs_daemon::filesystem;
use agentfs_daemon::inotify_limit;

/// What a daemon watches of its lower directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Coverage<'a>(pub(crate) &'a StatusReport);

impl Coverage<'_> {
    fn count(self, name: &str) -> u64 {
        let mut counters = self.0.counters.iter();
        counters.find(|it| it.name == name).map_or(0, |it| it.value)
    }

    /// Returns a sentence on what is not watched, why, and what that means; `None` when all is watched.
    pub(crate) fn gap(self) -> Option<String> {
        let lower = self.0.lower.as_path().display();
        let means = "what others change there is seen as soon as somebody looks, but no watcher is \
                     notified of it";
        if self.count("lower_watch_off") > 0 {
            return Some(format!(
                "{lower} is not watched (--no-watch-lower): {means}"
            ));
        }
        let unwatched = self.count("lower_dirs_unwatched");
        if unwatched == 0 {
            return None;
        }
        let all = unwatched + self.count("lower_dirs_watched");
        let why: Vec<String> = self
            .reasons()
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| {
                if count == unwatched {
                    why
                } else {
                    format!("{count} of them because {why}")
                }
            })
            .collect();
        let why = match &why[..] {
            [one] => format!("because {one}"),
            several => several.join(", "),
        };
        Some(format!(
            "{unwatched} of {all} directories of {lower} are not watched, {why}: {means}"
        ))
    }

    /// Returns what can be done about it.
    pub(crate) fn way_out(self) -> Option<String> {
        if self.count("lower_dirs_over_limit") > 0 {
            let allow = inotify_limit::allow_more();
            return Some(format!(
                "allow more with: {allow} (as root), and start again when all runs here have ended"
            ));
        }
        (self.count("lower_dirs_without_watcher") > 0).then(|| {
            "allow more with: sysctl fs.inotify.max_user_instances=1024 (as root), and start again \
             when all runs here have ended"
                .to_owned()
        })
    }

    /// Returns both for one line.
    pub(crate) fn line(self) -> Option<String> {
        let gap = self.gap()?;
        Some(match self.way_out() {
            Some(way_out) => format!("{gap}; {way_out}"),
            None => gap,
        })
    }

    fn reasons(self) -> [(u64, String); 4] {
        let kind = filesystem::of(self.0.lower.as_path()).name;
        [
            (
                self.count("lower_dirs_over_limit"),
                "the inotify watches of this user are used up".to_owned(),
            ),
            (
                self.count("lower_dirs_remote"),
                format!("others can change them unheard (the project is on {kind})"),
            ),
            (
                self.count("lower_dirs_refused"),
                "they may not be read".to_owned(),
            ),
            (
                self.count("lower_dirs_without_watcher"),
                "the inotify instances of this user are used up".to_owned(),
            ),
        ]
    }
}
