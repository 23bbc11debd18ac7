//! Many netlink messages, encoded one after another, that go to the kernel together.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;

use super::{Error, NLMSG_HDRLEN, Writer, align4};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` of linux/netfilter/nfnetlink.h.
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

/// Messages to be sent together. Message `i` of the batch is the `i` of every error that comes back.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    buf: Vec<u8>,
    starts: Vec<u32>,
    too_long: Option<(usize, u16)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buf: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Appends a message of type `kind` with `flags` (`NLM_F_REQUEST` is added) whose payload `fill` writes.
    /// Returns the message's index.
    pub fn add(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer<'_>)) -> usize {
        let start = self.open(kind, flags);
        let mut writer = Writer::new(&mut self.buf);
        fill(&mut writer);
        let too_long = writer.too_long();
        self.close(start, too_long)
    }

    /// Appends a message of the `netlink-packet-route` crate. Returns the message's index.
    pub fn push_route(&mut self, message: RouteNetlinkMessage, flags: u16) -> usize {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let start = self.open(message.header.message_type, flags);
        let len = message.buffer_len();
        self.buf.resize(start + len, 0);
        message.header.flags = flags | NLM_F_REQUEST;
        message.serialize(&mut self.buf[start..]);
        self.close(start, None)
    }

    /// Appends the message that opens an nfnetlink transaction for a subsystem (`NFNL_SUBSYS_NFTABLES` is 10).
    /// `generation`: refuse with `ERESTART` unless the rule set still has this generation id.
    pub fn nfnl_begin(&mut self, subsystem: u16, generation: Option<u32>) -> usize {
        self.add(NFNL_MSG_BATCH_BEGIN, 0, |w| {
            let [hi, lo] = subsystem.to_be_bytes();
            // struct nfgenmsg: family, version, resource id in network order.
            w.raw(&[0, 0, hi, lo]);
            if let Some(id) = generation {
                w.attr_be32(1, id); // NFNL_BATCH_GENID
            }
        })
    }

    /// Appends the message that commits an nfnetlink transaction.
    pub fn nfnl_end(&mut self, subsystem: u16) -> usize {
        self.add(NFNL_MSG_BATCH_END, 0, |w| {
            let [hi, lo] = subsystem.to_be_bytes();
            w.raw(&[0, 0, hi, lo]);
        })
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The encoded size in bytes.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// Forgets all messages and keeps the memory.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.starts.clear();
        self.too_long = None;
    }

    fn open(&mut self, kind: u16, flags: u16) -> usize {
        let start = self.buf.len();
        self.starts.push(start as u32);
        let mut header = [0; NLMSG_HDRLEN];
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.buf.extend_from_slice(&header);
        start
    }

    fn close(&mut self, start: usize, too_long: Option<u16>) -> usize {
        let index = self.starts.len() - 1;
        let len = (self.buf.len() - start) as u32;
        self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.buf.resize(align4(self.buf.len()), 0);
        if let Some(kind) = too_long {
            self.too_long.get_or_insert((index, kind));
        }
        index
    }

    /// Numbers the messages from `first` on and refuses a batch with an attribute that did not fit.
    pub(super) fn seal(&mut self, first: u32) -> Result<(), Error> {
        if let Some((index, kind)) = self.too_long {
            return Err(Error::AttributeTooLong { index, kind });
        }
        for (i, start) in self.starts.iter().enumerate() {
            let at = *start as usize + 8;
            self.buf[at..at + 4].copy_from_slice(&first.wrapping_add(i as u32).to_ne_bytes());
        }
        Ok(())
    }

    /// Sets flags on one message.
    pub(super) fn set_flags(&mut self, index: usize, flags: u16) {
        let Some(start) = self.starts.get(index) else { return };
        let at = *start as usize + 6;
        let flags = u16::from_ne_bytes([self.buf[at], self.buf[at + 1]]) | flags;
        self.buf[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The end (exclusive) of the run of messages that starts at `from` and stays within both limits; at least one.
    pub(super) fn chunk_end(&self, from: usize, max_messages: usize, max_bytes: usize) -> usize {
        let base = self.start_of(from);
        let most = self.len().min(from + max_messages);
        let mut end = from + 1;
        while end < most && self.start_of(end + 1) - base <= max_bytes {
            end += 1;
        }
        end.min(self.len())
    }

    /// The encoded bytes of messages `from..to`.
    pub(super) fn slice(&self, from: usize, to: usize) -> &[u8] {
        &self.buf[self.start_of(from)..self.start_of(to)]
    }

    fn start_of(&self, index: usize) -> usize {
        self.starts.get(index).map_or(self.buf.len(), |s| *s as usize)
    }
}
