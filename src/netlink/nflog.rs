//! Packets that nftables' `log group` hands over (linux/netfilter/nfnetlink_log.h).

use std::time::Duration;

use super::{Batch, Error, Socket, socket::Messages};

/// `NFNL_SUBSYS_ULOG`.
const SUBSYSTEM: u16 = 4;
const PACKET: u16 = SUBSYSTEM << 8;
const CONFIG: u16 = SUBSYSTEM << 8 | 1;
/// `struct nfgenmsg`.
const NFGENMSG: usize = 4;
/// As much of a packet as headers can need.
const SNAP: u32 = 256;

/// A packet that a rule logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggedPacket {
    /// The rule's prefix.
    pub prefix: String,
    /// The index of the interface it came in by.
    pub iif: Option<u32>,
    /// The index of the interface it goes out by.
    pub oif: Option<u32>,
    /// Its beginning, from the network header.
    pub bytes: Vec<u8>,
}

/// The listener of one group. A group has at most one in a network namespace.
#[derive(Debug)]
pub struct NfLog {
    socket: Socket,
}

impl NfLog {
    /// Listens to a group in the calling thread's network namespace.
    pub fn open(group: u16) -> Result<Self, Error> {
        let mut socket = Socket::netfilter()?;
        let [high, low] = group.to_be_bytes();
        // struct nfgenmsg: family, version, the group in network order.
        let header = [0, 0, high, low];
        let mut batch = Batch::new();
        batch.add(CONFIG, 0, |w| _ = w.raw(&header).attr(1, &[1])); // NFULA_CFG_CMD: BIND
        socket.execute(&mut batch)?;
        let mut batch = Batch::new();
        batch.add(CONFIG, 0, |w| {
            let mut mode = SNAP.to_be_bytes().to_vec();
            mode.extend([2, 0]); // NFULNL_COPY_PACKET, padding
            w.raw(&header).attr(2, &mode); // NFULA_CFG_MODE
            w.attr_be32(5, 1); // NFULA_CFG_QTHRESH: hand over each packet at once
        });
        socket.execute(&mut batch)?;
        Ok(Self { socket })
    }

    /// The next packets, or none after waiting so long.
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<LoggedPacket>, Error> {
        self.socket.set_timeout(timeout)?;
        match self.socket.datagram() {
            Ok(datagram) => Ok(Messages(datagram)
                .filter(|m| m.kind == PACKET)
                .map(|m| {
                    let mut packet = LoggedPacket::default();
                    for attr in m.attrs(NFGENMSG) {
                        match attr.kind {
                            4 => packet.iif = attr.be32(),          // NFULA_IFINDEX_INDEV
                            5 => packet.oif = attr.be32(),          // NFULA_IFINDEX_OUTDEV
                            9 => packet.bytes = attr.data.to_vec(), // NFULA_PAYLOAD
                            10 => attr.str().unwrap_or_default().clone_into(&mut packet.prefix), // NFULA_PREFIX
                            _ => {}
                        }
                    }
                    packet
                })
                .collect()),
            Err(Error::Timeout | Error::Overrun) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
