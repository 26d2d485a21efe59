//! Tests that ordinary users can mount: by fusermount3, and in a user namespace of their own.

use std::path::PathBuf;
use std::process::Command;

use agentfs_testkit::environment::can_mount;

/// Root runs this script in a mount namespace of its own. It makes a `/dev/fuse` that everybody may
/// open, as udev makes it, and a directory for nobody.
const STAGE: &str = r#"
dir=$1 serve=$2 inner=$3; shift 3
mount -t tmpfs none "$dir"; cd "$dir"; chmod 755 .
mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse
cp "$serve" serve; chmod 755 serve
mkdir -p own/point own/lower; chown -R 65534:65534 own; cd own
setpriv --reuid 65534 --regid 65534 --clear-groups "$@" sh -euc "$inner"
"#;

/// The user runs this script: it serves, works in the mount, and ends the server twice, once kindly
/// and once not.
const INNER: &str = r#"
start() {
  mkfifo life in out
  ../serve lower point 9>life <in >out & server=$!
  # The guardian has it open as well.
  exec 8<life; exec 3>in; read -r said <out; rm life in out
  test "$said" = ready
  grep -q "/own/point fuse.agentfs .*user_id=$(id -u)," /proc/self/mounts
}
gone() { cat <&8; ! grep /own/point /proc/self/mounts; }
# The mount stays, and shows nothing beneath it.
cut_off() { cat <&8; grep -q /own/point /proc/self/mounts; ! echo >point/beneath; }
start
mkdir point/d; echo content >point/d/f; cat point/d/f; stat -c '%U %a' point/d; mv point/d/f point/g
ls point point/d; ln -s g point/l; cat point/l
exec 3>&-; wait $server; gone && echo ended
start
echo more >point/h; cat point/h; (cd point && exec sleep 1000) & inside=$!
kill -9 $server; cut_off && echo killed; kill $inside
start
ls point; exec 3>&-; wait $server; gone && echo ended
"#;

const SAID: &str = "content\nUSER 755\npoint:\nd\ng\n\npoint/d:\ncontent\nended\n\
                    more\nkilled\nended\n";

#[track_caller]
fn works_for(user: &str, wrapper: &[&str]) {
    if !can_mount() {
        return;
    }
    let tests = std::env::current_exe().unwrap();
    let serve: PathBuf = tests.parent().unwrap().join("../examples/serve");
    assert!(
        serve.exists(),
        "run `cargo build -p agentfs-mount --examples` first"
    );
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-euc", STAGE, "sh"])
        .args([dir.path(), &serve])
        .arg(INNER)
        .args(wrapper)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, SAID.replace("USER", user), "{errors}");
}

#[test]
fn a_user_mounts_by_fusermount3() {
    works_for("nobody", &[]);
}

#[test]
fn a_user_mounts_in_a_user_namespace() {
    works_for("root", &["unshare", "--user", "--map-root-user", "--mount"]);
}
