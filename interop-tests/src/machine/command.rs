//! A program about to run in a machine, in the manner of [`std::process::Command`].

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::{Exit, Machine, Process, Signal};

/// How long a command may take unless [`Cmd::limit`] says otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// A command line to run in a machine.
#[must_use = "nothing runs until run, output or spawn"]
pub struct Cmd {
    machine: Machine,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    cwd: Option<String>,
    stdin: Vec<u8>,
    limit: Duration,
}

/// How a command ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its end.
    pub exit: Exit,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Cmd {
    pub(super) fn new(machine: Machine, program: &str) -> Self {
        Self {
            machine,
            argv: vec![program.to_owned()],
            env: Vec::new(),
            cwd: None,
            stdin: Vec::new(),
            limit: LIMIT,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl ToString) -> Self {
        self.argv.push(arg.to_string());
        self
    }

    /// Adds arguments.
    pub fn args<T: ToString>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.to_string()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl ToString) -> Self {
        self.env.push((key.to_owned(), value.to_string()));
        self
    }

    /// Runs it in this directory instead of `/`.
    pub fn cwd(mut self, dir: &str) -> Self {
        self.cwd = Some(dir.to_owned());
        self
    }

    /// Gives it this on stdin.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take before it is killed and reported; 60 s by default.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it in a named network namespace of the machine (`/run/netns/NAME`).
    pub fn netns(mut self, name: &str) -> Self {
        self.argv.splice(0..0, ["nsenter".to_owned(), format!("--net=/run/netns/{name}"), "--".to_owned()]);
        self
    }

    /// The command line, for people.
    pub fn line(&self) -> String {
        self.argv.join(" ")
    }

    /// Runs it to its end, whatever that is.
    pub fn output(self) -> Result<Output> {
        let (stdin, mut feed) = std::io::pipe().context("pipe")?;
        let (mut out, stdout) = std::io::pipe().context("pipe")?;
        let (mut err, stderr) = std::io::pipe().context("pipe")?;
        let line = self.line();
        let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let pid = self.machine.spawn(self.argv, self.env, self.cwd, stdio)?;
        drop((stdin, stdout, stderr));

        std::thread::scope(|scope| {
            // A program may end without reading what it was given.
            scope.spawn(move || drop(feed.write_all(&self.stdin)));
            let stdout = scope.spawn(move || read_all(&mut out));
            let stderr = scope.spawn(move || read_all(&mut err));
            let exit = self.machine.exit(pid, Some(self.limit));
            if exit.is_none() {
                drop(self.machine.signal(pid, Signal::KILL, true));
            }
            let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
            let Some(exit) = exit else {
                let limit = self.limit;
                let name = self.machine.name();
                bail!("{name}: `{line}` took more than {limit:?}: {}{}", stdout.trim(), stderr.trim());
            };
            Ok(Output { exit, stdout, stderr })
        })
    }

    /// Runs it; its stdout, or an error with what it said when it fails.
    pub fn run(self) -> Result<String> {
        let line = self.line();
        let name = self.machine.name().to_owned();
        let output = self.output()?;
        if !output.exit.success() {
            let said = [output.stderr.trim(), output.stdout.trim()].join("\n");
            bail!("{name}: `{line}`: {}: {}", output.exit, said.trim());
        }
        Ok(output.stdout)
    }

    /// Runs it and parses its stdout as JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let line = self.line();
        let text = self.run()?;
        serde_json::from_str(&text).with_context(|| format!("`{line}` printed no such JSON: {text}"))
    }

    /// Starts it in the background, both its outputs appended to `LOG.log` in the machine's
    /// log directory.
    pub fn spawn(self, log: &str) -> Result<Process> {
        let path = self.machine.log_dir().join(format!("{log}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&path);
        let output = output.with_context(|| format!("open {}", path.display()))?;
        let input = File::open("/dev/null").context("open /dev/null")?;
        let line = self.line();
        let stdio = [input.as_fd(), output.as_fd(), output.as_fd()];
        let pid = self.machine.spawn(self.argv, self.env, self.cwd, stdio)?;
        Ok(Process::new(self.machine, pid, line, Some(path)))
    }

    /// Starts it in the background with pipes to its stdin and from its stdout; stderr goes to
    /// `LOG.log`.
    pub fn spawn_piped(self, log: &str) -> Result<(Process, std::io::PipeWriter, std::io::PipeReader)> {
        let path = self.machine.log_dir().join(format!("{log}.log"));
        let errors = OpenOptions::new().create(true).append(true).open(&path);
        let errors = errors.with_context(|| format!("open {}", path.display()))?;
        let (stdin, feed) = std::io::pipe().context("pipe")?;
        let (out, stdout) = std::io::pipe().context("pipe")?;
        let line = self.line();
        let stdio = [stdin.as_fd(), stdout.as_fd(), errors.as_fd()];
        let pid = self.machine.spawn(self.argv, self.env, self.cwd, stdio)?;
        Ok((Process::new(self.machine, pid, line, Some(path)), feed, out))
    }
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    drop(from.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
