//! Dead letters as the mount shows them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Mount;

/// A dead letter in `.relay/dead-letter` of a mount, or in `dead-letter` of a state directory.
#[derive(Debug, Clone)]
pub struct Letter {
    pub id: String,
    pub record: Value,
    pub sidecar: Value,
    dir: PathBuf,
}

impl Letter {
    /// Every letter of a directory, oldest first. Each must have both of its JSON files.
    #[track_caller]
    pub fn all_in(dir: &Path) -> Vec<Letter> {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut ids: Vec<String> =
            names.filter(|n| !n.ends_with(".error.json")).filter_map(|n| Some(n.strip_suffix(".json")?.to_owned())).collect();
        ids.sort();
        ids.into_iter().map(|id| Letter::read(dir, id)).collect()
    }

    #[track_caller]
    fn read(dir: &Path, id: String) -> Letter {
        let json = |suffix: &str| {
            let file = dir.join(format!("{id}{suffix}"));
            let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
        };
        Letter { record: json(".json"), sidecar: json(".error.json"), dir: dir.to_owned(), id }
    }

    pub fn record_file(&self) -> PathBuf {
        self.dir.join(format!("{}.json", self.id))
    }

    pub fn payload(&self) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.dir.join(format!("{}.payload", self.id)))
    }
}

impl Mount {
    /// The dead letters that the mount shows.
    #[track_caller]
    pub fn letters(&self) -> Vec<Letter> {
        Letter::all_in(&self.at(".relay/dead-letter"))
    }

    /// The one dead letter that there must be.
    #[track_caller]
    pub fn letter(&self) -> Letter {
        let mut letters = self.letters();
        assert_eq!(letters.len(), 1, "{letters:#?}");
        letters.remove(0)
    }
}
