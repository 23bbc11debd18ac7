//! A small blocking netlink socket.
//!
//! The kernel handles a netlink request inside `send`, so every answer waits in the receive queue when `send`
//! returns. What can go wrong is that the queue overflows (`ENOBUFS`): hence acknowledgements only where needed,
//! large buffers, and a distinct error after which the caller must read the kernel's state anew.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::RouteNetlinkMessage;

use super::{Attrs, Batch, Error, KernelError, NLMSG_HDRLEN, Writer, align4, sys};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Flags of an `NLMSG_ERROR` or `NLMSG_DONE` (linux/netlink.h).
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// One send carries at most this much; enough to make the system call's cost vanish, little enough that the errors
/// of all messages fit into the receive buffer.
const CHUNK_MESSAGES: usize = 512;
const CHUNK_BYTES: usize = 128 << 10;
/// Receive and send buffers, in bytes. The kernel doubles the value for its own accounting.
const BUFFER: i32 = 2 << 20;
/// Larger than any datagram the kernel builds for a dump (32 KiB).
const RECV_BYTES: usize = 64 << 10;
const DUMP_RETRIES: usize = 5;

/// A netlink protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `NETLINK_ROUTE`: links, addresses, routes, rules, neighbours, next hops.
    Route,
    /// `NETLINK_NETFILTER`: nftables and conntrack.
    Netfilter,
}

/// A blocking netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buf: Box<[u8]>,
    send_buffer: usize,
}

/// What the kernel answered to a batch.
#[derive(Clone, Debug, Default)]
pub struct BatchReport {
    /// The messages that failed, in the order of the batch.
    pub errors: Vec<KernelError>,
    /// Answers other than errors and acknowledgements (for requests that fetch something, or with `NLM_F_ECHO`):
    /// index of the message in the batch, type, payload.
    pub replies: Vec<(usize, u16, Vec<u8>)>,
}

impl BatchReport {
    /// The first error, if any.
    pub fn into_result(self) -> Result<Self, Error> {
        match self.errors.into_iter().next() {
            Some(error) => Err(Error::Kernel(error)),
            None => Ok(Self { errors: Vec::new(), replies: self.replies }),
        }
    }
}

/// A message as received: header fields and payload, all lengths checked.
#[derive(Clone, Copy, Debug)]
pub struct RawMessage<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> RawMessage<'a> {
    /// The attributes behind a fixed header of `header` bytes.
    pub fn attrs(&self, header: usize) -> Attrs<'a> {
        Attrs::after(self.payload, header)
    }

    /// The message as a type of `netlink-packet-route`.
    pub fn route(&self) -> Result<RouteNetlinkMessage, Error> {
        let mut header = NetlinkHeader::default();
        header.message_type = self.kind;
        header.flags = self.flags;
        header.length = (self.payload.len() + NLMSG_HDRLEN) as u32;
        RouteNetlinkMessage::deserialize(&header, self.payload).map_err(|e| Error::Malformed(e.to_string()))
    }
}

/// Iterates over the messages of one datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = RawMessage<'a>;

    fn next(&mut self) -> Option<RawMessage<'a>> {
        let header = self.0.first_chunk::<NLMSG_HDRLEN>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let payload = self.0.get(NLMSG_HDRLEN..len)?;
        self.0 = self.0.get(align4(len)..).unwrap_or_default();
        Some(RawMessage {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    }
}

impl Socket {
    /// How long to wait for an answer that should be there already, unless [`Self::set_timeout`] says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// A routing socket in the calling thread's network namespace.
    pub fn route() -> Result<Self, Error> {
        Self::open(Protocol::Route)
    }

