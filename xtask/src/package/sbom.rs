//! Makes bills of materials (CycloneDX): of the program, and of the preloaded library that it
//! carries.

use std::fs;
use std::path::{Path, PathBuf};

use crate::report::{Failure, run as run_command};
use crate::tools::{from_cargo, root};

const CYCLONEDX: &str = "0.5.9";
/// The name for the tool's output, to which the tool adds ".json".
const NAME: &str = "sbom.cdx";

/// The packages that are built into the program: each folder, and the name of its bill.
const BUILT_IN: [(&str, &str); 2] = [
    ("cli", "sbom.cdx.json"),
    ("interpose", "sbom-preloaded-library.cdx.json"),
];

/// Writes the bills into `folder`.
pub(super) fn write(folder: &Path) -> Result<(), Failure> {
    let mut tool = std::process::Command::new(from_cargo("cargo-cyclonedx", CYCLONEDX)?);
    tool.args(["cyclonedx", "--quiet", "--format", "json"])
        .args(["--spec-version", "1.5", "--no-build-deps"])
        .args(["--override-filename", NAME]);
    let written = run_command(&mut tool);
    let copied = written.and_then(|()| {
        BUILT_IN.iter().try_for_each(|(package, name)| {
            copy(&bill_of(&root().join(package)), &folder.join(name))
        })
    });
    // The tool writes one bill beside each manifest of the workspace.
    for manifest in folders_with_bills() {
        drop(fs::remove_file(bill_of(&manifest)));
    }
    copied
}

fn bill_of(package: &Path) -> PathBuf {
    package.join(format!("{NAME}.json"))
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let copied = fs::copy(from, to);
    copied
        .map(drop)
        .map_err(|error| Failure::new(format!("{}: {error}", from.display())))
}

/// Returns the folders of the workspace, and the folders right in them.
fn folders_with_bills() -> Vec<PathBuf> {
    let below = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|it| it.path())
            .filter(|it| it.is_dir())
            .collect::<Vec<_>>()
    };
    let top = below(root());
    let nested = top.iter().flat_map(|it| below(it)).collect::<Vec<_>>();
    let all = top.into_iter().chain(nested);
    all.filter(|it| bill_of(it).is_file()).collect()
}
