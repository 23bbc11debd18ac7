//! Encodes netlink payloads: fixed headers, attributes, nests.

use std::net::IpAddr;

use super::align4;

/// `NLA_F_NESTED` of linux/netlink.h.
const NLA_F_NESTED: u16 = 1 << 15;
/// `struct nlattr` is 4 bytes: length and type.
const NLA_HDRLEN: usize = 4;

/// Appends to one netlink message. Lengths and padding are kept right by construction; an attribute that outgrows
/// its 16-bit length is remembered and refused when the batch is sent.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut Vec<u8>,
    start: usize,
    too_long: Option<u16>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(buf: &'a mut Vec<u8>) -> Self {
        let start = buf.len();
        Self { buf, start, too_long: None }
    }

    /// The first attribute that did not fit, if any.
    pub(super) fn too_long(&self) -> Option<u16> {
        self.too_long
    }

    /// Bytes written so far, without the message header.
    #[expect(clippy::len_without_is_empty, reason = "a position, not a container's")]
    pub fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Appends a fixed header (`struct rtmsg`, `struct nfgenmsg` …) and pads it to 4 bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self.pad()
    }

    /// Appends an attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let Ok(len) = u16::try_from(NLA_HDRLEN + value.len()) else {
            self.too_long.get_or_insert(kind);
            return self;
        };
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad()
    }

    /// Appends an attribute without a value (a flag).
    pub fn attr_flag(&mut self, kind: u16) -> &mut Self {
        self.attr(kind, &[])
    }

    /// Appends an 8-bit attribute.
    pub fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// Appends a 16-bit attribute in host order.
    pub fn attr_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit attribute in host order.
    pub fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a 64-bit attribute in host order.
    pub fn attr_u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a 16-bit attribute in network order.
    pub fn attr_be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a 32-bit attribute in network order.
    pub fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a 64-bit attribute in network order.
    pub fn attr_be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a NUL-terminated string attribute.
    pub fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an address attribute of 4 or 16 bytes.
    pub fn attr_ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }

    /// Appends a nested attribute (with `NLA_F_NESTED`) whose content `fill` writes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        self.nest_with(kind | NLA_F_NESTED, fill)
    }

    /// Like [`Self::nest`] without the `NLA_F_NESTED` flag, for the few places that want it bare.
    pub fn nest_bare(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        self.nest_with(kind, fill)
    }

    fn nest_with(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let at = self.buf.len();
        self.buf.extend_from_slice(&[0, 0]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        match u16::try_from(self.buf.len() - at) {
            Ok(len) => self.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => {
                self.too_long.get_or_insert(kind & !NLA_F_NESTED);
            }
        }
        self.pad()
    }

    fn pad(&mut self) -> &mut Self {
        // Messages start aligned in the buffer, so aligning the buffer aligns within the message.
        self.buf.resize(align4(self.buf.len()), 0);
        self
    }
}