    /// A netfilter socket in the calling thread's network namespace.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(Protocol::Netfilter)
    }

    /// A socket in the calling thread's network namespace, with large buffers, extended error texts and, for
    /// routing, strict checking of dump requests so that the kernel filters.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let number = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
        };
        let fd = sys::netlink_socket(number).map_err(|e| Error::os("socket(AF_NETLINK)", e))?;
        let mut socket =
            Self { fd, sequence: 0, buf: vec![0; RECV_BYTES].into_boxed_slice(), send_buffer: 0 };
        let raw = socket.as_raw_fd();
        // Short answers with the kernel's words. Kernels without these options (before 4.12, 4.20) still work.
        let options: &[i32] = match protocol {
            Protocol::Route => &[libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK],
            Protocol::Netfilter => &[libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK],
        };
        for option in options {
            if let Err(error) = sys::setsockopt_int(raw, libc::SOL_NETLINK, *option, 1) {
                tracing::debug!(option, %error, "netlink option is not available");
            }
        }
        socket.set_receive_buffer(BUFFER as usize)?;
        socket.grow_send_buffer(BUFFER as usize)?;
        socket.set_timeout(Self::TIMEOUT)?;
        Ok(socket)
    }

    /// The socket's port, which the kernel puts into the notifications of what this socket changes.
    pub fn port(&self) -> Result<u32, Error> {
        sys::netlink_port(self.as_raw_fd()).map_err(|e| Error::os("getsockname", e))
    }

    /// Sets how long to wait for an answer.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), Error> {
        socket2::SockRef::from(&self.fd)
            .set_read_timeout(Some(timeout))
            .map_err(|e| Error::os("setsockopt(SO_RCVTIMEO)", e))
    }

    /// Sets the receive buffer, beyond the system's limit where privileges allow.
    pub fn set_receive_buffer(&mut self, bytes: usize) -> Result<(), Error> {
        force_buffer(self.as_raw_fd(), libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)
            .map_err(|e| Error::os("setsockopt(SO_RCVBUF)", e))
    }

    /// A datagram must fit the send buffer (`EMSGSIZE` otherwise), so it grows with the largest transaction.
    fn grow_send_buffer(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes <= self.send_buffer {
            return Ok(());
        }
        force_buffer(self.as_raw_fd(), libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)
            .map_err(|e| Error::os("setsockopt(SO_SNDBUF)", e))?;
        self.send_buffer = bytes;
        Ok(())
    }

    /// Sends the batch in as few sends as is wise and collects all errors. Each message stands for itself: those
    /// after a failed one are still executed. An `Err` says that the outcome is unknown ([`Error::Overrun`],
    /// [`Error::Timeout`]) or that nothing was sent.
    pub fn transact(&mut self, batch: &mut Batch) -> Result<BatchReport, Error> {
        let first = self.number(batch)?;
        let mut report = BatchReport::default();
        let mut from = 0;
        while from < batch.len() {
            let to = batch.chunk_end(from, CHUNK_MESSAGES, CHUNK_BYTES);
            batch.set_flags(to - 1, NLM_F_ACK);
            self.send(batch.slice(from, to))?;
            self.collect(first, batch.len(), to - 1, &mut report)?;
            from = to;
        }
        Ok(report)
    }

    /// Like [`Self::transact`], and fails with the first error of any message.
    pub fn execute(&mut self, batch: &mut Batch) -> Result<BatchReport, Error> {
        self.transact(batch)?.into_result()
    }

    /// Sends one message and fails with its error.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> Result<BatchReport, Error> {
        let mut batch = Batch::new();
        batch.add(kind, flags, fill);
        self.execute(&mut batch)
    }

    /// Sends one question and reads until the kernel has acknowledged it; the first answer that `parse` takes.
    pub fn ask<T>(
        &mut self,
        kind: u16,
        fill: impl FnOnce(&mut Writer<'_>),
        parse: impl Fn(&RawMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut batch = Batch::new();
        batch.add(kind, NLM_F_ACK, fill);
        let sequence = self.number(&mut batch)?;
        self.send(batch.slice(0, 1))?;
        let mut answer = None;
        loop {
            let len = self.receive(false)?;
            for message in Messages(&self.buf[..len]).filter(|m| m.sequence == sequence) {
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return parse_status(&message, 0)?.map_or(Ok(answer), |e| Err(Error::Kernel(e)));
                    }
                    _ => answer = answer.or_else(|| parse(&message)),
                }
            }
        }
    }

    /// Sends an nfnetlink transaction, which [`Batch::nfnl_begin`] and [`Batch::nfnl_end`] enclose: one datagram,
    /// all of it or nothing. The report has the errors; if there is any, nothing was changed. An error with index
    /// 0 concerns the transaction as a whole.
    pub fn transact_atomic(&mut self, batch: &mut Batch) -> Result<BatchReport, Error> {
        let first = self.number(batch)?;
        let mut report = BatchReport::default();
        // The last message before the end mark.
        let Some(last) = batch.len().checked_sub(2) else { return Ok(report) };
        batch.set_flags(last, NLM_F_ACK);
        // The kernel accounts some overhead beside the data.
        self.grow_send_buffer(batch.bytes() + (64 << 10))?;
        self.send(batch.slice(0, batch.len()))?;
        self.collect(first, batch.len(), last, &mut report)?;
        // When the transaction fails as a whole, answers to single messages may still follow.
        self.drain(first, batch.len(), &mut report)?;
        report.errors.sort_by_key(|e| e.index);
        Ok(report)
    }

    /// Sends a dump request and hands every message to `each`. May hand over an inconsistent list when objects
    /// change meanwhile: the result says so ([`Error::DumpInterrupted`]) at the end. [`Self::dump`] retries. When `each`
    /// fails the rest is still read, except with [`Error::Interrupted`], after which the socket is of no use any more.
    pub fn dump_once(
        &mut self,
        kind: u16,
        fill: impl FnOnce(&mut Writer<'_>),
        mut each: impl FnMut(&RawMessage<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.add(kind, NLM_F_DUMP, fill);
        let sequence = self.number(&mut batch)?;
        self.send(batch.slice(0, 1))?;
        let mut interrupted = false;
        let mut failed = None;
        loop {
            let len = self.receive(false)?;
            for message in Messages(&self.buf[..len]) {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match parse_status(&message, 0)? {
                            Some(error) => Err(Error::Kernel(error)),
                            None if failed.is_some() => failed.map_or(Ok(()), Err),
                            None if interrupted => Err(Error::DumpInterrupted),
                            None => Ok(()),
                        };
                    }
                    // The rest must still be read, or it would be taken for the answer to the next request.
                    _ if failed.is_some() => {}
                    _ => {
                        failed = each(&message).err();
                        if matches!(failed, Some(Error::Interrupted)) {
                            return Err(Error::Interrupted);
                        }
                    }
                }
            }
        }
    }

    /// Lists objects: sends a dump request and collects what `parse` makes of every message (`None` skips it).
    /// Starts over when the objects changed meanwhile.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        fill: impl Fn(&mut Writer<'_>),
        mut parse: impl FnMut(&RawMessage<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_RETRIES {
            let mut list = Vec::new();
            let result = self.dump_once(kind, &fill, |message| {
                list.extend(parse(message)?);
                Ok(())
            });
            match result {
                Ok(()) => return Ok(list),
                Err(Error::DumpInterrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::DumpInterrupted)
    }

    /// Gives the batch its sequence numbers; the answer is the number of its first message.
    fn number(&mut self, batch: &mut Batch) -> Result<u32, Error> {
        let first = self.sequence.wrapping_add(1);
        batch.seal(first)?;
        self.sequence = self.sequence.wrapping_add(batch.len() as u32);
        Ok(first)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        loop {
            match sys::send(self.as_raw_fd(), bytes) {
                Ok(_) => return Ok(()), // a datagram goes out whole or not at all
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::os("send(netlink)", e)),
            }
        }
    }

    /// Reads answers until the one for message `last`, or an error that ends the whole transaction (index 0 of an
    /// nfnetlink batch with no more to come is found by [`Self::drain`]).
    fn collect(
        &mut self,
        first: u32,
        count: usize,
        last: usize,
        report: &mut BatchReport,
    ) -> Result<(), Error> {
        loop {
            let len = match self.receive(true) {
                // Everything that the kernel had to say is there when `send` returns; but wait once all the same,
                // unless the transaction failed as a whole.
                Err(Error::Timeout) if report.errors.iter().any(|e| e.index == 0) && last != 0 => {
                    return Ok(());
                }
                Err(Error::Timeout) => self.receive(false)?,
                other => other?,
            };
            if take(&self.buf[..len], first, count, report)?.is_some_and(|index| index >= last) {
                return Ok(());
            }
        }
    }

    fn drain(&mut self, first: u32, count: usize, report: &mut BatchReport) -> Result<(), Error> {
        loop {
            match self.receive(true) {
                Ok(len) => take(&self.buf[..len], first, count, report)?,
                Err(Error::Timeout) => return Ok(()),
                Err(error) => return Err(error),
            };
        }
    }

    /// The next datagram from the kernel, for sockets that are told things they did not ask for.
    pub(super) fn datagram(&mut self) -> Result<&[u8], Error> {
        let len = self.receive(false)?;
        Ok(self.buf.get(..len).unwrap_or_default())
    }

    /// Receives one datagram from the kernel into the buffer; the answer is its length.
    fn receive(&mut self, dont_wait: bool) -> Result<usize, Error> {
        loop {
            let fd = self.fd.as_raw_fd();
            match sys::recv_netlink(fd, &mut self.buf, dont_wait) {
                // Another process may send to our port; only the kernel's word counts.
                Ok((_, port)) if port != 0 => {}
                Ok((len, _)) if len > self.buf.len() => {
                    return Err(Error::Malformed(format!("a datagram of {len} bytes was cut")));
                }
                Ok((len, _)) => return Ok(len),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::os("recv(netlink)", e)),
            }
        }
    }
}

