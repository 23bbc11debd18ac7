//! Connections: dialling, accepting, reading, writing, and the last words of one that closes.

use std::{
    future::{Future, poll_fn},
    io,
    net::{SocketAddr, SocketAddrV6},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{
    super::{socket, wire_out::WireOut},
    PeerTask,
};
use crate::{
    bgp::{
        config::PeerAddress,
        session::{ConnId, Failure, Input},
    },
    netlink::{ns::ifindex, sockopt},
};

/// Bytes read at once.
const READ: usize = 64 << 10;
/// Reads in a row before anything else is looked at.
const READS: usize = 4;
/// How long a closed connection may take to deliver what was written last.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) stream: TcpStream,
    pub(super) out: WireOut,
    /// The socket took no more; wait until it is writable.
    pub(super) blocked: bool,
}

pub(super) enum Ready {
    Read(usize),
    Write(usize),
}

impl PeerTask {
    pub(super) fn accept(&mut self, stream: TcpStream) {
        let settings = &self.context.config.settings;
        let usable = socket::adopt(&stream, self.context.speaker.asn, settings);
        if let Err(error) = usable {
            return self.note(&Failure::Dial(format!("connection refused: {}", plain(&error))));
        }
        if let Some(id) = self.session.accept(Instant::now()) {
            self.connections.push(Connection { id, stream, out: WireOut::default(), blocked: false });
        } else {
            tracing::debug!(peer = %self.context.config.address, "connection refused: the session is idle");
        }
    }

    pub(super) fn dialed(&mut self, result: io::Result<TcpStream>) {
        let Some((id, _)) = self.dial.take() else { return };
        let input = match result {
            Ok(stream) => {
                self.connections.push(Connection { id, stream, out: WireOut::default(), blocked: false });
                Input::Connected(id)
            }
            Err(error) => Input::DialFailed(id, plain(&error)),
        };
        self.session.handle_input(Instant::now(), input);
    }

    /// Where to dial.
    pub(super) fn target(&self) -> io::Result<SocketAddr> {
        let port = self.context.config.port;
        let scope =
            |name: &str| ifindex(name).map_err(|_| io::Error::other(format!("there is no interface {name}")));
        match &self.context.config.address {
            PeerAddress::Ip(addr) => Ok(SocketAddr::new(*addr, port)),
            PeerAddress::LinkLocal { addr, interface } => {
                Ok(SocketAddr::V6(SocketAddrV6::new(*addr, port, 0, scope(interface)?)))
            }
            PeerAddress::Interface(name) => match self.neighbour {
                Some(mut addr) => {
                    addr.set_port(port);
                    Ok(addr)
                }
                None => Err(io::Error::other(format!("no neighbour seen on {name} yet"))),
            },
        }
    }

    pub(super) fn timeout(&mut self) {
        // What has come already counts before a hold timer does.
        for index in (0..self.connections.len()).rev() {
            if !self.paused {
                self.read(index);
            }
        }
        self.session.handle_timeout(Instant::now());
    }

    /// A neighbour whose process has ended closes the connection before its BFD falls silent: that counts first, even
    /// if what it has sent before is not read yet. What it has sent is not lost: it sends it again.
    pub(super) fn notice_closed(&mut self) {
        let Some(conn) = self.established.as_ref().map(|e| e.conn) else { return };
        let stream = self.connections.iter().find(|c| c.id == conn).map(|c| &c.stream);
        if stream.is_some_and(|stream| sockopt::tcp_closed_by_peer(stream).unwrap_or(false)) {
            self.session.handle_input(Instant::now(), Input::Closed(conn, None));
        }
    }

