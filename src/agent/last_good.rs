//! The last policy folder without an error, kept in the run directory across a restart of the agent.
//!
//! A folder with an error changes nothing: what was in force stays in force. A new process must know what that was.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::files::replace;
use crate::{
    model::Diagnostic,
    policy::{PolicySet, language},
};

/// The file's name in the run directory.
pub(super) const FILE: &str = "policies.json";

/// Files of a folder, and what their reading depends on.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Folder {
    /// Name and text, in order of name.
    files: Vec<(String, String)>,
    options: language::Options,
}

impl Folder {
    pub(super) fn new(files: Vec<(String, String)>, options: language::Options) -> Self {
        Self { files, options }
    }

    /// Whether there is no file.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether a file of that name had any text.
    pub(super) fn has_text(&self, name: &str) -> bool {
        self.files.iter().any(|(file, text)| file == name && !text.is_empty())
    }

    /// The policies, or every error.
    pub(super) fn parse(&self) -> Result<PolicySet, Vec<Diagnostic>> {
        let files: Vec<_> = self.files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        language::parse_with(&files, &self.options)
    }

    /// Writes the file anew.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_vec(self)?)
    }

    /// Reads the file; none if there is none, an error if it is damaged.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
