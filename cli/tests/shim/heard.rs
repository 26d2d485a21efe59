//! Tests that each change is heard once, whichever way it is made, and that none is missed.

use agentfs_testkit::shim::Script;

use crate::mounted::{Change, Mounted};

const NONBLOCK: i32 = 0o4000;
const IN_CREATE_DELETE: u32 = 0x300;

#[test]
fn a_change_through_the_mount_is_told_by_the_kernel_and_one_from_outside_by_the_ring() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let point = mounted.point().to_owned();
    let mut script = Script::start(&mounted.socket());
    let fd = script.init(0);
    assert_eq!(script.add(fd, IN_CREATE_DELETE, &point), 1);
    for round in 0..20 {
        let (change, expected) = if round % 2 == 0 {
            (Change::Mkdir("d"), "1:40000100:0:d")
        } else {
            (Change::Rmdir("d"), "1:40000200:0:d")
        };
        script.begin(format!("read {fd} 4096"));
        if round % 4 < 2 {
            mounted.apply(&change);
        } else {
            change.apply_below(&point);
        }
        assert_eq!(script.answer(), expected, "round {round}");
    }
    assert_eq!(script.ask(format!("nonblock {fd}")), "0");
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
    drop(script);
    mounted.end();
}

#[test]
fn no_change_after_the_call_returned_goes_unheard() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let point = mounted.point().to_owned();
    let mut script = Script::start(&mounted.socket());
    let fd = script.init(NONBLOCK);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for name in names {
        mounted.apply(&Change::Mkdir(name));
    }
    for round in 0..50 {
        for name in names {
            let wd = script.add(fd, IN_CREATE_DELETE | 4, &point.join(name));
            // The change follows at once: nothing but the return of the call is in between.
            mounted.apply(&Change::Chmod(name));
            assert_eq!(
                script.ask(format!("read {fd} 4096")),
                format!("{wd}:40000004:0:"),
                "round {round}"
            );
            assert_eq!(script.ask(format!("rm {fd} {wd}")), "0");
            mounted.apply(&Change::Chmod(name));
            assert_eq!(
                script.ask(format!("read {fd} 4096")),
                format!("{wd}:8000:0:")
            );
        }
    }
    drop(script);
    mounted.end();
}