/// Sorts the messages of a datagram into the report. Answers the highest index that was acknowledged or failed.
fn take(datagram: &[u8], first: u32, count: usize, report: &mut BatchReport) -> Result<Option<usize>, Error> {
    let mut highest = None;
    for message in Messages(datagram) {
        // Left over from an earlier request that timed out?
        let index = message.sequence.wrapping_sub(first) as usize;
        if index >= count {
            continue;
        }
        match message.kind {
            NLMSG_ERROR | NLMSG_DONE => {
                report.errors.extend(parse_status(&message, index)?);
                highest = highest.max(Some(index));
            }
            kind => report.replies.push((index, kind, message.payload.to_vec())),
        }
    }
    Ok(highest)
}

/// The error in an `NLMSG_ERROR` or `NLMSG_DONE`; none when it says success.
fn parse_status(message: &RawMessage<'_>, index: usize) -> Result<Option<KernelError>, Error> {
    let Some(code) = message.payload.first_chunk::<4>() else {
        // An empty NLMSG_DONE is allowed.
        return if message.kind == NLMSG_DONE {
            Ok(None)
        } else {
            Err(Error::Malformed("short NLMSG_ERROR".into()))
        };
    };
    let code = i32::from_ne_bytes(*code);
    if code >= 0 {
        return Ok(None);
    }
    let mut error =
        KernelError { index, errno: code.checked_neg().unwrap_or(i32::MAX), message: None, offset: None };
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let mut rest = message.payload.get(4..).unwrap_or_default();
        if message.kind == NLMSG_ERROR {
            // The request's header follows, and its payload unless it was capped.
            let skip = match rest.first_chunk::<4>() {
                Some(len) if message.flags & NLM_F_CAPPED == 0 => align4(u32::from_ne_bytes(*len) as usize),
                _ => NLMSG_HDRLEN,
            };
            rest = rest.get(skip..).unwrap_or_default();
        }
        for attr in Attrs::new(rest) {
            match attr.kind {
                NLMSGERR_ATTR_MSG => error.message = attr.str().map(str::to_owned),
                NLMSGERR_ATTR_OFFS => error.offset = attr.u32(),
                _ => {}
            }
        }
    }
    Ok(Some(error))
}

