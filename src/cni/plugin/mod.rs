//! The plugin: a thin client. Environment and standard input go to the agent as one request, the answer goes to
//! standard output. Every wait has an end, and being killed at any moment leaves nothing that the agent does not know.
//!
//! What the plugin does itself: VERSION; running a delegated IPAM plugin (so that the agent never waits for one); and
//! DEL while the agent does not answer, which must not fail: it takes the interface down and leaves a tombstone that
//! the agent honours later.
//!
//! Most calls never come here: [`entry`](crate::netlink::entry) carries them to the agent before the C library has
//! started, and [`short`] is the agent's side of that.

mod delegate;
mod offline;
pub mod short;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    fault,
    types::{
        CniError, DONE_KEY, IPAM_RESULT_KEY, NetConf, REMOVED_KEY, SpecVersion, answer_version, code, names,
    },
};
use crate::{
    api::{
        CniAnswer, CniFailure, CniRequest, DEFAULT_RUN_DIR, Request, SHUTTING_DOWN, SOCKET_NAME,
        client::{Client, ClientError},
    },
    model::EndpointKey,
    netlink::{
        entry::{self, AGENT_WAIT, Outcome, STDIN_WAIT},
        poll,
    },
};
use delegate::Delegate;

/// The most that is read from standard input, in bytes; a GC request lists every attachment of a host.
const MAX_STDIN: usize = 16 << 20;
/// How much is read at a time, in bytes.
const CHUNK: usize = 8 << 10;

/// How long the plugin waits for others.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// For the runtime to send the configuration.
    stdin: Duration,
    /// For the agent's answer; DEL waits half as long, as it can do without.
    agent: Duration,
    /// For a delegated IPAM plugin (DHCP takes seconds).
    delegate: Duration,
}

/// Shorter than what runtimes allow a plugin (30 s and more), so that they get an answer and not a timeout.
const WAITS: Waits = Waits { stdin: STDIN_WAIT, agent: AGENT_WAIT, delegate: Duration::from_secs(25) };

/// Whether a runtime calls us as a plugin.
pub fn is_plugin_call() -> bool {
    env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty())
}

/// What the binary says when it is started as a plugin would be, but without `CNI_COMMAND`. Nomad reads the version
/// out of the first line.
pub fn about() -> String {
    format!(
        "CNI slash32 plugin v{}\nCNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        SpecVersion::ALL.map(SpecVersion::as_str).join(", ")
    )
}

