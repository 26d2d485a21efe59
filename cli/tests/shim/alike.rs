//! Tests that programs that have nothing to do with AgentFS do on a mount, with the library and a
//! daemon, what they do in a directory without either.

use std::path::Path;
use std::process::{Command, Output};

use agentfs_testkit::shim::{library, scratch};

use crate::mounted::Mounted;

/// The shell commands, each of which runs in a directory of its own.
const COMMANDS: [(&str, &str); 6] = [
    (
        "bash",
        "set -e; for i in 1 2 3; do echo $i > f$i; done; cat f* | sort -r; (exec 5< f1; read x <&5; \
         echo sub $x); mkdir d; mv f1 d; cat < <(ls -A . d); ln -s d/f1 l; wc -c l; exit 3",
    ),
    (
        "python",
        "exec python3 -c \"
import ctypes, os, subprocess, sys, threading
libc = ctypes.CDLL('libc.so.6', use_errno=True)
fd = libc.inotify_init1(0)
print(fd > 0, libc.inotify_add_watch(fd, b'.', 0x300))
open('f', 'w').write('text'); os.rename('f', 'g'); os.remove('g')
heard = os.read(fd, 4096); print([name in heard for name in (b'f', b'g', b'h')])
print(subprocess.run(['echo', 'spawned'], capture_output=True, close_fds=True).stdout)
if os.fork() == 0:
    open('child', 'w').write('x'); os._exit(0)
print(os.wait()[1], sorted(os.listdir()))
thread = threading.Thread(target=lambda: print('thread')); thread.start(); thread.join()
sys.exit(5)\"",
    ),
    (
        "node",
        "exec node -e \"
const fs = require('fs'), cp = require('child_process');
const w = fs.watch('.', (e, f) => { console.log(e, f); w.close(); });
fs.writeFileSync('new.txt', 'x');
console.log(cp.execSync('cat new.txt').toString());
process.exitCode = 6;\"",
    ),
    (
        "java",
        "cat > M.java <<'end'
import java.nio.file.*;
import java.util.concurrent.TimeUnit;
public class M {
    public static void main(String[] words) throws Exception {
        Path here = Path.of(\"\");
        WatchService watch = here.getFileSystem().newWatchService();
        here.toAbsolutePath().register(watch, StandardWatchEventKinds.ENTRY_CREATE);
        Files.writeString(here.resolve(\"new.txt\"), \"text\");
        for (WatchEvent<?> it : watch.poll(60, TimeUnit.SECONDS).pollEvents())
            System.out.println(it.kind() + \" \" + it.context());
        Process child = new ProcessBuilder(\"cat\", \"new.txt\").start();
        System.out.println(new String(child.getInputStream().readAllBytes()));
        System.exit(7);
    }
}
end
exec java -XX:TieredStopAtLevel=1 M.java",
    ),
    (
        "git",
        "set -e; export GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z'
         git init -q .; git config user.name a; git config user.email b; echo one > f; git add f
         git commit -q -m x; git checkout -q -b other; echo two >> f; git commit -q -a -m y
         git gc -q; git log --format='%H %s'; git status; git diff HEAD~1 | cat",
    ),
    (
        "gcc",
        "set -e; printf 'int f(void){return 9;}' > f.c; printf 'int f(void);int main(void){return f();}' > m.c
         gcc -pipe -c f.c m.c; ar rcs libf.a f.o; gcc m.o -L. -lf -o m; ls; ./m",
    ),
];

fn run(directory: &Path, commands: &str, more: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", "120", "bash", "-c", commands])
        .current_dir(directory)
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1");
    more(&mut command);
    command.output().unwrap()
}

#[test]
fn ordinary_programs_print_and_return_the_same() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    for (name, commands) in COMMANDS {
        let native = scratch();
        let without = run(native.path(), commands, |_| {});
        let place = mounted.point().join(name);
        std::fs::create_dir(&place).unwrap();
        let with = run(&place, commands, |command| {
            command
                .env("LD_PRELOAD", library())
                .env("AGENTFS_SOCKET", mounted.socket());
        });
        let text = |bytes: &[u8], at: &Path| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.replace(at.to_str().unwrap(), "HERE")
        };
        let said = |it: &Output, at: &Path| (text(&it.stdout, at), text(&it.stderr, at));
        let expected = said(&without, native.path());
        assert_ne!(expected.0, "", "{name} is installed: {}", expected.1);
        assert!(
            without.status.code().is_some_and(|it| it < 100),
            "{name} ends by itself"
        );
        assert_eq!(said(&with, &place), expected, "{name}");
        assert_eq!(with.status, without.status, "{name}");
    }
    mounted.end();
}
