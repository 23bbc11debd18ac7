//! Running another IPAM plugin (`host-local`, `static`, `dhcp`) by the CNI protocol.

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::turn;
use crate::{
    api::CniRequest,
    cni::{
        install::same_file,
        types::{CniError, SpecVersion, answer_version, code},
    },
};

/// The most that is read of a plugin's output, in bytes.
const MAX_OUTPUT: u64 = 4 << 20;

/// How long the output may go on after the plugin's end.
const AFTER_EXIT: Duration = Duration::from_secs(1);

/// Set in the environment of other IPAM plugins: one that calls us again would go round in a circle.
pub(super) const INSIDE: &str = "SLASH32_IPAM_OF";

/// An IPAM plugin to run for this call.
#[derive(Clone, Debug)]
pub(super) struct Delegate {
    name: String,
    path: PathBuf,
    environment: Vec<(&'static str, String)>,
    config: String,
    /// The same with the version before the last.
    older: Option<String>,
    wait: Duration,
    /// The turn of this container, which a child keeps as long as it lives.
    turn: Option<Arc<File>>,
}

impl Delegate {
    /// The plugin that `ipam.type` names, found in `CNI_PATH`; none when addresses are ours.
    pub(super) fn of(request: &CniRequest, wait: Duration) -> Result<Option<Self>, CniError> {
        let kind = request.stdin.get("ipam").and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
        let Some(name) = kind.filter(|kind| !kind.is_empty() && *kind != "slash32") else { return Ok(None) };
        if name.contains('/') || name == "." || name == ".." {
            return Err(CniError::new(code::INVALID_CONFIG, format!("ipam.type: {name:?} is not a plugin")));
        }
        let path = env::split_paths(&request.path)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                CniError::new(
                    code::INVALID_CONFIG,
                    format!("ipam.type: there is no plugin {name:?} in CNI_PATH ({})", request.path),
                )
            })?;
        if same_file(&path, Path::new("/proc/self/exe")) {
            // What it cannot have given it need not get back.
            if matches!(request.command.as_str(), "DEL" | "GC") {
                return Ok(None);
            }
            return Err(circle(name).details(format!("{} is slash32", path.display())));
        }
        let environment = vec![
            ("CNI_CONTAINERID", request.container_id.clone()),
            ("CNI_NETNS", request.netns.clone()),
            ("CNI_IFNAME", request.ifname.clone()),
            ("CNI_ARGS", request.args.clone()),
            ("CNI_PATH", request.path.clone()),
            (INSIDE, name.to_owned()),
        ];
        let older = (answer_version(&request.stdin) > SpecVersion::V1_0_0).then(|| {
            let mut older = request.stdin.clone();
            older["cniVersion"] = SpecVersion::V1_0_0.as_str().into();
            older.to_string()
        });
        let config = request.stdin.to_string();
        Ok(Some(Self { name: name.to_owned(), path, environment, config, older, wait, turn: None }))
    }

    /// The same in the container's turn, which lasts until the last child of it ends.
    pub(super) fn in_turn(mut self, turn: Option<&Arc<File>>) -> Self {
        self.turn = turn.cloned();
        self
    }

    /// Runs it. The answer is what it printed, or its error with its own number. An older plugin gets the configuration
    /// as that of a version it knows; what it says not to know at all, GC and STATUS, counts as done.
    pub(super) fn run(&self, command: &str) -> Result<Value, CniError> {
        // Plugins of the time before cannot be trusted with verbs that they do not know: Debian 12's demand a container.
        if matches!(command, "GC" | "STATUS") && !self.knows(SpecVersion::V1_1_0)? {
            return Ok(Value::Null);
        }
        let error = match self.run_with(command, &self.config) {
            Err(error) if error.code == code::INCOMPATIBLE_VERSION => error,
            other => return other,
        };
        self.older.as_ref().map_or(Err(error), |older| self.run_with(command, older))
    }

    /// Whether the plugin says that it speaks a version.
    fn knows(&self, version: SpecVersion) -> Result<bool, CniError> {
        let answer = self.run_with("VERSION", &self.config)?;
        let versions = answer.get("supportedVersions").and_then(Value::as_array);
        Ok(versions.is_some_and(|list| list.iter().any(|v| v.as_str() == Some(version.as_str()))))
    }

    /// The same plugin for another attachment of the network, whose namespace nobody knows any more.
    pub(super) fn for_attachment(mut self, container_id: &str, ifname: &str) -> Self {
        for (name, value) in &mut self.environment {
            match *name {
                "CNI_CONTAINERID" => container_id.clone_into(value),
                "CNI_IFNAME" => ifname.clone_into(value),
                "CNI_NETNS" | "CNI_ARGS" => value.clear(),
                _ => {}
            }
        }
        self
    }

    /// Undoes an ADD; what could not be undone.
    pub(super) fn roll_back(&self) -> Vec<String> {
        self.run("DEL").err().map(|failure| format!("{}: {failure}", self.name)).into_iter().collect()
    }

    fn run_with(&self, command: &str, config: &str) -> Result<Value, CniError> {
        let failed =
            |why: String| CniError::new(code::DELEGATE_FAILED, format!("{} {command}: {why}", self.name));
        let input = match &self.turn {
            Some(file) => Stdio::from(turn::fill(file, config).map_err(|e| failed(e.to_string()))?),
            None => Stdio::piped(),
        };
        let mut child = Command::new(&self.path)
            .env("CNI_COMMAND", command)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let config = config.to_owned();
        let (done, output) = mpsc::sync_channel(1);
        // On threads, because pipes fill up in both directions; and threads that nobody has to wait for, because a
        // child of the plugin's may keep them open for ever.
        let threads = [
            thread::Builder::new().spawn(move || {
                // A plugin that fails early does not read its configuration.
                let _ = stdin.as_mut().map(|pipe| pipe.write_all(config.as_bytes()));
            }),
            thread::Builder::new().spawn(move || {
                let mut text = String::new();
                let read = stdout.map(|pipe| pipe.take(MAX_OUTPUT).read_to_string(&mut text)).transpose();
                // The receiver may have stopped waiting.
                let _ = done.send(read.map(|_| text));
            }),
        ];
        if let Some(error) = threads.into_iter().find_map(Result::err) {
            let _ = child.kill().and_then(|()| child.wait());
            return Err(failed(error.to_string()));
        }
        let status = wait(&mut child, self.wait).map_err(|e| failed(e.to_string()))?;
        let Some(status) = status else {
            return Err(failed(format!("no answer within {} s", self.wait.as_secs())));
        };
        let text = match output.recv_timeout(AFTER_EXIT) {
            Ok(text) => text.map_err(|e| failed(e.to_string()))?,
            Err(_) => return Err(failed("its output has no end".to_owned())),
        };
        let value = serde_json::from_str::<Value>(&text);
        if !status.success() {
            let own = value.ok().as_ref().and_then(CniError::from_json);
            let said: String = text.trim().chars().take(500).collect();
            let said = if said.is_empty() { "no error on standard output".to_owned() } else { said };
            return Err(own.unwrap_or_else(|| failed(format!("{status}: {said}"))));
        }
        match value {
            Ok(value) => Ok(value),
            Err(_) if text.trim().is_empty() => Ok(Value::Null),
            Err(error) => Err(failed(format!("its answer is not JSON: {error}"))),
        }
    }
}

/// What is said of an IPAM plugin that would call us again.
pub(super) fn circle(name: &str) -> CniError {
    CniError::new(
        code::INVALID_CONFIG,
        format!("ipam.type: {name:?} calls slash32 again, which would go on without end"),
    )
    .details("leave `ipam.type` out to have addresses from slash32's own pools")
}

/// Waits for the child's end, and ends it itself when that takes too long. None in that case, otherwise how it ended.
fn wait(child: &mut Child, wait: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + wait;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