    /// Reads what is there, up to a bound.
    pub(super) fn read(&mut self, index: usize) {
        for _ in 0..READS {
            let Some(connection) = self.connections.get(index) else { return };
            let id = connection.id;
            self.buffer.reserve(READ);
            let input = match connection.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => Input::Closed(id, None),
                Ok(_) => Input::Bytes(id, self.buffer.split().freeze()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Most peers are silent most of the time: a reflector with hundreds of them needs the memory.
                    self.buffer = BytesMut::new();
                    return;
                }
                Err(error) => Input::Closed(id, Some(plain(&error))),
            };
            let last = matches!(input, Input::Closed(..));
            self.session.handle_input(Instant::now(), input);
            self.drain();
            if last || self.paused {
                return;
            }
        }
    }

    /// Writes what the sockets take at once. Whether the session has something new to say.
    pub(super) fn write(&mut self) -> bool {
        let mut news = false;
        let mut broken = Vec::new();
        for connection in &mut self.connections {
            let outbox =
                self.established.as_ref().filter(|e| e.conn == connection.id).map(|e| e.outbox.clone());
            let mut progress = false;
            let mut failed = None;
            while !connection.blocked {
                if let Some(outbox) = &outbox {
                    connection.out.fetch(outbox);
                }
                if connection.out.is_empty() {
                    break;
                }
                match connection.out.try_write(&connection.stream) {
                    Ok(written) => {
                        progress = true;
                        self.session.count_sent(written.updates);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.blocked = true,
                    Err(error) => {
                        failed = Some(plain(&error));
                        break;
                    }
                }
            }
            let now = Instant::now();
            let conn = connection.id;
            if let Some(error) = failed {
                // The peer's last words may still be there to read; if not, the read fails too.
                connection.blocked = true;
                news = true;
                broken.push((conn, error));
            } else if progress || connection.blocked {
                let pending = !connection.out.is_empty();
                self.session.handle_input(now, Input::Wrote { conn, progress, pending });
            }
        }
        for (conn, error) in broken {
            // The peer's last words, a NOTIFICATION perhaps, may still be there to read. If the reading does not end
            // the connection too, the error does.
            if let Some(index) = self.connections.iter().position(|c| c.id == conn) {
                self.read(index);
            }
            self.session.handle_input(Instant::now(), Input::Closed(conn, Some(error)));
        }
        news
    }

    pub(super) fn close(&mut self, id: ConnId, abort: bool) {
        if self.dial.as_ref().is_some_and(|(conn, _)| *conn == id)
            && let Some((_, handle)) = self.dial.take()
        {
            handle.abort();
        }
        let Some(index) = self.connections.iter().position(|c| c.id == id) else { return };
        let mut connection = self.connections.swap_remove(index);
        connection.out.drop_updates();
        if !abort {
            self.closing.spawn(linger(connection));
        }
    }
}

/// Resolves when a connection can be read, or written after it could not.
pub(super) fn socket_ready(connections: &[Connection], reading: bool) -> impl Future<Output = Ready> {
    poll_fn(move |cx| {
        for (index, connection) in connections.iter().enumerate() {
            if reading && connection.stream.poll_read_ready(cx).is_ready() {
                return Poll::Ready(Ready::Read(index));
            }
            if connection.blocked && connection.stream.poll_write_ready(cx).is_ready() {
                return Poll::Ready(Ready::Write(index));
            }
        }
        Poll::Pending
    })
}

/// Delivers what was written last, a NOTIFICATION mostly, then closes.
///
/// A socket closed with unread bytes sends a RST, at which the peer's kernel may throw away the NOTIFICATION: so what
/// comes is read until the peer closes too.
async fn linger(mut connection: Connection) {
    let deliver = async {
        while !connection.out.is_empty() {
            connection.stream.writable().await?;
            match connection.out.try_write(&connection.stream) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        tokio::io::AsyncWriteExt::shutdown(&mut connection.stream).await?;
        let mut sink = vec![0; READ];
        while tokio::io::AsyncReadExt::read(&mut connection.stream, &mut sink).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Whatever goes wrong, the connection is over.
    let _ = tokio::time::timeout(LINGER, deliver).await;
}

/// An I/O error as people write it: `connection refused`.
pub(in crate::bgp::speaker) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        // `TCP …` stays.
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}
