//! `slash32 policy test` and `check`: no agent, no kernel, no root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    cli::{
        DIFFERENT, Global,
        print::{self, Unusable},
    },
    model::Diagnostic,
    policy::{
        PolicySet,
        engine::Engine,
        language::{self, Options, expect::TestFile},
        notes::limited,
    },
};

/// The policy files of a folder, or one file.
pub(super) fn files(path: &Path) -> Result<Vec<(String, String)>, Unusable> {
    if !path.exists() {
        return Err(Unusable(vec![Diagnostic::new(path, "", 0..0, ABSENT)]));
    }
    if path.is_dir() {
        return language::read_dir(path).map_err(Unusable);
    }
    let name = path.display().to_string();
    // What does not end in .yaml or .yml is read as TOML.
    let text = language::read_file(path).map_err(|error| Unusable(vec![error]))?;
    Ok(vec![(name, text)])
}

const ABSENT: &str = "there is no such file or folder";

/// Reads a file of expectations and puts its endpoints and policies into an engine.
pub(super) fn load(path: &Path) -> anyhow::Result<(TestFile, Engine)> {
    let name = path.display().to_string();
    let text = language::read_file(path).map_err(|error| Unusable(vec![error]))?;
    let test = TestFile::parse(&name, &text).map_err(Unusable)?;
    let base = path.parent().unwrap_or(Path::new("."));
    let mut policies = Vec::new();
    for (written, absent) in &test.policies {
        let place = base.join(written);
        if !place.exists() {
            return Err(Unusable(vec![absent.clone()]).into());
        }
        for unread in unread(&place) {
            eprintln!("note: {unread}");
        }
        policies.extend(files(&place)?);
    }
    let engine = test.engine(&name, &policies).map_err(Unusable)?;
    Ok((test, engine))
}

/// What of a folder is not read; of very much the beginning.
fn unread(folder: &Path) -> Vec<String> {
    limited(language::unread(folder), "files that are not read")
}

pub(super) fn test(global: &Global, paths: &[PathBuf], junit: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut reports = Vec::new();
    for path in paths {
        let (test, engine) = load(path)?;
        reports.push((path.display().to_string(), test.run(&engine)));
    }
    if let Some(path) = junit {
        let mut text = String::new();
        for (name, report) in &reports {
            text.push_str(&report.junit(name));
        }
        // One document has one head and one root.
        let text =
            text.replace("</testsuites>\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n", "");
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    let holds = reports.iter().all(|(_, report)| report.holds());
    let value: Vec<Value> = reports
        .iter()
        .map(|(name, report)| json!({ "file": name, "holds": report.holds(), "checks": report.checks, "expectations": report.rows }))
        .collect();
    global.print(&Value::Array(value), |_| {
        let several = reports.len() > 1;
        let show = |(name, report): &(String, crate::policy::expectations::Report)| {
            if several { format!("{name}: {}", report.text()) } else { report.text() }
        };
        reports.iter().map(show).collect()
    });
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

pub(super) fn check(global: &Global, paths: &[PathBuf], expand: Vec<String>) -> anyhow::Result<ExitCode> {
    let (mut all, mut unusable) = (Vec::new(), Vec::new());
    for path in paths {
        match files(path) {
            Ok(files) => all.extend(files),
            Err(Unusable(errors)) => unusable.extend(errors),
        }
    }
    if !unusable.is_empty() {
        if !global.json {
            return Err(Unusable(unusable).into());
        }
        print::json(&json!({ "valid": false, "files": all.len(), "errors": print::diagnostics(&unusable) }));
        return Ok(ExitCode::FAILURE);
    }
    let named: Vec<_> = all.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let options = Options { expand: expand.into_iter().collect() };
    let (value, text, valid) = match language::parse_with(&named, &options) {
        Ok(set) => {
            let folders = || paths.iter().filter(|p| p.is_dir());
            let notes: Vec<String> = folders().flat_map(|p| language::unread(p)).chain(set.notes()).collect();
            let mut text = summary(&set, all.len());
            for note in folders().flat_map(|p| unread(p)).chain(set.notes_in_short()) {
                text.push_str("\nnote: ");
                text.push_str(&note);
            }
            (
                json!({ "valid": true, "files": all.len(), "policies": set.policies.len(), "notes": notes, "errors": [] }),
                text,
                true,
            )
        }
        Err(errors) => {
            let list = print::diagnostics(&errors);
            let value = json!({ "valid": false, "files": all.len(), "errors": list });
            (value, Unusable(errors).to_string(), false)
        }
    };
    global.print(&value, |_| text);
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

fn summary(set: &PolicySet, files: usize) -> String {
    let mut parts = vec![format!("{} policies", set.policies.len())];
    for (count, what) in [
        (set.host_policies.len(), "host policies"),
        (set.profiles.len(), "profiles"),
        (set.named_ports.len(), "named ports"),
        (set.policies.iter().filter(|p| p.staged).count(), "of the policies staged"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    let files = if files == 1 { "1 file is valid".to_owned() } else { format!("{files} files are valid") };
    format!("{files}: {}", parts.join(", "))
}
