//! When a process started, by which it is told from a later one with the same number.

use std::fs;

/// Returns when a process started (`starttime`, proc_pid_stat(5)); `None` if there is no such process,
/// if it has ended and was not waited for, or where the system does not say.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which is field 2 and in parentheses, may have any characters.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Field 22; the state was field 3.
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::start_of;

    #[test]
    fn a_process_is_known_by_its_start_until_it_ends() {
        let own = start_of(std::process::id());
        assert!(own.is_some());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("a child");
        let started = start_of(child.id());
        assert!(started >= own, "{started:?} {own:?}");
        child.kill().expect("it is killed");
        child.wait().expect("it has ended");
        assert_ne!(start_of(child.id()), started);
    }
}
