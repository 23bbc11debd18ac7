//! The plugin's own socket: one CNI call a connection, in the form of [`netlink::entry`](crate::netlink::entry).
//!
//! A thread of its own reads the calls and the core's thread writes the answers: nothing else of the agent is on a
//! container's way.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{actor::Actor, core::Core, gate::Gate};
use crate::{
    cni::plugin::short::{REFUSAL, ShortCall},
    netlink::{
        entry::{self, HEADER, MAX_INPUT, PARTS},
        poll,
    },
};

/// How long the next plugin waits for one whose request does not come; then that one gets a thread of its own.
const QUICK: Duration = Duration::from_millis(20);
/// How long a request may take in all. The plugin sends it at once.
const SLOW: Duration = Duration::from_secs(10);

/// Serves until the socket is shut down: that is what the answer is for. The caller holds the run directory's lock, so
/// that a socket that is there belongs to nobody.
pub(super) fn start(path: &Path, core: Actor<Core>, gate: Gate) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let handle = listener.try_clone()?;
    thread::Builder::new().name("plugins".into()).spawn(move || serve(&listener, &core, &gate))?;
    Ok(handle)
}

fn serve(listener: &UnixListener, core: &Actor<Core>, gate: &Gate) {
    let mut buffer = vec![0; HEADER + PARTS * MAX_INPUT];
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                if let Some(got) = read(&mut stream, &mut buffer, 0, QUICK) {
                    take(stream, &buffer[..got], core, gate);
                }
            }
            // Shut down.
            Err(error) if error.kind() == ErrorKind::InvalidInput => return,
            Err(error) => {
                // Out of descriptors, most likely: do not spin.
                tracing::warn!("plugin socket: {error}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Reads until there is a request, or nothing comes any more; the length of what has come, if anybody is there.
fn read(stream: &mut UnixStream, buffer: &mut [u8], mut got: usize, wait: Duration) -> Option<usize> {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !matches!(entry::parse(&buffer[..got]), Ok(None)) {
            return Some(got);
        }
        stream.set_read_timeout(Some(left)).ok()?;
        match stream.read(&mut buffer[got..]) {
            Ok(0) => return None,
            Ok(n) => got += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Some(got);
            }
            Err(_) => return None,
        }
    }
}

/// Does what a request says; an incomplete one is waited for aside.
fn take(mut stream: UnixStream, bytes: &[u8], core: &Actor<Core>, gate: &Gate) {
    match entry::parse(bytes) {
        Ok(Some(parts)) => answer(stream, parts, core, gate),
        Ok(None) => {
            let (begun, core, gate) = (bytes.to_vec(), core.clone(), gate.clone());
            let finish = move || {
                let mut buffer = vec![0; HEADER + PARTS * MAX_INPUT];
                buffer[..begun.len()].copy_from_slice(&begun);
                let Some(got) = read(&mut stream, &mut buffer, begun.len(), SLOW) else { return };
                if let Ok(Some(parts)) = entry::parse(&buffer[..got]) {
                    answer(stream, parts, &core, &gate);
                }
            };
            if let Err(error) = thread::Builder::new().name("slow-plugin".into()).spawn(finish) {
                tracing::warn!("cannot start a thread: {error}");
            }
        }
        Err(()) => tracing::debug!("plugin socket: not a request"),
    }
}

fn answer(stream: UnixStream, parts: [&[u8]; PARTS], core: &Actor<Core>, gate: &Gate) {
    let Some(call) = ShortCall::new(parts) else {
        refuse(&stream);
        return;
    };
    // The other end has been given all the time it may take to read.
    let ready = stream.set_nonblocking(true).and_then(|()| stream.try_clone());
    let Ok(second) = ready else {
        refuse(&stream);
        return;
    };
    let core = core.clone();
    gate.pass(gate.passing(&call.request), move |passed| {
        let work = move |core: &mut Core| {
            let answer = core.cni(&call.request, passed, &|| !poll::hung_up(&second).unwrap_or(true));
            write(&second, &call.encode(answer));
        };
        if core.tell(work).is_err() {
            refuse(&stream);
        }
    });
}

fn refuse(stream: &UnixStream) {
    write(stream, &REFUSAL);
}

/// A plugin that is gone needs no answer.
fn write(mut stream: &UnixStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) if n > 0 => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => {
                tracing::debug!(?other, "plugin socket: the answer was not taken");
                return;
            }
        }
    }
}
