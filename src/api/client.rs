//! A blocking client of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use super::{Answer, Failure, MAX_LINE, Request};

/// Why a call did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the agent is not running, or uses another run directory.
    #[error("the agent does not answer on {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent took the request but the answer did not come in time.
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
    /// Not even whether it lives was answered: the agent is stopped or hangs.
    #[error("the agent does not answer on {}, not even whether it lives", path.display())]
    Hung {
        /// The socket.
        path: PathBuf,
    },
    /// It lives, but a part of it that has to answer waits for ever.
    #[error("the agent lives, but {0}")]
    Stuck(String),
    /// The connection broke.
    #[error("the connection to the agent broke: {0}")]
    Io(#[from] io::Error),
    /// The answer is not what this version expects.
    #[error("the agent's answer does not parse (different versions?): {0}")]
    Answer(#[from] serde_json::Error),
    /// The agent refused or failed.
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// So long a silence makes a client with [`Client::watch`] ask whether the agent lives.
const SILENCE: Duration = Duration::from_secs(2);
/// So long an agent that lives has to say so.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// One connection to the agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
    timeout: Duration,
    /// How long a silence may be before the agent must show that it lives, and how long it has for that.
    watch: Option<[Duration; 2]>,
}

impl Client {
    /// Connects; `timeout` bounds that, and each call.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: socket.to_owned(), source };
        let stream = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        // Also bounds connect: an agent that hangs accepts no more once its backlog is full (unix(7)).
        stream.set_write_timeout(Some(timeout))?;
        stream
            .connect(&socket2::SockAddr::unix(socket).map_err(unreachable)?)
            .map_err(|e| if is_timeout(&e) { ClientError::Timeout(timeout) } else { unreachable(e) })?;
        let stream = UnixStream::from(OwnedFd::from(stream));
        Ok(Self { stream: BufReader::new(stream), socket: socket.to_owned(), timeout, watch: None })
    }

    /// Connects to an agent that may take `timeout` for an answer, but not to show that it lives: when it is silent for
    /// two seconds, that is asked on a connection of its own, and asked again. One that is stopped or hangs is known as
    /// such after five seconds ([`ClientError::Hung`]), and so is one of which a part hangs ([`ClientError::Stuck`]).
    pub fn watch(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let connected = Self::connect(socket, timeout.min(SIGN_OF_LIFE)).map_err(|error| match error {
            ClientError::Timeout(_) if timeout > SIGN_OF_LIFE => {
                ClientError::Hung { path: socket.to_owned() }
            }
            other => other,
        });
        Ok(Self { timeout, watch: Some([SILENCE, SIGN_OF_LIFE]), ..connected? })
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, request: &Request) -> Result<serde_json::Value, ClientError> {
        let end = Instant::now() + self.timeout;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.write(&line, end)?;
        match serde_json::from_slice(&self.read_line(end)?)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(failure) => Err(failure.into()),
        }
    }

    /// As [`Client::call`], with the answer parsed.
    pub fn call_as<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        Ok(serde_json::from_value(self.call(request)?)?)
    }

    fn write(&mut self, mut line: &[u8], end: Instant) -> Result<(), ClientError> {
        while !line.is_empty() {
            self.stream.get_ref().set_write_timeout(Some(self.patience(end)?))?;
            match self.stream.get_mut().write(line) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => line = &line[written..],
                Err(error) if is_timeout(&error) => self.sign_of_life(end)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_line(&mut self, end: Instant) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        loop {
            self.stream.get_ref().set_read_timeout(Some(self.patience(end)?))?;
            let left = MAX_ANSWER.saturating_sub(line.len()) as u64;
            // What was read before a silence stays in `line`.
            match (&mut self.stream).take(left).read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => return Ok(line),
                Ok(_) => {
                    let why = "closed before the whole answer came";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why).into());
                }
                Err(error) if is_timeout(&error) => self.sign_of_life(end)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How long the next read or write may block.
    fn patience(&self, end: Instant) -> Result<Duration, ClientError> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Timeout(self.timeout));
        }
        Ok(self.watch.map_or(left, |[silence, _]| left.min(silence)))
    }

    /// After a silence: fails when time is up, or when an agent that is watched shows no sign of life.
    fn sign_of_life(&self, end: Instant) -> Result<(), ClientError> {
        if Instant::now() >= end {
            return Err(ClientError::Timeout(self.timeout));
        }
        let Some([_, limit]) = self.watch else { return Ok(()) };
        match Self::connect(&self.socket, limit).and_then(|mut other| other.call(&Request::Ping)) {
            Err(ClientError::Timeout(_)) => Err(ClientError::Hung { path: self.socket.clone() }),
            Ok(pulse) => match pulse["stuck"].as_array().and_then(|stuck| stuck.first()?.as_str()) {
                Some(stuck) => Err(ClientError::Stuck(stuck.to_owned())),
                None => Ok(()),
            },
            // Any other failure shows on the first connection too, or is an answer of an earlier version.
            _ => Ok(()),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// Answers may be much larger than requests: a RIB of a million routes.
const MAX_ANSWER: usize = MAX_LINE * 128;

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn serve(answer: &'static [u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            reply(&mut stream, answer);
        });
        (dir, path)
    }

    /// Answers as an agent does, once it has the request: who closes before that may make the client's write fail.
    fn reply(stream: &mut UnixStream, answer: &[u8]) {
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(answer).unwrap();
    }

    #[test]
    fn answers_failures_and_broken_lines() {
        let call = |answer| {
            let (_dir, path) = serve(answer);
            Client::connect(&path, Duration::from_secs(5)).unwrap().call(&Request::Status)
        };
        assert_eq!(call(b"{\"ok\":{\"ready\":true}}\n").unwrap()["ready"], true);
        assert!(matches!(call(b"{\"error\":{\"message\":\"no\"}}\n"), Err(ClientError::Failure(_))));
        assert!(matches!(call(b"{\"ok\":1}"), Err(ClientError::Io(_))));
        assert!(matches!(call(b"nonsense\n"), Err(ClientError::Answer(_))));
    }

    fn watching(path: &Path, timeout: Duration) -> Client {
        let mut client = Client::watch(path, timeout).unwrap();
        client.watch = Some([Duration::from_millis(20), Duration::from_millis(200)]);
        client
    }

    /// Waits an hour for one that answers pings, though perhaps late: on a busy machine its thread has to wait too.
    fn patient(path: &Path) -> Client {
        let hour = Duration::from_secs(3600);
        let mut client = watching(path, hour);
        client.watch = Some([Duration::from_millis(20), hour]);
        client
    }

    /// The kernel connects us to a process that is stopped, and takes what we send.
    #[test]
    fn who_hangs_is_told_from_who_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let hour = Duration::from_secs(3600);
        let error = watching(&path, hour).call(&Request::Status).unwrap_err();
        assert!(matches!(error, ClientError::Hung { .. }), "{error}");
        // Nor does a request larger than the socket's buffer wait for ever.
        let large = Request::PolicyDiff { old: None, new: vec![("a".into(), "x".repeat(4 << 20))] };
        let error = watching(&path, hour).call(&large).unwrap_err();
        assert!(matches!(error, ClientError::Hung { .. }), "{error}");
        // Time is up before anybody asks whether it lives.
        let error = watching(&path, Duration::from_millis(5)).call(&Request::Status).unwrap_err();
        assert!(matches!(error, ClientError::Timeout(_)), "{error}");
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        // One that works on it answers pings, or refuses them, and takes its time. Its answer comes in two parts.
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            for ping in 0..4 {
                let (mut other, _) = listener.accept().unwrap();
                if ping == 2 {
                    first.write_all("{\"ok\":\"gr\u{fc}".as_bytes().split_last().unwrap().1).unwrap();
                }
                reply(&mut other, b"{\"error\":{\"message\":\"the request does not parse\"}}\n");
            }
            first.write_all(&["\u{fc}".as_bytes()[1], b'"', b'}', b'\n']).unwrap();
        });
        assert_eq!(patient(&path).call(&Request::Status).unwrap(), "gr\u{fc}");
    }

    #[test]
    fn a_part_that_hangs_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (_first, _) = listener.accept().unwrap();
            for answer in ["[]", "[\"its thread `core` waits\"]"] {
                let (mut other, _) = listener.accept().unwrap();
                reply(&mut other, format!("{{\"ok\":{{\"alive\":true,\"stuck\":{answer}}}}}\n").as_bytes());
            }
        });
        let error = patient(&path).call(&Request::Status).unwrap_err();
        assert_eq!(error.to_string(), "the agent lives, but its thread `core` waits");
    }

    #[test]
    fn nobody_there() {
        let error =
            Client::connect(Path::new("/nonexistent/agent.sock"), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/agent.sock"), "{error}");
    }
}
