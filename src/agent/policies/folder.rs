//! The policy folder: what is in it, what was in it when it was good last, and which of the two is in force.

use std::{io, sync::Arc};

use super::Policies;
use crate::{
    agent::{last_good::Folder, settling},
    model::Diagnostic,
    policy::language,
};

impl Policies {
    /// Reads the folder for the first time. While somebody writes to it, or when it has errors, what the process before
    /// us had in force stays in force; `unreadable`: why nobody knows what that was.
    pub(super) fn first_read(&mut self, unreadable: Option<io::Error>) {
        if let Some(known) = &self.last_good
            && let Some(doubt) = settling::doubt_at_start(&self.folder, |name| known.has_text(name))
        {
            self.unsettled = true;
            self.file_errors = vec![format!("{doubt}; it is read in a moment")];
        } else {
            self.read_folder();
        }
        if !self.file_errors.is_empty() {
            self.as_before(unreadable);
        }
    }

    /// Whether the folder is still to be read for the first time.
    pub(in crate::agent) fn unsettled(&self) -> bool {
        self.unsettled
    }

    /// The folder has errors: what the process before us had in force stays in force.
    fn as_before(&mut self, unreadable: Option<io::Error>) {
        let file = self.last_good_file.display();
        let known = match (&self.last_good, unreadable) {
            (Some(folder), _) => folder.parse().map_err(|errors| {
                let first = errors.first().map(ToString::to_string).unwrap_or_default();
                format!("{file} has errors too: {first}")
            }),
            (None, None) => Err("no earlier policies are known".to_owned()),
            (None, Some(error)) => Err(format!("{file} cannot be read: {error}")),
        };
        match known {
            Ok(set) => {
                tracing::warn!(
                    "policy folder: it has errors; the policies from before the start stay in force"
                );
                self.engine.set_policies(Arc::new(set));
            }
            Err(why) if self.driver.is_some() => {
                let why = format!(
                    "the policy folder has errors, and {why}: no container is attached until the folder is right"
                );
                self.error = Some(why.clone());
                self.blocked = Some(why);
            }
            // Nothing is enforced anyway.
            Err(_) => {}
        }
    }

    /// Reads the folder again and puts it in force; says what changed, or every error.
    pub(in crate::agent) fn reload(&mut self) -> Result<Vec<String>, Vec<String>> {
        let before = self.engine.policies().clone();
        self.read_folder();
        if !self.file_errors.is_empty() {
            return Err(self.file_errors.clone());
        }
        self.flush().map_err(|error| vec![error])?;
        Ok(before.differences(self.engine.policies()))
    }

    /// Writes what was in the folder when it was good last, for the next process.
    pub(super) fn save_last_good(&self) {
        if let Some(folder) = &self.last_good
            && let Err(error) = folder.save(&self.last_good_file)
        {
            tracing::warn!("cannot write {}: {error}", self.last_good_file.display());
        }
    }

    /// Whether there was anything in the folder when it was good last, be it before the start.
    fn had_files(&self) -> bool {
        self.last_good.as_ref().is_some_and(|folder| !folder.is_empty())
    }

    fn read_folder(&mut self) {
        let unread = language::unread(&self.folder);
        if unread != self.unread {
            for file in &unread {
                tracing::warn!("policy folder: {file}");
            }
            self.unread = unread;
        }
        // One that was never there is empty. One that is gone may come back, and meanwhile nothing must open.
        let read = if !self.folder.exists() && self.had_files() {
            let gone = "the policy folder is gone (an empty one says that there are no policies)";
            Err(vec![Diagnostic::new(&*self.folder, "", 0..0, gone)])
        } else {
            language::read_dir(&self.folder).and_then(|files| {
                let folder = Folder::new(files, self.options.clone());
                folder.parse().map(|set| (folder, set))
            })
        };
        match read {
            Ok((folder, set)) => {
                self.file_errors.clear();
                if self.blocked.take().is_some() {
                    self.error = None;
                }
                self.engine.set_policies(Arc::new(set));
                if self.last_good.as_ref() != Some(&folder) {
                    self.last_good = Some(folder);
                    self.save_last_good();
                }
            }
            Err(errors) => {
                self.file_errors = errors.iter().map(ToString::to_string).collect();
                for error in &self.file_errors {
                    tracing::error!("policy folder: an error, so nothing of it is put in force\n{error}");
                }
            }
        }
    }
}
