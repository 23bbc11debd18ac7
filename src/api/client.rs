//! A blocking client of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
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

/// One connection to the agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    timeout: Duration,
}

impl Client {
    /// Connects; `timeout` bounds that and each later write and read.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: socket.to_owned(), source };
        let stream = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        stream.set_read_timeout(Some(timeout))?;
        // Also bounds connect: an agent that hangs accepts no more once its backlog is full (unix(7)).
        stream.set_write_timeout(Some(timeout))?;
        stream
            .connect(&socket2::SockAddr::unix(socket).map_err(unreachable)?)
            .map_err(|e| if is_timeout(&e) { ClientError::Timeout(timeout) } else { unreachable(e) })?;
        let stream = UnixStream::from(OwnedFd::from(stream));
        Ok(Self { stream: BufReader::new(stream), timeout })
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, request: &Request) -> Result<serde_json::Value, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|e| self.timed(e))?;
        match serde_json::from_str(&self.read_line()?)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(failure) => Err(failure.into()),
        }
    }

    /// As [`Client::call`], with the answer parsed.
    pub fn call_as<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        Ok(serde_json::from_value(self.call(request)?)?)
    }

    fn read_line(&mut self) -> Result<String, ClientError> {
        let mut line = String::new();
        let timeout = self.timeout;
        let read = (&mut self.stream)
            .take(MAX_ANSWER as u64)
            .read_line(&mut line)
            .map_err(|e| if is_timeout(&e) { ClientError::Timeout(timeout) } else { ClientError::Io(e) })?;
        if read == 0 || !line.ends_with('\n') {
            return Err(
                io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the whole answer came").into()
            );
        }
        Ok(line)
    }

    fn timed(&self, error: io::Error) -> ClientError {
        if is_timeout(&error) { ClientError::Timeout(self.timeout) } else { ClientError::Io(error) }
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
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
        });
        (dir, path)
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

    #[test]
    fn nobody_there() {
        let error =
            Client::connect(Path::new("/nonexistent/agent.sock"), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/agent.sock"), "{error}");
    }
}
