//! Linux: `/proc/locks` names the process that has a lock, and `/proc/PID/task` shows what its threads do.

use std::fs;

/// `PF_EXITING` (include/linux/sched.h): the thread ends, and runs nothing of the program any more.
const EXITING: u32 = 4;
/// The bit of SIGKILL in a mask of signals.
const KILL: u64 = 1 << 8;

/// Returns whether a process was killed or ends, and is not gone yet, because some of its threads wait in the
/// kernel. None of them will run program code again. False if that cannot be found out.
#[must_use]
pub fn is_ending(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut is_there = false;
    for thread in threads {
        let Ok(thread) = thread else {
            return false;
        };
        let path = thread.path();
        let stat = fs::read_to_string(path.join("stat"));
        let status = fs::read_to_string(path.join("status"));
        let (Ok(stat), Ok(status)) = (stat, status) else {
            // It is gone by now.
            continue;
        };
        match fate(&stat, &status) {
            Fate::Gone => {}
            Fate::Ending => is_there = true,
            Fate::Running => return false,
        }
    }
    is_there
}

/// Returns whether every process that has locked the file of this number is ending, and there is one.
pub(super) fn is_held_by_ending(inode: u64) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let holders = holders(&locks, inode);
    !holders.is_empty() && holders.into_iter().all(is_ending)
}

/// Returns the processes that have a file locked by flock(2) (proc_locks(5)). Files of several filesystems
/// may have the same number; the names of filesystems here are not always those of stat(2).
fn holders(locks: &str, inode: u64) -> Vec<u32> {
    let mut found = Vec::new();
    for line in locks.lines() {
        // As in `1: FLOCK  ADVISORY  WRITE 4711 fe:00:10011108 0 EOF`; one that waits has `->` before.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = *words else {
            continue;
        };
        let number = file.rsplit(':').next().and_then(|it| it.parse().ok());
        if number == Some(inode) {
            // A process of another namespace has the number 0, and no directory in /proc.
            found.push(pid.parse().unwrap_or(0));
        }
    }
    found
}

/// What becomes of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Gone,
    Ending,
    Running,
}

/// Returns what becomes of a thread, by its files `stat` and `status` (proc_pid_stat(5)).
fn fate(stat: &str, status: &str) -> Fate {
    // The name, which is in parentheses, may have any characters. State and flags are fields 3 and 9.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next();
    let flags = fields.nth(5).and_then(|it| it.parse::<u32>().ok());
    let pending = status.lines().find_map(|it| it.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|it| u64::from_str_radix(it.trim(), 16).ok());
    if matches!(state, Some("Z" | "X" | "x")) {
        return Fate::Gone;
    }
    let is_exiting = flags.is_some_and(|it| it & EXITING != 0);
    let is_killed = pending.is_some_and(|it| it & KILL != 0);
    if is_exiting || is_killed {
        Fate::Ending
    } else {
        Fate::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_a_lock_are_found_among_others() {
        let locks = "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1001 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:1001 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 4713 fe:00:1001 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 00:1b:1001 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 4714 fe:00:10011 0 EOF\n";
        assert_eq!(holders(locks, 1001), [4711, 0]);
        assert_eq!(holders(locks, 7), [0; 0]);
    }

    #[test]
    fn thread_ends_that_was_killed_or_exits() {
        let stat = |state, flags: u32| format!("7 (a) R 1) {state} 1 7 7 0 -1 {flags} 0 0 0");
        let status =
            |pending: u64| format!("Name:\ta\nSigPnd:\t{pending:016x}\nShdPnd:\t{KILL:016x}\n");
        assert_eq!(fate(&stat("Z", 4), &status(0)), Fate::Gone);
        assert_eq!(fate(&stat("D", 0x40_0040), &status(KILL)), Fate::Ending);
        assert_eq!(fate(&stat("D", 0x40_0044), &status(0)), Fate::Ending);
        assert_eq!(fate(&stat("D", 0x40_0040), &status(1 << 9)), Fate::Running);
        assert_eq!(fate("", ""), Fate::Running);
    }

    #[test]
    fn process_that_runs_or_is_gone_is_not_ending() {
        assert!(!is_ending(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!is_ending(pid) && !is_ending(0));
    }
}
