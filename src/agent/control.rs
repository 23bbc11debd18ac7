//! The control socket: accepts connections, reads request lines, writes answer lines.

use std::{
    io::{self, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::service::Service;
use crate::{
    api::{Answer, Failure, MAX_LINE, Request},
    netlink::poll,
};

/// The bound socket; removes its file when dropped.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Binds. The caller holds the run directory's lock, so that a socket that is there belongs to nobody.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until dropped.
    pub(super) async fn serve(&self, service: Service) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, service.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: do not spin.
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A leftover file does no harm: the next start removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn connection(stream: UnixStream, service: Service) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stream).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = if line.len() > MAX_LINE {
            encode(&Answer::Error(Failure::new(format!("the request is longer than {MAX_LINE} bytes"))))
        } else {
            match serde_json::from_slice::<Request>(&line) {
                // Whoever asked was told long ago that it failed: an agent that was stopped must not end for a `stop` of
                // yesterday. A DEL is done all the same.
                Ok(request)
                    if !matches!(request, Request::Cni(_))
                        && poll::hung_up(stream.get_ref()).unwrap_or(false) =>
                {
                    return;
                }
                Ok(request) => answer(&mut stream, &service, request).await,
                Err(error) => {
                    encode(&Answer::Error(Failure::new(format!("the request does not parse: {error}"))))
                }
            }
        };
        if stream.get_mut().write_all(&text).await.is_err() || line.len() > MAX_LINE {
            return;
        }
    }
}

/// An answer as it travels: one line.
fn encode(answer: &Answer) -> Vec<u8> {
    let mut text = serde_json::to_vec(answer).unwrap_or_else(|error| {
        format!("{{\"error\":{{\"message\":\"the answer does not serialize: {error}\"}}}}").into_bytes()
    });
    text.push(b'\n');
    text
}

/// Answers a request and notes when the asker goes away meanwhile: an ADD whose plugin was killed must not begin.
/// What it returns has still to be written.
async fn answer(stream: &mut BufReader<UnixStream>, service: &Service, request: Request) -> Vec<u8> {
    // It may have waited for so long to be read that nobody is there any more.
    let gone = poll::hung_up(stream.get_ref()).unwrap_or(false);
    let alive = Arc::new(AtomicBool::new(!gone));
    let direct = stream.get_ref().as_fd().try_clone_to_owned().map(std::os::unix::net::UnixStream::from);
    let work = async {
        match request {
            Request::Cni(call) => {
                let send = move |answer: &Answer| send_now(direct.ok(), encode(answer));
                match service.cni(call, alive.clone(), send).await {
                    Ok(rest) => rest,
                    Err(failure) => encode(&Answer::Error(failure)),
                }
            }
            other => encode(&service.handle(other).await),
        }
    };
    tokio::pin!(work);
    tokio::select! {
        text = &mut work => return text,
        next = stream.fill_buf() => {
            // More bytes are the next request; none are the end.
            if next.is_ok_and(<[u8]>::is_empty) {
                alive.store(false, Ordering::Relaxed);
            }
        }
    }
    work.await
}

/// Writes an answer from the thread that made it, which spares a runtime that waits for it two changes of thread.
/// Returns what the socket did not take at once.
fn send_now(socket: Option<std::os::unix::net::UnixStream>, mut text: Vec<u8>) -> Vec<u8> {
    let sent = socket.map_or(0, |mut socket| socket.write(&text).unwrap_or(0));
    text.drain(..sent);
    text
}
