//! BGP messages out of packet captures: pcap and pcapng files, TCP put together again.
//!
//! Tunnels (IP in IP, GRE) are opened and IP fragments joined. Both directions of every connection on the wanted port are followed. [`Messages`] gives whole messages in the order in
//! which their last octet was captured.

mod file;
mod fragments;
mod packet;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    io::Read,
    net::SocketAddr,
    time::Duration,
};

pub use file::{CaptureError, PacketReader};
use fragments::{Fragment, Fragments};
use packet::{Inside, Segment};
use stream::{Cut, Stream};

/// One BGP message of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedMessage {
    /// When its last octet was captured, since 1970; `None` for packets without time.
    pub time: Option<Duration>,
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// How many octets of the stream before it are not in the capture.
    pub missing: u64,
    /// The message, header included. After a bad header only the header is here, and before a gap in the capture only
    /// what was captured.
    pub message: Vec<u8>,
}

/// What was in a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Those of link types that are not known.
    pub unknown_link: u64,
    /// The last of these types.
    pub link: Option<u16>,
    /// Segments on the wanted port.
    pub segments: u64,
}

/// The messages of a capture.
#[derive(Debug)]
pub struct Messages<R> {
    packets: PacketReader<R>,
    port: u16,
    streams: HashMap<(SocketAddr, SocketAddr), Stream>,
    fragments: Fragments,
    /// Messages that are complete.
    ready: VecDeque<CapturedMessage>,
    counts: Counts,
    ended: bool,
    /// Why the capture cannot be read on, told after the messages.
    error: Option<CaptureError>,
}

impl<R: Read> Messages<R> {
    /// The messages on TCP port `port` in a capture.
    pub fn new(input: R, port: u16) -> Self {
        Self {
            packets: PacketReader::new(input),
            port,
            streams: HashMap::new(),
            fragments: Fragments::default(),
            ready: VecDeque::new(),
            counts: Counts::default(),
            ended: false,
            error: None,
        }
    }

    /// What there was so far.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    fn packet(&mut self, packet: &file::Packet) {
        self.counts.packets += 1;
        match packet::inside(packet.link, &packet.data) {
            None => {}
            Some(Inside::UnknownLink) => {
                self.counts.unknown_link += 1;
                self.counts.link = Some(packet.link);
            }
            Some(Inside::Tcp(segment)) => self.segment(&segment, packet.time),
            Some(Inside::Fragment(fragment)) => self.fragment(&fragment, packet.time),
        }
    }

    /// The time of a message is that of the last piece of the datagram that completes it.
    fn fragment(&mut self, fragment: &Fragment<'_>, time: Option<Duration>) {
        let mut whole = self.fragments.add(fragment);
        // What was sent in pieces may be a tunnel that holds pieces.
        while let Some(datagram) = whole.take() {
            match packet::inside_datagram(&datagram) {
                None | Some(Inside::UnknownLink) => {}
                Some(Inside::Tcp(segment)) => self.segment(&segment, time),
                Some(Inside::Fragment(inner)) => whole = self.fragments.add(&inner),
            }
        }
    }

    fn segment(&mut self, segment: &Segment<'_>, time: Option<Duration>) {
        if segment.source.port() != self.port && segment.destination.port() != self.port {
            return;
        }
        self.counts.segments += 1;
        let (source, destination) = (segment.source, segment.destination);
        if segment.flags & packet::ACK != 0
            && let Some(stream) = self.streams.get_mut(&(destination, source))
        {
            let messages = stream.acknowledged(segment.acknowledged);
            self.keep(messages, destination, source);
        }
        let stream = self.streams.entry((source, destination)).or_default();
        let messages = stream.segment(segment, time);
        self.keep(messages, source, destination);
    }

    fn keep(&mut self, messages: Vec<Cut>, source: SocketAddr, destination: SocketAddr) {
        let whole =
            |Cut { message, time, missing }| CapturedMessage { time, source, destination, missing, message };
        self.ready.extend(messages.into_iter().map(whole));
    }

    /// What waits behind octets that never came is given out too, in the order of capture.
    fn end(&mut self) {
        let mut rest: Vec<_> = std::mem::take(&mut self.streams).into_iter().collect();
        rest.sort_by_key(|(ends, _)| *ends);
        for ((source, destination), mut stream) in rest {
            let messages = stream.end();
            self.keep(messages, source, destination);
        }
        self.ready.make_contiguous().sort_by_key(|m| m.time);
    }
}

impl<R: Read> Iterator for Messages<R> {
    type Item = Result<CapturedMessage, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(Ok(message));
            }
            if self.ended {
                return self.error.take().map(Err);
            }
            match self.packets.next() {
                Some(Ok(packet)) => self.packet(&packet),
                other => {
                    self.error = other.and_then(Result::err);
                    self.ended = true;
                    self.end();
                }
            }
        }
    }
}
