//! The control socket: accepts connections, reads request lines, writes answer lines.

use std::{
    io,
    os::unix::fs::PermissionsExt,
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
use crate::api::{Answer, Failure, MAX_LINE, Request};

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
        let answer = if line.len() > MAX_LINE {
            Answer::Error(Failure::new(format!("the request is longer than {MAX_LINE} bytes")))
        } else {
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => answer(&mut stream, &service, request).await,
                Err(error) => Answer::Error(Failure::new(format!("the request does not parse: {error}"))),
            }
        };
        let mut text = serde_json::to_vec(&answer).unwrap_or_else(|error| {
            format!("{{\"error\":{{\"message\":\"the answer does not serialize: {error}\"}}}}").into_bytes()
        });
        text.push(b'\n');
        if stream.get_mut().write_all(&text).await.is_err() || line.len() > MAX_LINE {
            return;
        }
    }
}

/// Answers a request and notes when the asker goes away meanwhile: an ADD whose plugin was killed must not begin.
async fn answer(stream: &mut BufReader<UnixStream>, service: &Service, request: Request) -> Answer {
    let alive = Arc::new(AtomicBool::new(true));
    let work = service.handle(request, alive.clone());
    tokio::pin!(work);
    tokio::select! {
        answer = &mut work => return answer,
        next = stream.fill_buf() => {
            // More bytes are the next request; none are the end.
            if next.is_ok_and(<[u8]>::is_empty) {
                alive.store(false, Ordering::Relaxed);
            }
        }
    }
    work.await
}
