//! The task of one collector: dials, writes what the RIB's thread puts into the outbox, dials again.

use std::{
    collections::VecDeque, io, io::IoSlice, net::SocketAddr, sync::Arc, time::Duration, time::Instant,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    feed::{CollectorId, NewFeed},
    status::CollectorShared,
};
use crate::bgp::{
    bmp,
    config::BmpCollector,
    speaker::{
        outbox::Outbox,
        peer::plain,
        rib_thread::{Control, RibSender},
    },
};

/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(10);
/// How long a collector may take nothing of what waits for it.
const STALL: Duration = Duration::from_secs(60);
/// The longest wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// How long the last message may take.
const TERMINATION: Duration = Duration::from_secs(1);
/// Octets taken out of the outbox at once.
const AHEAD: usize = 64 << 10;
/// The most slices in one write.
const SLICES: usize = 64;

/// What others tell a collector's task.
#[derive(Debug)]
pub(in crate::bgp::speaker) enum CollectorCommand {
    /// End, with this text in the termination message.
    Stop(&'static str),
    /// More waits than may.
    Overflow,
}

/// What a task starts with.
pub(in crate::bgp::speaker) struct CollectorContext {
    pub(in crate::bgp::speaker) id: CollectorId,
    pub(in crate::bgp::speaker) config: Arc<BmpCollector>,
    /// Our host name and what we are.
    pub(in crate::bgp::speaker) name: String,
    pub(in crate::bgp::speaker) rib: RibSender,
    pub(in crate::bgp::speaker) status: CollectorShared,
}

enum End {
    Stopped,
    Lost(String),
}

/// Starts a collector's task.
pub(in crate::bgp::speaker) fn spawn(
    context: CollectorContext,
) -> (mpsc::UnboundedSender<CollectorCommand>, JoinHandle<()>) {
    let (tell, commands) = mpsc::unbounded_channel();
    let task = tokio::spawn(run(context, tell.clone(), commands));
    (tell, task)
}

async fn run(
    context: CollectorContext,
    tell: mpsc::UnboundedSender<CollectorCommand>,
    mut commands: mpsc::UnboundedReceiver<CollectorCommand>,
) {
    let mut wait = context.config.reconnect;
    loop {
        context.status.update(|status| status.connecting = true);
        let dialed = tokio::select! {
            dialed = dial(&context.config) => dialed,
            () = stopped(&mut commands) => return,
        };
        let error = match dialed {
            Err(error) => plain(&error),
            Ok(stream) => {
                let begun = Instant::now();
                match connected(&context, stream, &tell, &mut commands).await {
                    End::Stopped => return,
                    End::Lost(error) => {
                        // One that works starts the waits again.
                        if begun.elapsed() > LONGEST_WAIT {
                            wait = context.config.reconnect;
                        }
                        error
                    }
                }
            }
        };
        let news = context.status.update(|status| {
            status.connecting = false;
            let news = status.last_error.as_ref().is_none_or(|(last, _)| *last != error);
            status.last_error = Some((error.clone(), Instant::now()));
            news
        });
        // What fails again and again in the same way is told once.
        if news {
            tracing::warn!(collector = %context.config.address, error, "no connection to the BMP collector");
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stopped(&mut commands) => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT.max(context.config.reconnect));
    }
}

/// Resolves when the task is to end.
async fn stopped(commands: &mut mpsc::UnboundedReceiver<CollectorCommand>) {
    // An overflow of a connection that is gone means nothing.
    while let Some(CollectorCommand::Overflow) = commands.recv().await {}
}

async fn dial(config: &BmpCollector) -> io::Result<TcpStream> {
    let socket = match config.address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_keepalive(true)?;
    if let Some(local) = config.local_address {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let dialed = tokio::time::timeout(DIAL, socket.connect(config.address)).await;
    dialed.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out")))
}

async fn connected(
    context: &CollectorContext,
    mut stream: TcpStream,
    tell: &mpsc::UnboundedSender<CollectorCommand>,
    commands: &mut mpsc::UnboundedReceiver<CollectorCommand>,
) -> End {
    let CollectorContext { id, config, name, rib, status } = context;
    tracing::info!(collector = %config.address, "connected to the BMP collector");
    status.update(|status| {
        status.connected = Some(Instant::now());
        status.connecting = false;
        status.connects += 1;
    });
    let outbox = Arc::new(Outbox::new(rib.hungry.clone()));
    let mut first = BytesMut::new();
    bmp::initiation(&mut first, name, concat!("slash32 ", env!("CARGO_PKG_VERSION")));
    outbox.push(vec![first.freeze()]);
    let feed = NewFeed {
        id: *id,
        config: config.clone(),
        outbox: outbox.clone(),
        tell: tell.clone(),
        status: status.clone(),
    };
    // A RIB that has ended has nothing to tell.
    let _ = rib.control.send(Control::Collector(Box::new(feed)));
    let end = serve(context, &mut stream, &outbox, commands).await;
    let _ = rib.control.send(Control::CollectorGone(*id));
    status.update(|status| {
        status.connected = None;
        status.waiting = 0;
        status.changes_waiting = 0;
    });
    end
}

async fn serve(
    context: &CollectorContext,
    stream: &mut TcpStream,
    outbox: &Outbox,
    commands: &mut mpsc::UnboundedReceiver<CollectorCommand>,
) -> End {
    let mut queue: VecDeque<Bytes> = VecDeque::new();
    let mut stalled = Instant::now() + STALL;
    loop {
        if queue.is_empty() {
            outbox.take(&mut queue, AHEAD);
            stalled = Instant::now() + STALL;
        }
        let waits = !queue.is_empty();
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(CollectorCommand::Overflow) => {
                    return End::Lost(format!(
                        "the collector is too slow: more than {} octets waited for it",
                        context.config.buffer
                    ));
                }
                command => {
                    let why = if let Some(CollectorCommand::Stop(why)) = command { why } else { "" };
                    terminate(stream, queue, outbox, why).await;
                    return End::Stopped;
                }
            },
            ready = stream.readable() => {
                if let Err(error) = ready.and_then(|()| hear(stream)) {
                    return End::Lost(plain(&error));
                }
            }
            ready = stream.writable(), if waits => match ready.and_then(|()| write(stream, &mut queue)) {
                Ok(0) => {}
                Ok(written) => {
                    stalled = Instant::now() + STALL;
                    let left = outbox.waiting() + queue.iter().map(Bytes::len).sum::<usize>();
                    context.status.update(|status| {
                        status.bytes += written as u64;
                        status.waiting = left as u64;
                    });
                }
                Err(error) => return End::Lost(plain(&error)),
            },
            () = outbox.filled(), if !waits => {}
            () = tokio::time::sleep_until(stalled.into()), if waits => {
                return End::Lost(format!("the collector has read nothing for {} s", STALL.as_secs()));
            }
        }
    }
}

