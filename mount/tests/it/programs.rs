//! Tests real programs in a mount: whatever they do comes out as in a bare directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Fixture, program};

/// An object, as far as it is the same in two runs of a program.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    mode: u32,
    links: u64,
    content: Vec<u8>,
}

/// Returns everything below a directory. `ignored` are parts of paths that hold times or random
/// names.
fn tree(root: &Path, ignored: &[&str]) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if ignored
                .iter()
                .any(|part| name.to_str().unwrap().contains(part))
            {
                continue;
            }
            let found = fs::symlink_metadata(&path).unwrap();
            let kind = found.file_type();
            let content = if kind.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if kind.is_dir() {
                dirs.push(path);
                Vec::new()
            } else {
                without_root(fs::read(&path).unwrap(), root)
            };
            // Each filesystem decides whether a directory's links count the directories in it.
            let links = if kind.is_dir() { 0 } else { found.nlink() };
            let mode = found.permissions().mode();
            all.insert(
                name,
                Seen {
                    mode,
                    links,
                    content,
                },
            );
        }
    }
    all
}

/// Removes the root from a content, because many programs record where they are.
fn without_root(content: Vec<u8>, root: &Path) -> Vec<u8> {
    let root = root.as_os_str().as_encoded_bytes();
    let mut rest = content.as_slice();
    let mut all = Vec::new();
    while let Some(at) = rest.windows(root.len()).position(|part| part == root) {
        all.extend_from_slice(&rest[..at]);
        rest = &rest[at + root.len()..];
    }
    all.extend_from_slice(rest);
    all
}

/// Runs a script in a mount and in a bare directory; both must give the same output and leave the
/// same files.
#[track_caller]
fn same_as_outside(script: &str, ignored: &[&str]) {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    let outside = tempfile::tempdir().unwrap();
    let run = |dir: &Path| {
        let output = Command::new("timeout")
            .args(["-k", "5", "300", "sh", "-euc", script])
            .current_dir(dir)
            .env("HOME", dir)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", "2020-01-01T00:00:00Z")
            .env("GIT_COMMITTER_DATE", "2020-01-01T00:00:00Z")
            .env_remove("CARGO_TARGET_DIR")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "in {}: {errors}", dir.display());
        String::from_utf8(output.stdout).unwrap()
    };
    let (inside_said, outside_said) = (run(mount.dir.path()), run(outside.path()));
    assert_eq!(inside_said, outside_said);
    assert!(
        !outside_said.is_empty(),
        "the script says nothing of what it did"
    );
    let (inside, outside) = (
        tree(mount.dir.path(), ignored),
        tree(outside.path(), ignored),
    );
    for (path, seen) in &inside {
        let expected = outside.get(path);
        assert_eq!(Some(seen), expected, "{}", path.display());
    }
    assert_eq!(inside.len(), outside.len(), "files are missing");
}

#[test]
fn git_clones_commits_and_sees_nothing_to_commit() {
    let script = r#"
        git config --global user.name a; git config --global user.email a@b
        git config --global init.defaultBranch main
        git config --global gc.auto 0
        git init -q one; cd one
        for d in a b c; do mkdir -p $d/$d; for f in 1 2 3 4 5 6 7 8; do seq $f 900 >$d/$d/$f; done; done
        ln -s a/a link; chmod +x a/a/1
        git add .; git commit -qm first
        cd ..; git clone -q one two; cd two
        git status --porcelain --branch
        echo more >>b/b/2; git mv c/c c/d; rm a/a/3
        git status --porcelain
        git add -A; git commit -qm second; git status --porcelain --branch
        git gc -q; git fsck --full 2>&1; git log --stat --format=%s%n%H
        git checkout -q -b topic HEAD~1; git merge -q main; git status --porcelain --branch
        git worktree add -q ../three; git -C ../three status --porcelain --branch
        git stash list; git diff --stat main
    "#;
    // The index holds times and inode numbers; packs are made by threads.
    same_as_outside(script, &["/index", "/logs", "/pack-"]);
}

#[test]
fn tar_brings_back_what_it_took() {
    let script = r#"
        mkdir -p in/deep/er; cd in
        for f in 1 2 3 4 5 6; do seq $f 3000 >deep/$f; touch -d @$((f * 1000000)).123456789 deep/$f; done
        ln deep/1 deep/er/hard; ln -s ../deep soft; mkfifo fifo
        truncate -s 1M hole; printf x | dd of=hole bs=1 seek=700000 conv=notrunc status=none
        chmod 4755 deep/2; chmod 1777 deep/er
        touch -h -d @77.5 soft fifo hole deep/er deep .
        tar --sort=name --sparse --xattrs -cf ../a.tar .
        cd ..; mkdir out; tar --xattrs -xpf a.tar -C out
        cd out; find . -type d -o -printf '%P %m %y %n %s %T+ %l\n' | sort
        tar --diff -f ../a.tar && echo same
        cd ..; tar -C out --sort=name --sparse --xattrs -cf b.tar .
        cmp a.tar b.tar && echo equal
        rm a.tar b.tar; rm in/fifo out/fifo
    "#;
    same_as_outside(script, &[]);
}

