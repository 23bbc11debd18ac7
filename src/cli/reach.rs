//! Why the agent could not be asked, and what to do about it.

use std::fs;

use anyhow::anyhow;

use crate::api::{self, client::ClientError};

/// The failure with a hint. `pid` is the process that listens, if it is known.
pub(super) fn explain(error: ClientError, pid: Option<u32>) -> anyhow::Error {
    match error {
        ClientError::Unreachable { .. } => anyhow!(
            "{error}\nIs it running? Start it with `slash32 agent --config {}`, or name its run directory with --run-dir.",
            api::DEFAULT_CONFIG
        ),
        ClientError::Hung { .. } => match pid {
            Some(pid) => anyhow!("{error}\n{}", hung(pid, state(pid))),
            None => anyhow!("{error}\nIt is stopped or hangs. {STAYS}"),
        },
        ClientError::Stuck(_) => {
            let stack = pid.map(|pid| format!("/proc/{pid}/task/*/stack shows where. ")).unwrap_or_default();
            anyhow!("{error}\nIt waits for the kernel, for a plugin that it called, or hangs. {stack}{STAYS}")
        }
        ClientError::Timeout(_) => anyhow!(
            "{error}\nIt may still be at work on it: wait longer with --timeout, and look into the agent's log for what keeps it."
        ),
        other => other.into(),
    }
}

const STAYS: &str = "Restart it: containers, routes and policies in the kernel stay as they are meanwhile, but no \
                     container can be added and neighbours will miss it.";

/// What keeps the process, and what helps.
fn hung(pid: u32, state: Option<char>) -> String {
    let why = match state {
        Some('T') => format!("is stopped (by a signal such as SIGSTOP): `kill -CONT {pid}` lets it go on"),
        Some('t') => "is held by a debugger".to_owned(),
        Some('D') => "waits for a device or a file system (state D): see the kernel's log".to_owned(),
        Some('Z') => "has ended, but its parent has not noticed".to_owned(),
        _ => format!("hangs, or is frozen with its cgroup: /proc/{pid}/task/*/stack shows where"),
    };
    format!("Its process {pid} {why}.\nOr end it with `kill -9 {pid}`. {STAYS}")
}

/// The state's letter (proc_pid_stat(5)), behind the name in parentheses.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_process_and_what_helps() {
        assert!(state(std::process::id()).is_some_and(char::is_alphabetic));
        assert_eq!(state(u32::MAX), None);
        assert!(hung(7, Some('T')).contains("kill -CONT 7"));
        assert!(!hung(7, Some('S')).contains("CONT"));
        let error = explain(ClientError::Hung { path: "/run/a.sock".into() }, None).to_string();
        assert!(error.contains("/run/a.sock") && error.contains("Restart"), "{error}");
    }
}