/// Sets a buffer size with the privileged option, and with the ordinary one where we lack the privilege.
pub(super) fn force_buffer(fd: RawFd, force: i32, plain: i32, bytes: usize) -> io::Result<()> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
    sys::setsockopt_int(fd, libc::SOL_SOCKET, force, value)
        .or_else(|_| sys::setsockopt_int(fd, libc::SOL_SOCKET, plain, value))
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{link, ns::testing};

    const RTM_NEWROUTE: u16 = 24;
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
    const NFT_MSG_GETTABLE: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 1;

    /// A blackhole route 10.`a`.`b`.0/24; `len` over 32 makes it invalid.
    fn add_route(batch: &mut Batch, a: u8, b: u8, len: u8) {
        batch.add(RTM_NEWROUTE, libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16, |w| {
            w.raw(&[libc::AF_INET as u8, len, 0, 0, 254, 99, 0, 6, 0, 0, 0, 0]).attr(1, &[10, a, b, 0]);
        });
    }

    #[test]
    fn errors_carry_index_and_text() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            let mut batch = Batch::new();
            for i in 0..2000u32 {
                // Two bad ones, on both sides of a send's boundary.
                let len = if i == 3 || i == 1999 { 77 } else { 24 };
                add_route(&mut batch, (i / 250) as u8, (i % 250) as u8, len);
            }
            let report = socket.transact(&mut batch).unwrap();
            let indices: Vec<_> = report.errors.iter().map(|e| e.index).collect();
            assert_eq!(indices, [3, 1999]);
            assert_eq!(report.errors[0].errno, libc::EINVAL);
            assert_eq!(report.errors[0].message.as_deref(), Some("Invalid prefix length"));
            // Every one of them exists now, and the socket is still in step.
            let report = socket.transact(&mut batch).unwrap();
            assert_eq!(report.errors.len(), 2000);
            assert_eq!(report.errors.iter().filter(|e| e.is_exists()).count(), 1998);
            let loopback = link::by_name(&mut socket, "lo").unwrap();
            assert!(loopback.is_loopback());
        });
    }

    #[test]
    fn lost_answers_are_a_distinct_error_and_the_socket_recovers() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            let mut batch = Batch::new();
            for i in 0..200 {
                add_route(&mut batch, 0, i, 77);
            }
            let fd = socket.as_raw_fd();
            sys::setsockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 2304).unwrap();
            assert!(matches!(socket.transact(&mut batch), Err(Error::Overrun)));
            socket.set_receive_buffer(1 << 20).unwrap();
            assert_eq!(link::list(&mut socket).unwrap().len(), 1);
        });
    }

    #[test]
    fn an_answer_that_never_comes_is_a_timeout() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            socket.set_timeout(Duration::from_millis(5)).unwrap();
            let mut report = BatchReport::default();
            assert!(matches!(socket.collect(7, 1, 0, &mut report), Err(Error::Timeout)));
        });
    }

    #[test]
    fn oversized_attributes_are_refused_before_sending() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            let mut batch = Batch::new();
            add_route(&mut batch, 0, 0, 24);
            batch.add(RTM_NEWROUTE, 0, |w| {
                w.nest(7, |w| {
                    w.attr(1, &vec![0; 40_000]).attr(2, &vec![0; 40_000]);
                });
            });
            assert!(matches!(
                socket.transact(&mut batch),
                Err(Error::AttributeTooLong { index: 1, kind: 7 })
            ));
        });
    }

    #[test]
    fn nfnetlink_transactions_are_all_or_nothing() {
        testing::private(|| {
            let mut socket = Socket::netfilter().unwrap();
            let table = |batch: &mut Batch, family: u8, name: &str| {
                batch.add(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16, |w| {
                    w.raw(&[family, 0, 0, 0]).attr_str(1, name);
                })
            };
            let count = |socket: &mut Socket| {
                let header = |w: &mut Writer<'_>| {
                    w.raw(&[0; 4]);
                };
                socket.dump(NFT_MSG_GETTABLE, header, |_| Ok(Some(()))).unwrap().len()
            };
            let mut batch = Batch::new();
            batch.nfnl_begin(NFNL_SUBSYS_NFTABLES, None);
            table(&mut batch, 1, "one");
            let bad = table(&mut batch, 77, "two");
            table(&mut batch, 1, "three");
            batch.nfnl_end(NFNL_SUBSYS_NFTABLES);
            let report = socket.transact_atomic(&mut batch).unwrap();
            assert_eq!(report.errors.iter().map(|e| e.index).collect::<Vec<_>>(), [bad]);
            assert_eq!(count(&mut socket), 0);

            let mut batch = Batch::new();
            batch.nfnl_begin(NFNL_SUBSYS_NFTABLES, None);
            table(&mut batch, 1, "one");
            table(&mut batch, 1, "two");
            batch.nfnl_end(NFNL_SUBSYS_NFTABLES);
            assert!(socket.transact_atomic(&mut batch).unwrap().errors.is_empty());
            assert_eq!(count(&mut socket), 2);

            // A generation that is not the current one: refused as a whole.
            let mut batch = Batch::new();
            batch.nfnl_begin(NFNL_SUBSYS_NFTABLES, Some(0x7fff_0000));
            table(&mut batch, 1, "four");
            batch.nfnl_end(NFNL_SUBSYS_NFTABLES);
            let report = socket.transact_atomic(&mut batch).unwrap();
            assert_eq!((report.errors[0].index, report.errors[0].errno), (0, libc::ERESTART));
            assert_eq!(count(&mut socket), 2);
        });
    }
}
