//! `slash32 doctor`.

use std::{fmt::Write, process::ExitCode};

use super::{Global, print};
use crate::api::Request;

/// Prints every check; exit code 3 when one failed.
pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let value = global.call(&Request::Doctor)?;
    global.print(&value, |checks| {
        let mut text = String::new();
        for check in checks.as_array().into_iter().flatten() {
            let mark = if check["ok"] == true { "ok  " } else { "FAIL" };
            let _ =
                writeln!(text, "{mark}  {}: {}", print::field(check, "name"), print::field(check, "message"));
            if let Some(hint) = check["hint"].as_str().filter(|h| !h.is_empty()) {
                let _ = writeln!(text, "      {hint}");
            }
        }
        text
    });
    let failed = value.as_array().is_some_and(|checks| checks.iter().any(|c| c["ok"] != true));
    Ok(ExitCode::from(if failed { 3 } else { 0 }))
}
