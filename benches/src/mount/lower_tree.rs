//! What the lower directory holds: a source tree under git, large files, a crate, a full directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Size;
use super::place::succeed;
use crate::Failure;

/// Files in a directory of the source tree.
const IN_A_DIRECTORY: u64 = 20;

/// Where the parts are, below the lower directory.
pub(super) const TREE: &str = "tree";
pub(super) const CRATE: &str = "crate";
pub(super) const FULL: &str = "full";
pub(super) const WORKSPACE: &str = "workspace";

/// Returns the name of the large file of a round, which has not been read yet through a mount.
pub(super) fn large(round: usize) -> String {
    format!("large-{round}")
}

pub(super) fn prepare(lower: &Path, size: Size) -> Result<(), Failure> {
    let tree = lower.join(TREE);
    source_tree(&tree, size.sources)?;
    let archive = lower.with_file_name("memory").join("sources.tar");
    succeed(
        Command::new("tar")
            .arg("-cf")
            .arg(archive)
            .arg("-C")
            .arg(&tree)
            .arg("."),
    )?;
    for arguments in [
        &["init", "-q"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
            "commit",
            "-q",
            "-m",
            "all",
        ],
    ] {
        succeed(Command::new("git").current_dir(&tree).args(arguments))?;
    }
    for round in 0..size.rounds {
        let length = usize::try_from(size.large << 20)?;
        fs::write(lower.join(large(round)), noise(round as u64, length))?;
    }
    let small_crate = lower.join(CRATE);
    fs::create_dir_all(small_crate.join("src"))?;
    fs::write(
        small_crate.join("Cargo.toml"),
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    )?;
    for module in 0..20 {
        let text = format!("pub fn f(x: u64) -> u64 {{ (0..x).map(|y| y * {module}).sum() }}\n");
        fs::write(small_crate.join(format!("src/m{module}.rs")), text)?;
    }
    let modules: String = (0..20).map(|module| format!("mod m{module};\n")).collect();
    let calls: String = (0..20)
        .map(|module| format!(" + m{module}::f(3)"))
        .collect();
    let text = format!("{modules}fn main() {{ std::process::exit(i32::from(0{calls} == 1)) }}\n");
    fs::write(small_crate.join("src/main.rs"), text)?;
    fs::create_dir(lower.join(FULL))?;
    for entry in 0..size.entries {
        fs::write(lower.join(FULL).join(format!("entry-{entry}")), "")?;
    }
    Ok(())
}

/// Adds what of this project is under version control.
pub(super) fn prepare_workspace(lower: &Path) -> Result<(), Failure> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = lower.join(WORKSPACE);
    fs::create_dir(&dir)?;
    let archive = lower.with_file_name("memory").join("workspace.tar");
    let mut command = Command::new("git");
    let command = command.args(["archive", "HEAD", "-o"]).arg(&archive);
    succeed(command.current_dir(top))?;
    succeed(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(dir),
    )
}

/// Writes files of the sizes that sources have: most have some KiB, few have many.
fn source_tree(tree: &Path, files: u64) -> Result<(), Failure> {
    for number in 0..files {
        let group = number / IN_A_DIRECTORY;
        let dir = tree.join(format!("d{}/d{group}", group % 10));
        if number.is_multiple_of(IN_A_DIRECTORY) {
            fs::create_dir_all(&dir)?;
        }
        let length = match number % 20 {
            0 => 100_000,
            1..=5 => 20_000,
            kib => 500 * kib,
        };
        fs::write(
            dir.join(format!("file-{number}.rs")),
            noise(number, usize::try_from(length)?),
        )?;
    }
    Ok(())
}

/// Returns bytes that do not compress well (a linear congruence).
///
/// The generator is not testkit's, because its bytes define the tree that is measured: results of
/// different versions compare only while the tree stays the same, whatever the tests need.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    });
    words.take(length).collect()
}
