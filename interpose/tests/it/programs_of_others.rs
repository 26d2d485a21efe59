//! Tests that programs that have nothing to do with AgentFS do what they do without the library.

use std::path::Path;
use std::process::{Command, Output};

use agentfs_testkit::shim::preloaded;

fn same_with_and_without(program: &str, arguments: &[&str]) {
    let run = |mut command: Command| -> Output {
        let directory = tempfile::TempDir::new().unwrap();
        command
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .unwrap_or_else(|error| panic!("{program} has to be installed: {error}"))
    };
    let without = run(Command::new(program));
    let with = run(preloaded(program));
    assert_eq!(without.status, with.status, "{program}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&without.stdout), text(&with.stdout), "{program}");
    assert_eq!(text(&without.stderr), text(&with.stderr), "{program}");
}

#[test]
fn shells_run_pipes_subshells_and_redirections() {
    let script = "set -e; echo a | tr a b; (exec 5<&0 6>&1; echo sub >&6); x=$(echo nested); \
                  echo $x; cat < /dev/null; read line < <(echo process); echo $line; \
                  for i in 1 2 3; do echo $i; done | sort -r; exit 3";
    same_with_and_without("bash", &["-c", script]);
    same_with_and_without("sh", &["-c", "echo a | cat; exit 4"]);
}

#[test]
fn python_forks_threads_and_spawns() {
    let script = "
import os, subprocess, threading, select, multiprocessing, sys, ctypes
print(subprocess.run(['echo', 'spawned'], capture_output=True, close_fds=True).stdout)
r, w = os.pipe()
if os.fork() == 0:
    os.write(w, b'child'); os._exit(0)
os.wait(); print(os.read(r, 10))
t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()
print(select.select([r], [], [], 0))
libc = ctypes.CDLL('libc.so.6', use_errno=True)
fd = libc.inotify_init1(0); print(fd > 0, libc.inotify_add_watch(fd, b'/proc/self', 2))
print(libc.inotify_add_watch(fd, b'/nowhere', 2), ctypes.get_errno())
os.closerange(3, 200); sys.exit(5)
";
    same_with_and_without("python3", &["-c", script]);
}

#[test]
fn node_watches_and_spawns() {
    let script = "
const fs = require('fs'), cp = require('child_process');
const w = fs.watch('.', (e, f) => { console.log(e, f); w.close(); });
fs.writeFileSync('new.txt', 'x');
console.log(cp.execSync('echo spawned').toString());
process.exitCode = 6;
";
    same_with_and_without("node", &["-e", script]);
}

#[test]
fn java_runs() {
    same_with_and_without("java", &["-version"]);
}

#[test]
fn git_makes_a_repository_and_commits() {
    let commands = "git init -q . && git -c user.name=a -c user.email=b commit -q --allow-empty \
                    -m x --date 2000-01-01T00:00:00Z && git log --format=%s%an && git status";
    same_with_and_without("sh", &["-c", commands]);
}

#[test]
fn a_compiler_compiles_and_its_program_runs() {
    let commands = "printf 'int main(void){return 9;}' > m.c && gcc -pipe m.c -o m && ./m";
    same_with_and_without("sh", &["-c", commands]);
}

#[test]
fn a_library_that_is_loaded_first_reads_in_its_constructor() {
    let directory = tempfile::TempDir::new().unwrap();
    let source = directory.path().join("early.c");
    let library = directory.path().join("libearly.so");
    std::fs::write(
        &source,
        "#include <unistd.h>\n#include <fcntl.h>\n#include <sys/inotify.h>\n\
         __attribute__((constructor)) static void early(void) {\n\
           char c = 0; int fd = open(\"/dev/zero\", O_RDONLY);\n\
           if (read(fd, &c, 1) != 1) _exit(90);\n\
           if (close(fd)) _exit(91);\n\
           int i = inotify_init1(0); inotify_add_watch(i, \"/proc\", IN_MODIFY);\n\
           if (close(i)) _exit(92);\n }\n",
    )
    .unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(status.unwrap().success());
    let mut command = preloaded("true");
    let both = |a: &Path, b: &Path| format!("{}:{}", a.display(), b.display());
    // Constructors run from the last library to the first.
    command.env(
        "LD_PRELOAD",
        both(agentfs_testkit::shim::library(), &library),
    );
    assert!(command.status().unwrap().success());
    let mut command = preloaded("true");
    command.env(
        "LD_PRELOAD",
        both(&library, agentfs_testkit::shim::library()),
    );
    assert!(command.status().unwrap().success());
}
