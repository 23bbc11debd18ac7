//! Notifications about changes of nftables: which tables somebody touched.

use std::{collections::VecDeque, os::fd::AsRawFd, thread};

use bytes::BytesMut;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};

use super::{
    Error,
    socket::{Messages, force_buffer},
    sys,
    watch::ignore_program,
};

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFNLGRP_NFTABLES: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_NEWGEN`, which ends a transaction and names no table.
const NEWGEN: u16 = 15;
/// `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const RECEIVE_BUFFER: usize = 4 << 20;
const DATAGRAM: usize = 64 << 10;

/// Something happened to nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftEvent {
    /// A table was made, changed or deleted, or something in it.
    Changed {
        /// The family (`NFPROTO_*`: 1 is inet, 2 ip, 10 ip6).
        family: u8,
        /// The table.
        table: String,
    },
    /// Notifications were lost: anything may have changed.
    Overrun,
}

/// A stream of notifications from the network namespace in which it was opened.
pub struct NftWatch {
    socket: TokioSocket,
    buf: BytesMut,
    queue: VecDeque<NftEvent>,
}

impl NftWatch {
    /// Subscribes; call it inside a tokio runtime. Changes made by sockets with these ports are not reported.
    pub fn open(ignore_ports: &[u32]) -> Result<Self, Error> {
        let mut socket =
            TokioSocket::new(NETLINK_NETFILTER).map_err(|e| Error::os("socket(AF_NETLINK)", e))?;
        let fd = socket.socket_ref().as_raw_fd();
        force_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)
            .map_err(|e| Error::os("setsockopt(SO_RCVBUF)", e))?;
        if !ignore_ports.is_empty() {
            sys::attach_filter(fd, &ignore_program(ignore_ports))
                .map_err(|e| Error::os("setsockopt(SO_ATTACH_FILTER)", e))?;
        }
        socket.socket_mut().bind_auto().map_err(|e| Error::os("bind(AF_NETLINK)", e))?;
        socket
            .socket_mut()
            .add_membership(NFNLGRP_NFTABLES)
            .map_err(|e| Error::os("setsockopt(NETLINK_ADD_MEMBERSHIP)", e))?;
        Ok(Self { socket, buf: BytesMut::new(), queue: VecDeque::new() })
    }

    /// The next event; several changes of one table that arrive together are one. Losing the future loses no event.
    pub async fn next(&mut self) -> Result<NftEvent, Error> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            self.buf.clear();
            self.buf.reserve(DATAGRAM);
            match self.socket.recv_from(&mut self.buf).await.map_err(|e| Error::os("recv(netlink)", e)) {
                // Only the kernel's own word counts.
                Ok(from) if from == SocketAddr::new(0, from.multicast_groups()) => {
                    for event in Messages(&self.buf).filter_map(|m| parse(m.kind, m.payload)) {
                        if self.queue.back() != Some(&event) {
                            self.queue.push_back(event);
                        }
                    }
                }
                Ok(_) => {}
                Err(Error::Overrun) => return Ok(NftEvent::Overrun),
                Err(error) => return Err(error),
            }
        }
    }

    /// Watches on a thread of its own, in the caller's network namespace, until `sink` answers false.
    pub fn spawn(
        name: &str,
        ignore_ports: &[u32],
        mut sink: impl FnMut(NftEvent) -> bool + Send + 'static,
    ) -> Result<thread::JoinHandle<()>, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|e| Error::os("tokio runtime", e))?;
        let mut watch = {
            let _inside = runtime.enter();
            Self::open(ignore_ports)?
        };
        let run = move || {
            runtime.block_on(async {
                loop {
                    let event = match watch.next().await {
                        Ok(event) => event,
                        Err(error) => {
                            tracing::error!(%error, "cannot read nftables' notifications");
                            thread::sleep(std::time::Duration::from_secs(1));
                            NftEvent::Overrun
                        }
                    };
                    if !sink(event) {
                        return;
                    }
                }
            });
        };
        thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::os("spawn thread", e))
    }
}

impl std::fmt::Debug for NftWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NftWatch").field("queue", &self.queue.len()).finish_non_exhaustive()
    }
}

fn parse(kind: u16, payload: &[u8]) -> Option<NftEvent> {
    if kind >> 8 != SUBSYSTEM || kind & 0xff == NEWGEN {
        return None;
    }
    // Attribute 1 is the table's name in messages about tables, chains, rules, sets, elements, objects and flowtables.
    let table = super::Attrs::after(payload, NFGENMSG).find_kind(1)?.str()?.to_owned();
    Some(NftEvent::Changed { family: *payload.first()?, table })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Batch, Socket, ns::testing};

    fn make_table(socket: &mut Socket, name: &str) {
        let mut batch = Batch::new();
        batch.nfnl_begin(SUBSYSTEM, None);
        batch.add(SUBSYSTEM << 8, 0x400, |w| _ = w.raw(&[1, 0, 0, 0]).attr_str(1, name));
        batch.nfnl_end(SUBSYSTEM);
        assert!(socket.transact_atomic(&mut batch).unwrap().errors.is_empty());
    }

    #[test]
    fn others_changes_are_seen_and_ours_are_not() {
        testing::private(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut ours, mut other) = (Socket::netfilter().unwrap(), Socket::netfilter().unwrap());
                let mut watch = NftWatch::open(&[ours.port().unwrap()]).unwrap();
                make_table(&mut ours, "ours");
                make_table(&mut other, "theirs");
                let want = NftEvent::Changed { family: 1, table: "theirs".into() };
                assert_eq!(watch.next().await.unwrap(), want);
            });
        });
    }
}
