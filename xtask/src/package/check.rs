//! Checks that the package installs, and that the programs in it work.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::report::{Failure, Outcome, StepResult, capture, run as run_command};
use crate::tools::find;

/// Installs the package into a root of its own, and uses it from there.
pub(super) fn installed(stage: &Path, deb: &Path) -> StepResult {
    let failure = |error: std::io::Error| Failure::new(format!("{}: {error}", stage.display()));
    let root = stage.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).map_err(failure)?;
    }
    for directory in ["info", "updates"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(directory)).map_err(failure)?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "").map_err(failure)?;
    let depends = capture(
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(deb)
            .arg("Depends"),
    )?;
    if !depends.contains("libc6") {
        return Err(Failure::new(format!(
            "the package depends on \"{depends}\" only"
        )));
    }
    // The root has no libc6, and the check need not run as root.
    run_command(
        Command::new("dpkg")
            .arg(format!("--root={}", root.display()))
            .args([
                "--force-not-root",
                "--force-depends",
                "--log=/dev/null",
                "--install",
            ])
            .arg(deb),
    )?;

    let program = root.join("usr/bin/agentfs");
    let version = capture(Command::new(&program).arg("--version"))?;
    for file in [
        "usr/share/man/man1/agentfs-run.1",
        "usr/share/bash-completion/completions/agentfs",
        "usr/share/zsh/vendor-completions/_agentfs",
        "usr/share/fish/vendor_completions.d/agentfs.fish",
        "usr/share/doc/agentfs/sbom.cdx.json",
        "usr/share/doc/agentfs/sbom-preloaded-library.cdx.json",
        "usr/share/doc/agentfs/operating.md",
    ] {
        if !root.join(file).is_file() {
            return Err(Failure::new(format!("the package brings no {file}")));
        }
    }
    let mut note = version.trim().to_owned();
    if find("systemd-analyze").is_none() || find("systemd-socket-activate").is_none() {
        note += "; without systemd, its units were not looked at";
        return Ok(Outcome::Note(note));
    }
    units(&root, stage)?;
    activation(&program, stage)?;
    Ok(Outcome::Note(note + ", units included"))
}

/// Checks that systemd takes the units, with the program where it was installed.
fn units(root: &Path, stage: &Path) -> Result<(), Failure> {
    let failure = |error: std::io::Error| Failure::new(format!("units: {error}"));
    let moved = stage.join("units");
    fs::create_dir_all(&moved).map_err(failure)?;
    let mut paths = Vec::new();
    for name in ["agentfs.service", "agentfs.socket"] {
        let unit = root.join("usr/lib/systemd/user").join(name);
        let text = fs::read_to_string(unit).map_err(failure)?;
        let text = text.replace("=/usr/bin/", &format!("={}/usr/bin/", root.display()));
        let path = moved.join(name);
        fs::write(&path, text).map_err(failure)?;
        paths.push(path);
    }
    // The pages are not in a place where man looks.
    run_command(
        Command::new("systemd-analyze")
            .args(["--user", "--man=no", "--recursive-errors=no", "verify"])
            .args(paths)
            .env("XDG_RUNTIME_DIR", stage),
    )
}

/// Checks that the first connection starts the daemon, with the socket of that connection.
fn activation(program: &Path, stage: &Path) -> Result<(), Failure> {
    let failure = |error: std::io::Error| Failure::new(format!("socket activation: {error}"));
    let directory = std::env::temp_dir().join(format!("agentfs-package-{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(failure)?;
    run_command(Command::new("chmod").arg("700").arg(&directory))?;
    let socket = directory.join("control.sock");
    let listening = Command::new("systemd-socket-activate")
        .arg("--listen")
        .arg(&socket)
        .arg(program)
        .arg("daemon")
        .stderr(fs::File::create(stage.join("activation.log")).map_err(failure)?)
        .spawn()
        .map_err(failure)?;
    let listening = Killed(listening);
    let until = Instant::now() + Duration::from_secs(30);
    while !socket.exists() {
        if Instant::now() > until {
            return Err(Failure::new("systemd-socket-activate does not listen"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut agentfs = Command::new(program);
    agentfs.env("AGENTFS_SOCKET", &socket);
    let status = capture(agentfs.args(["status", "--json"]))?;
    drop(listening);
    fs::remove_dir_all(&directory).map_err(failure)?;
    if status.contains("sessions") {
        Ok(())
    } else {
        Err(Failure::new(format!("agentfs status: {status}")))
    }
}

/// The process that becomes the daemon; it is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
