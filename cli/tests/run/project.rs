//! Makes a project with everything around it that a user has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_client::Client;
use agentfs_proto::message::{Hello, MountList, MountWait};
use agentfs_testkit::program::Program;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{connect, private_directory};

/// A project, a runtime directory and a home. The daemons that were started there end with it.
pub(crate) struct Project {
    directory: TempDir,
}

/// The output of a command, and its status.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Runs a command without input to its end.
    #[track_caller]
    pub(crate) fn by(command: &mut Command) -> Self {
        let (status, out, err) = Program::start(command).finish();
        let status = status.code();
        Self { status, out, err }
    }

    /// Returns the directory in which changes were kept.
    #[track_caller]
    pub(crate) fn exported(&self) -> PathBuf {
        let mut lines = self.err.lines();
        let path = lines.find_map(|line| line.strip_prefix("agentfs: exported to "));
        path.expect("where they were exported to").into()
    }
}

impl Said {
    /// Returns the commands that the errors name, each at the end of a line.
    pub(crate) fn hints(&self) -> Vec<String> {
        let lines = self.err.lines();
        let hints =
            lines.filter_map(|line| Some(format!("agentfs {}", line.split_once(": agentfs ")?.1)));
        hints.collect()
    }
}

/// Ends the daemons, because a daemon does not end by itself while a branch has changes.
impl Drop for Project {
    fn drop(&mut self) {
        for daemon in self.daemons() {
            // The daemon may just have ended.
            kill_process(daemon, Signal::TERM).unwrap_or(());
        }
    }
}

impl Project {
    pub(crate) fn new() -> Self {
        let directory = private_directory();
        for name in ["project", "runtime", "home"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    /// Creates a project with these files, given as path and content.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let project = Self::new();
        for (name, content) in files {
            project.write(name, content);
        }
        project
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Changes the project itself.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path().join(name).symlink_metadata().is_ok()
    }

    /// Returns `agentfs` in the project.
    pub(crate) fn agentfs(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_agentfs"))
    }

    /// Returns a program in the project, with what its user has in the environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_RUNTIME_DIR", self.beside("runtime"))
            .env("HOME", self.beside("home"))
            .env_remove("XDG_STATE_HOME")
            .env_remove("AGENTFS_BRANCH")
            .env_remove("AGENTFS_SOCKET")
            .env_remove("LD_PRELOAD")
            .current_dir(self.path());
        command
    }

    /// Runs `agentfs` with these words in another directory to its end.
    pub(crate) fn say_in(&self, directory: &Path, words: &[&str]) -> Said {
        Said::by(self.agentfs().current_dir(directory).args(words))
    }

    /// Runs `agentfs` as [`say_in`](Self::say_in) does; the command must succeed.
    #[track_caller]
    pub(crate) fn ask_in(&self, directory: &Path, words: &[&str]) -> String {
        let said = self.say_in(directory, words);
        assert_eq!(said.status, Some(0), "{words:?}: {said:?}");
        said.out
    }

    /// Runs a line that a user has copied from a hint.
    #[track_caller]
    pub(crate) fn type_in(&self, directory: &Path, line: &str) -> String {
        let programs = Path::new(env!("CARGO_BIN_EXE_agentfs")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut shell = self.command("sh");
        shell
            .env("PATH", format!("{}:{path}", programs.display()))
            .current_dir(directory)
            .args(["-c", line]);
        let said = Said::by(&mut shell);
        assert_eq!(said.status, Some(0), "{line}: {said:?}");
        said.out
    }

    /// Makes a further directory beside the project.
    pub(crate) fn another(&self, name: &str) -> PathBuf {
        let path = self.beside(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Runs `agentfs` with these words to its end.
    pub(crate) fn say(&self, words: &[&str]) -> Said {
        Said::by(self.agentfs().args(words))
    }

    /// Runs `agentfs` with these words, which must succeed.
    #[track_caller]
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let said = self.say(words);
        assert_eq!(said.status, Some(0), "{words:?}: {said:?}");
        said.out
    }

    /// Starts `agentfs`, with arguments as a shell reads them, on a terminal that script(1) makes.
    ///
    /// No shell stays between the two: a shell would die of the SIGINT that the command survives.
    /// The tests may run in the background, where SIGINT is ignored, and the command must not
    /// inherit that.
    pub(crate) fn on_terminal(&self, arguments: &str) -> Program {
        let agentfs = env!("CARGO_BIN_EXE_agentfs");
        let line = format!("exec env --default-signal=INT {agentfs} {arguments}");
        let mut script = self.command("script");
        Program::start(
            script
                .env("SHELL", "/bin/sh")
                .args(["-qec", &line, "/dev/null"]),
        )
    }

    /// Starts a script in a branch of its own, and waits until the script runs.
    pub(crate) fn start(&self, options: &[&str], script: &str) -> Program {
        let mut command = self.agentfs();
        let script = format!("echo ready; {script}");
        command
            .arg("run")
            .args(options)
            .args(["--", "sh", "-c", &script]);
        let program = Program::start(&mut command);
        program.expect("ready");
        program
    }

    /// Runs a script in a branch of its own.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Said {
        let mut command = self.agentfs();
        command
            .arg("run")
            .args(options)
            .args(["--", "sh", "-c", script]);
        Said::by(&mut command)
    }

    /// Waits until no program is in a branch any more.
    pub(crate) fn wait_unmounted(&self, branch: &str) {
        for socket in self.sockets() {
            let mut client = connect(&socket);
            let mounts = client.call(MountList { after: 0 }, soon()).unwrap().mounts;
            for mount in mounts.iter().filter(|it| it.branch_name == branch) {
                let wait = MountWait {
                    id: mount.id,
                    timeout_ms: 60_000,
                };
                assert_eq!(client.call(wait, soon()).unwrap().value, 1, "{branch}");
            }
        }
    }

    /// Returns the sockets of the daemons that listen in the runtime directory.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.runtime()).into_iter().flatten().flatten();
        let sockets = entries.map(|it| it.path());
        sockets
            .filter(|it| it.extension() == Some("sock".as_ref()))
            .filter(|it| std::os::unix::net::UnixStream::connect(it).is_ok())
            .collect()
    }

    /// Returns the socket of the daemon that a run starts.
    pub(crate) fn own_socket(&self) -> PathBuf {
        use std::os::unix::fs::MetadataExt as _;
        let path = self.path().canonicalize().unwrap();
        let found = path.metadata().unwrap();
        let default = self.runtime().join("control.sock");
        agentfs_proto::socket::project_path(&default, &path, found.dev(), found.ino())
    }

    /// Returns the socket of the only daemon.
    #[track_caller]
    pub(crate) fn socket(&self) -> PathBuf {
        let mut sockets = self.sockets();
        assert_eq!(sockets.len(), 1, "{sockets:?}");
        sockets.remove(0)
    }

    /// Returns the daemons over this project, and over others with the same runtime directory.
    fn daemons(&self) -> Vec<Pid> {
        let sockets = self.sockets().into_iter();
        sockets
            .filter_map(|it| Client::connect(&it, Hello::new("test"), soon()).ok())
            .filter_map(|(_, welcome)| Pid::from_raw(welcome.daemon_pid.try_into().ok()?))
            .collect()
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.beside("runtime/agentfs")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}
