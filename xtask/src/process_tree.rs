//! Ends a process and all that it started, and reports what they were doing.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

/// Kills the process and all that it started, and returns what they were: one line each, with the
/// kernel function they slept in. Without /proc, only the process itself is found.
pub(crate) fn kill(root: u32) -> String {
    let mut parents = HashMap::<u32, Vec<u32>>::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Ok(pid) = entry.file_name().to_string_lossy().parse()
            && let Some(parent) = parent(pid)
        {
            parents.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(parents.remove(pid).unwrap_or_default());
        next += 1;
    }
    let lines: Vec<String> = all.iter().map(|pid| describe(*pid)).collect();
    // `kill` fails for a process that has ended meanwhile, which is fine.
    drop(
        Command::new("kill")
            .arg("-KILL")
            .args(all.iter().map(u32::to_string))
            .status(),
    );
    lines.join("\n")
}

/// Reads proc_pid_stat(5): the second field is in parentheses and may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

fn describe(pid: u32) -> String {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let command = read("cmdline").replace('\0', " ");
    format!("  {pid} {} [{}]", command.trim_end(), read("wchan"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    #[test]
    fn a_child_of_the_child_ends_too_and_is_named() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1234 & echo started; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(output.next().unwrap().unwrap(), "started");
        let killed = kill(child.id());
        assert!(killed.contains("sleep 1234"), "{killed}");
        // The process has ended when nobody holds the pipe any more.
        assert!(output.next().is_none());
        child.wait().unwrap();
    }
}