/// A collector says nothing (RFC 7854 section 3.2); what comes all the same is not looked at.
fn hear(stream: &TcpStream) -> io::Result<()> {
    match stream.try_read(&mut [0; 1024]) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "connection closed by the collector")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn write(stream: &TcpStream, queue: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let slices: Vec<IoSlice<'_>> = queue.iter().take(SLICES).map(|chunk| IoSlice::new(chunk)).collect();
    let written = match stream.try_write_vectored(&slices) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
        Err(error) => return Err(error),
    };
    drop(slices);
    let mut left = written;
    while let Some(chunk) = queue.front_mut().filter(|_| left > 0) {
        let step = left.min(chunk.len());
        chunk.advance(step);
        left -= step;
        if chunk.is_empty() {
            queue.pop_front();
        }
    }
    Ok(written)
}

/// Writes what waits, as far as that takes no time, and the last message (RFC 7854 section 4.5).
async fn terminate(stream: &mut TcpStream, mut queue: VecDeque<Bytes>, outbox: &Outbox, why: &str) {
    outbox.take(&mut queue, usize::MAX);
    let mut last = BytesMut::new();
    bmp::termination(&mut last, why);
    queue.push_back(last.freeze());
    let deliver = async {
        while !queue.is_empty() {
            stream.writable().await?;
            write(stream, &mut queue)?;
        }
        tokio::io::AsyncWriteExt::shutdown(stream).await
    };
    // Whatever goes wrong, the connection is over.
    let _ = tokio::time::timeout(TERMINATION, deliver).await;
}