#[test]
fn sqlite_keeps_a_database_in_every_journal_mode() {
    let script = r#"
        for mode in delete truncate persist wal; do
            sqlite3 $mode.db "pragma journal_mode=$mode; create table t(a integer primary key, b text);"
            for worker in 1 2 3 4; do
                i=0
                while [ $i -lt 25 ]; do
                    echo ".timeout 60000"
                    echo "begin immediate; insert into t(b) values('$worker-$i'); commit;"
                    i=$((i + 1))
                done | sqlite3 $mode.db >/dev/null &
            done
            wait
            sqlite3 $mode.db "select count(*), count(distinct b) from t; pragma integrity_check;"
            sqlite3 $mode.db "begin; delete from t where a % 2; rollback; select count(*) from t; vacuum;"
        done
        ls
    "#;
    // The rows have the order of the processes.
    same_as_outside(script, &[".db"]);
}

#[test]
fn make_builds_a_program_of_c_once() {
    let script = r#"
        mkdir -p src obj
        for i in 1 2 3 4 5 6; do
            printf 'int f%s(int x) { return x * %s; }\n' $i $i >src/f$i.c
        done
        cat >src/main.c <<'END'
#include <stdio.h>
int f1(int), f2(int), f3(int), f4(int), f5(int), f6(int);
int main(void) { printf("%d\n", f1(1) + f2(1) + f3(1) + f4(1) + f5(1) + f6(1)); return 0; }
END
        cat >Makefile <<'END'
OBJECTS = $(patsubst src/%.c,obj/%.o,$(sort $(wildcard src/*.c)))
prog: $(OBJECTS)
	cc -o $@ $^
obj/%.o: src/%.c
	cc -O1 -c -o $@ $<
END
        make -s -j2; ./prog; make -q && echo up to date
        sleep 0.01; echo 'int f6(int x) { return x * 60; }' >src/f6.c
        make -s; ./prog; make -q && echo up to date
        ar rc lib.a obj/f1.o obj/f2.o; ar t lib.a
        rm lib.a
    "#;
    same_as_outside(script, &[]);
}

#[test]
fn cargo_builds_a_crate_once() {
    let script = r#"
        export CARGO_HOME="$HOME/.cargo" RUSTUP_HOME="${RUSTUP_HOME:-$REAL_HOME/.rustup}"
        mkdir -p p/src; cd p
        printf '[package]\nname = "p"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' >Cargo.toml
        printf 'fn main() { println!("{}", p::f(20)); }\n' >src/main.rs
        printf 'pub fn f(x: u64) -> u64 { (1..=x).product() }\n#[test] fn t() { assert_eq!(f(3), 6); }\n' >src/lib.rs
        cargo build --offline -q; target/debug/p
        cargo build --offline 2>&1 | grep -c Compiling || true
        cargo test --offline -q 2>&1 | grep -c 'test result: ok. 1 passed'
        cat Cargo.lock
    "#
    .replace("$REAL_HOME", &std::env::var("HOME").unwrap());
    // Compiled files hold the path of the directory.
    same_as_outside(&script, &["p/target", ".cargo"]);
}

#[test]
fn npm_installs_a_package_that_runs() {
    let Some(npm) = program("AGENTFS_NPM") else {
        return;
    };
    let bin = npm.parent().unwrap().to_str().unwrap();
    let script = r#"
        export PATH="BIN:$PATH" npm_config_cache="$HOME/.npm" npm_config_update_notifier=false
        mkdir p; cd p
        printf '{"name":"p","version":"1.0.0","private":true}' >package.json
        npm install --silent --no-audit --no-fund express@4.21.2 semver@7.7.2
        node -p 'typeof require("express")().listen'
        node_modules/.bin/semver -r '>=2' 1.5.0 2.1.3
        npm ls --all --parseable | sed "s|^$HOME||"
        rm -r node_modules/express; npm ci --silent --no-audit --no-fund --offline
        find node_modules | wc -l
    "#
    .replace("BIN", bin);
    // npm records the times of its downloads.
    same_as_outside(&script, &[".npm", ".package-lock.json"]);
}
