//! What a project says about itself, in a file in its root.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::output::failure::Failure;

/// The file.
pub(crate) const FILE: &str = ".agentfs.json";

/// Bytes that the file may have.
const MOST: u64 = 1 << 20;

/// The settings of a project.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Whether new branches are frozen.
    pub(crate) frozen: bool,
    /// What a frozen branch leaves out.
    pub(crate) exclude: Vec<String>,
}

impl Settings {
    /// Reads the settings of a project; those of a project without the file are the default ones.
    pub(crate) fn of(project: &Path) -> Result<Self, Failure> {
        let path = project.join(FILE);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Other(format!(
                "{}: {error}; the settings look like this: {{\"frozen\": true, \"exclude\": [\"target/\"]}}",
                path.display()
            ))
        };
        match fs::symlink_metadata(&path) {
            // Another kind of file may keep the one who opens it waiting.
            Ok(found) if !found.is_file() => return Err(failed(&"not a regular file")),
            Ok(found) if found.len() > MOST => return Err(failed(&"too large")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(&error)),
        }
        let mut text = String::new();
        let opened = File::open(&path);
        let read = opened.and_then(|file| file.take(MOST).read_to_string(&mut text));
        read.map_err(|error| failed(&error))?;
        serde_json::from_str(&text).map_err(|error| failed(&error))
    }

    /// Returns what a user is told; `None` when new branches are live.
    pub(crate) fn line(&self) -> Option<String> {
        let but_for = match &*self.exclude {
            [] => String::new(),
            all => format!(" and leave out {}", all.join(" ")),
        };
        self.frozen
            .then(|| format!("new branches are frozen{but_for} ({FILE})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_a_wrong_file_is_named() {
        let project = tempfile::tempdir().unwrap();
        let of = || Settings::of(project.path());
        let path = project.path().join(FILE);
        assert_eq!(of().unwrap(), Settings::default());
        assert_eq!(of().unwrap().line(), None);
        fs::write(
            &path,
            r#"{"frozen": true, "exclude": ["target/", "*.log"]}"#,
        )
        .unwrap();
        let line = "new branches are frozen and leave out target/ *.log (.agentfs.json)";
        assert_eq!(of().unwrap().line().as_deref(), Some(line));
        for wrong in ["", "frozen", r#"{"frozzen": true}"#, r#"{"frozen": 1}"#] {
            fs::write(&path, wrong).unwrap();
            let error = of().unwrap_err().to_string();
            assert!(
                error.contains(FILE) && error.contains("look like"),
                "{error}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(of().unwrap_err().to_string().contains("regular"));
    }
}
