//! Checks programs in a run while the host replaces the files that they use, by writing beside a file
//! and renaming, as editors and git do.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_testkit::environment::can_mount;

use crate::project::{Project, Said};

/// Opens and reads a file again and again, and prints what fails and what is not whole.
const READS: &str = r#"
    n=0
    while [ $n -lt 5000 ]; do
        n=$((n + 1))
        read -r first second < f || echo "failed: $n"
        [ "$first" = "$second" ] || echo "mixed: $first $second"
        [ -r f ] && [ -s f ] || echo "not found: $n"
    done
    echo "done: $n"
"#;

#[test]
fn a_program_reads_a_file_that_the_host_replaces_all_the_time() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "0 0\n")]);
    let is_over = AtomicBool::new(false);
    let (in_run, bare) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (beside, place) = (project.path().join("f~"), project.path().join("f"));
            for version in 1_u64.. {
                fs::write(&beside, format!("{version} {version}\n")).unwrap();
                fs::rename(&beside, &place).unwrap();
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let bare = Said::by(project.command("sh").args(["-c", READS]));
        let in_run = project.run(&["--discard"], READS);
        is_over.store(true, Ordering::Relaxed);
        (in_run, bare)
    });
    let expected = (Some(0), "done: 5000\n");
    assert_eq!((bare.status, &*bare.out), expected, "{}", bare.err);
    assert_eq!((in_run.status, &*in_run.out), expected, "{}", in_run.err);
}