/// The plugin's `main`.
pub fn plugin_main() -> ExitCode {
    let output = match Call::from_environment() {
        Ok(call) => call.answer(WAITS),
        Err(error) => Output::error(&error, SpecVersion::LATEST),
    };
    fault::point("plugin:answered");
    if let Err(error) = print(&output.text) {
        // A runtime that misses an ADD's answer will call DEL.
        eprintln!("slash32: cannot write the answer to standard output: {error}");
        return ExitCode::FAILURE;
    }
    if output.success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(text: &str) -> io::Result<()> {
    // The standard library has put /dev/null in the place of what was closed.
    if entry::output_closed() && !text.is_empty() {
        return Err(io::Error::other("it is closed"));
    }
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// What goes to standard output, errors too; standard error is for people.
#[derive(Debug)]
struct Output {
    text: String,
    success: bool,
}

impl Output {
    fn of(result: Result<Value, CniError>, version: SpecVersion) -> Self {
        match result {
            Ok(Value::Null) => Self { text: String::new(), success: true },
            Ok(result) => Self { text: format!("{result}\n"), success: true },
            Err(error) => Self::error(&error, version),
        }
    }

    fn error(error: &CniError, version: SpecVersion) -> Self {
        Self { text: format!("{}\n", error.to_json(version)), success: false }
    }
}

/// One call by a runtime.
#[derive(Debug)]
struct Call {
    request: CniRequest,
    run_dir: Option<PathBuf>,
    stdin: Stdin,
    /// The IPAM plugin that calls us, if one does.
    inside: Option<String>,
}

/// Where the configuration comes from.
#[derive(Debug)]
enum Stdin {
    Process,
    #[cfg(test)]
    Text(String),
}

impl Call {
    fn from_environment() -> Result<Self, CniError> {
        let var = |name: &str| match env::var(name) {
            Ok(value) => Ok(value),
            Err(env::VarError::NotPresent) => Ok(String::new()),
            Err(env::VarError::NotUnicode(_)) => {
                Err(CniError::new(code::INVALID_ENVIRONMENT, format!("{name} is not UTF-8")))
            }
        };
        Ok(Self {
            request: CniRequest {
                command: var("CNI_COMMAND")?,
                container_id: var("CNI_CONTAINERID")?,
                netns: var("CNI_NETNS")?,
                ifname: var("CNI_IFNAME")?,
                args: var("CNI_ARGS")?,
                path: var("CNI_PATH")?,
                stdin: Value::Null,
            },
            run_dir: Some(var("SLASH32_RUN_DIR")?).filter(|d| !d.is_empty()).map(PathBuf::from),
            stdin: Stdin::Process,
            inside: Some(var(delegate::INSIDE)?).filter(|name| !name.is_empty()),
        })
    }

    fn answer(mut self, waits: Waits) -> Output {
        let text = match std::mem::replace(&mut self.stdin, Stdin::Process) {
            Stdin::Process if entry::outcome() == Outcome::InputStalled => {
                Err(unreadable(&"no end of file in time"))
            }
            Stdin::Process => read_stdin(waits.stdin),
            #[cfg(test)]
            Stdin::Text(text) => Ok(text),
        };
        if self.request.command == "VERSION" {
            return version(&text.unwrap_or_default());
        }
        if let Some(name) = &self.inside {
            // What it cannot have given it need not get back.
            let gives_back = matches!(self.request.command.as_str(), "DEL" | "GC");
            let result = if gives_back { Ok(Value::Null) } else { Err(delegate::circle(name)) };
            let version = text.ok().and_then(|text| serde_json::from_str(&text).ok());
            return Output::of(result, version.as_ref().map_or(SpecVersion::LATEST, answer_version));
        }
        // Before the configuration, as other plugins do it.
        if let Err(error) = check_environment(&self.request) {
            let version = text.ok().and_then(|text| serde_json::from_str(&text).ok());
            return Output::error(&error, version.as_ref().map_or(SpecVersion::LATEST, answer_version));
        }
        let config = text.and_then(|text| {
            serde_json::from_str(&text).map_err(|error| {
                CniError::new(code::DECODING_FAILURE, "the network configuration is not JSON")
                    .details(error.to_string())
            })
        });
        let config: Value = match config {
            Ok(config) => config,
            Err(error) => return Output::error(&error, SpecVersion::LATEST),
        };
        let version = answer_version(&config);
        self.request.stdin = config;
        if let Err(error) = NetConf::essentials(&self.request.stdin) {
            return Output::error(&error, version);
        }
        Output::of(self.serve(waits), version)
    }

    fn serve(mut self, waits: Waits) -> Result<Value, CniError> {
        fault::point("plugin:called");
        let delegate = Delegate::of(&self.request, waits.delegate);
        match self.request.command.as_str() {
            "ADD" => {
                let Some(delegate) = delegate? else { return self.ask_agent(waits.agent) };
                let turn = self.turn(waits.agent)?;
                let delegate = delegate.in_turn(turn.as_ref());
                let given = match delegate.run("ADD") {
                    Ok(given) => given,
                    Err(error) => match self.without_addresses(&delegate, error, waits)? {
                        Left::Result(result) => return Ok(result),
                        Left::Addresses(given) => given,
                    },
                };
                fault::point("plugin:addresses");
                if let Value::Object(config) = &mut self.request.stdin {
                    config.insert(IPAM_RESULT_KEY.to_owned(), given);
                }
                self.ask_agent(waits.agent).map_err(|error| error.and_rollback(&delegate.roll_back()))
            }
            "DEL" => {
                // It must not fail for somebody who hangs.
                let turn = match &delegate {
                    Ok(Some(_)) => self.turn(waits.agent / 2).unwrap_or_else(|error| {
                        eprintln!("slash32: {error}; deleting all the same");
                        None
                    }),
                    _ => None,
                };
                let (removed, by_agent) = self.del(waits)?;
                fault::point("plugin:deleted");
                // After the link is down, so that nobody else gets an address that is still in use. When the plugin
                // cannot be found its reservation stays, so the DEL has failed and must come again.
                if attachments(&removed).next().is_none() {
                    let delegate = delegate?.map(|d| d.in_turn(turn.as_ref()));
                    return delegate.map_or(Ok(Value::Null), |d| d.run("DEL").map(|_| Value::Null));
                }
                // By whoever gave them, which need not be whom the configuration names now.
                for attachment in attachments(&removed) {
                    if let Some(giver) = self.giver(attachment, waits)? {
                        giver.in_turn(turn.as_ref()).run("DEL")?;
                    }
                }
                if by_agent {
                    self.request.stdin[DONE_KEY] = true.into();
                    self.del(waits)?;
                }
                Ok(Value::Null)
            }
            "GC" => {
                let removed = self.ask_agent(waits.agent)?;
                // What is gone without a DEL of the runtime's, the other plugin has not heard of either.
                let mut outcome = Ok(Value::Null);
                for attachment in attachments(&removed) {
                    let text = |key: &str| attachment[key].as_str().unwrap_or_default();
                    let done = self.giver(attachment, waits).and_then(|giver| match giver {
                        Some(giver) => giver.for_attachment(text("containerID"), text("ifname")).run("DEL"),
                        None => Ok(Value::Null),
                    });
                    outcome = outcome.and(done);
                }
                outcome.and(delegate?.map_or(Ok(Value::Null), |d| d.run("GC"))).map(|_| Value::Null)
            }
            "CHECK" | "STATUS" => {
                if let Some(delegate) = delegate? {
                    delegate.run(&self.request.command)?;
                }
                self.ask_agent(waits.agent)
            }
            other => Err(CniError::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND {other:?}"))),
        }
    }

    /// What becomes of an ADD whose delegated plugin gave nothing. If the runtime repeats an ADD, the plugin may refuse
    /// a second address although all is well. If it is not, because the endpoint went without a DEL, what the plugin has
    /// reserved for this very attachment goes back, and it is asked once more. One that was ended may have reserved
    /// something.
    fn without_addresses(
        &self,
        delegate: &Delegate,
        error: CniError,
        waits: Waits,
    ) -> Result<Left, CniError> {
        if error.code == code::DELEGATE_FAILED {
            let failures = delegate.roll_back();
            return Err(error.and_rollback(&failures));
        }
        match self.ask_agent(waits.agent) {
            Ok(result) => Ok(Left::Result(result)),
            // It has none that is whole, and cannot make one without addresses.
            Err(answer) if answer.code == code::DELEGATE_FAILED => {
                let failures = delegate.roll_back();
                if !failures.is_empty() {
                    return Err(error.and_rollback(&failures));
                }
                delegate.run("ADD").map(Left::Addresses)
            }
            Err(_) => Err(error),
        }
    }

    /// Waits for the turn of this container's interface. Without a run directory there is nobody to come to blows with.
    fn turn(&self, wait: Duration) -> Result<Option<Arc<File>>, CniError> {
        let (_, network) = NetConf::essentials(&self.request.stdin)?;
        let (container_id, ifname) = (self.request.container_id.clone(), self.request.ifname.clone());
        let key = EndpointKey { network, container_id, ifname };
        if !self.run_dir().is_dir() {
            return Ok(None);
        }
        let turn = turn::wait(&self.run_dir(), &key, wait).map_err(|error| {
            CniError::new(code::IO_FAILURE, format!("cannot lock a file in {}", self.run_dir().display()))
                .details(error.to_string())
        })?;
        let busy = || {
            CniError::new(code::TRY_AGAIN_LATER, format!("another call for {key} is at work"))
                .details("the other IPAM plugin, or the agent, does not come to an end with it")
        };
        turn.map(Arc::new).ok_or_else(busy).map(Some)
    }

    /// The plugin that gave an attachment its addresses; the configuration's where nobody has noted which.
    fn giver(&self, attachment: &Value, waits: Waits) -> Result<Option<Delegate>, CniError> {
        let mut request = self.request.clone();
        if let Some(config) = attachment.get("config").filter(|config| config.is_object()) {
            request.stdin = config.clone();
        }
        Delegate::of(&request, waits.delegate)
    }

    /// Answers what another IPAM plugin is to be told of, and whether the agent has said so.
    fn del(&self, waits: Waits) -> Result<(Value, bool), CniError> {
        let socket = self.run_dir().join(SOCKET_NAME);
        match call(&socket, &self.request, waits.agent / 2) {
            Ok(answer) => answer.map(|removed| (removed, true)),
            Err(Trouble::Absent(why)) => {
                eprintln!("slash32: {why}; deleting without the agent");
                offline::del(&self.run_dir(), &self.request).map(|removed| (removed, false))
            }
            Err(Trouble::Refused(error)) => Err(error),
        }
    }

    fn ask_agent(&self, wait: Duration) -> Result<Value, CniError> {
        let socket = self.run_dir().join(SOCKET_NAME);
        match call(&socket, &self.request, wait) {
            Ok(answer) => answer,
            Err(Trouble::Absent(why)) => {
                let number = if self.request.command == "STATUS" {
                    code::NOT_AVAILABLE
                } else {
                    code::TRY_AGAIN_LATER
                };
                Err(CniError::new(number, "the slash32 agent does not answer").details(why))
            }
            Err(Trouble::Refused(error)) => Err(error),
        }
    }

    /// The configuration's directory, the environment's, or the usual one.
    fn run_dir(&self) -> PathBuf {
        let configured = self.request.stdin.get("run_dir").and_then(Value::as_str).filter(|d| !d.is_empty());
        configured
            .map(PathBuf::from)
            .or_else(|| self.run_dir.clone())
            .unwrap_or_else(|| PathBuf::from(DEFAULT_RUN_DIR))
    }
}

/// What the agent says that another IPAM plugin is to be told of.
fn attachments(removed: &Value) -> impl Iterator<Item = &Value> {
    removed.get(REMOVED_KEY).and_then(Value::as_array).into_iter().flatten()
}

/// What an ADD can go on with whose delegated plugin gave nothing at first.
enum Left {
    /// The result of the ADD before.
    Result(Value),
    /// What the plugin gave then.
    Addresses(Value),
}

/// Whether the variables are there that the specification demands for the verb. The agent checks again.
fn check_environment(request: &CniRequest) -> Result<(), CniError> {
    match request.command.as_str() {
        "ADD" | "CHECK" | "DEL" => {
            names::container_id(&request.container_id)?;
            names::ifname(&request.ifname)?;
            // DEL must work when the namespace is gone.
            if request.command != "DEL" && request.netns.is_empty() {
                return Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is not set"));
            }
            Ok(())
        }
        "GC" | "STATUS" => Ok(()),
        other => Err(CniError::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND {other:?}"))
            .details("known: ADD, DEL, CHECK, GC, STATUS, VERSION")),
    }
}

/// Why there is no CNI answer from the agent.
enum Trouble {
    /// It is not there, hangs, or died over it.
    Absent(String),
    /// It answered something else.
    Refused(CniError),
}

fn call(socket: &Path, request: &CniRequest, wait: Duration) -> Result<Result<Value, CniError>, Trouble> {
    // Asked once already, and waited for.
    if entry::outcome() == Outcome::AgentSilent {
        return Err(Trouble::Absent(format!("no answer at {} in time", socket.display())));
    }
    let answer = Client::connect(socket, wait)
        .and_then(|mut client| client.call_as::<CniAnswer>(&Request::Cni(request.clone())));
    match answer {
        Ok(answer) => Ok(outcome(answer)),
        Err(
            error @ (ClientError::Unreachable { .. }
            | ClientError::Timeout(_)
            | ClientError::Hung { .. }
            | ClientError::Stuck(_)
            | ClientError::Io(_)),
        ) => Err(Trouble::Absent(error.to_string())),
        Err(ClientError::Failure(failure)) if failure.message == SHUTTING_DOWN => {
            Err(Trouble::Absent(failure.message))
        }
        Err(ClientError::Failure(failure)) => {
            Err(Trouble::Refused(CniError::new(code::TRY_AGAIN_LATER, failure.message).details(failure.hint)))
        }
        Err(error @ ClientError::Answer(_)) => {
            Err(Trouble::Refused(CniError::new(code::INTERNAL, error.to_string())))
        }
    }
}

fn outcome(answer: CniAnswer) -> Result<Value, CniError> {
    match answer {
        CniAnswer::Success(value) => Ok(value),
        CniAnswer::Failure(CniFailure { code, msg, details }) => Err(CniError { code, msg, details }),
    }
}

/// VERSION answers in the caller's version, whatever else standard input holds; some callers send nothing.
fn version(stdin: &str) -> Output {
    let version = serde_json::from_str(stdin).map_or(SpecVersion::LATEST, |v| answer_version(&v));
    let answer = json!({
        "cniVersion": version.as_str(),
        "supportedVersions": SpecVersion::ALL.map(SpecVersion::as_str),
    });
    Output { text: format!("{answer}\n"), success: true }
}

/// Reads standard input to its end, but not for ever: a caller may have left a terminal or an open pipe there. On this
/// thread: starting another costs more than everything else that the plugin does.
fn read_stdin(wait: Duration) -> Result<String, CniError> {
    let stdin = io::stdin();
    let file = stdin.as_fd().try_clone_to_owned().map(File::from);
    file.map_err(|error| unreadable(&error)).and_then(|file| read_text(file, Instant::now() + wait))
}

fn read_text(mut from: impl Read + AsFd, until: Instant) -> Result<String, CniError> {
    let mut bytes = Vec::with_capacity(16 << 10);
    loop {
        if !poll::readable(&from, until).map_err(|error| unreadable(&error))? {
            return Err(unreadable(&"no end of file in time"));
        }
        let had = bytes.len();
        bytes.resize(had + CHUNK, 0);
        let got = match from.read(&mut bytes[had..]) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                bytes.truncate(had);
                continue;
            }
            Err(error) => return Err(unreadable(&error)),
        };
        bytes.truncate(had + got);
        if got == 0 {
            break;
        }
        if bytes.len() > MAX_STDIN {
            return Err(unreadable(&format!("it is longer than {} MiB", MAX_STDIN >> 20)));
        }
    }
    String::from_utf8(bytes).map_err(|error| {
        CniError::new(code::DECODING_FAILURE, "the network configuration is not UTF-8")
            .details(error.to_string())
    })
}

fn unreadable(why: &dyn std::fmt::Display) -> CniError {
    CniError::new(code::IO_FAILURE, "cannot read standard input").details(why.to_string())
}
