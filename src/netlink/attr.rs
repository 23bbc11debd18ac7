//! Decodes netlink attributes with every length checked.

use std::net::IpAddr;

use super::align4;

/// One attribute. The readers answer `None` when the value has not the size they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr<'a> {
    /// The type without the nested and byte-order flags.
    pub kind: u16,
    /// The value.
    pub data: &'a [u8],
}

impl<'a> Attr<'a> {
    /// An 8-bit value.
    pub fn u8(self) -> Option<u8> {
        self.data.try_into().ok().map(u8::from_ne_bytes)
    }

    /// A 16-bit value in host order.
    pub fn u16(self) -> Option<u16> {
        self.data.try_into().ok().map(u16::from_ne_bytes)
    }

    /// A 32-bit value in host order.
    pub fn u32(self) -> Option<u32> {
        self.data.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A 64-bit value in host order.
    pub fn u64(self) -> Option<u64> {
        self.data.try_into().ok().map(u64::from_ne_bytes)
    }

    /// A 16-bit value in network order.
    pub fn be16(self) -> Option<u16> {
        self.data.try_into().ok().map(u16::from_be_bytes)
    }

    /// A 32-bit value in network order.
    pub fn be32(self) -> Option<u32> {
        self.data.try_into().ok().map(u32::from_be_bytes)
    }

    /// A 64-bit value in network order.
    pub fn be64(self) -> Option<u64> {
        self.data.try_into().ok().map(u64::from_be_bytes)
    }

    /// A string up to its first NUL, if it is UTF-8.
    pub fn str(self) -> Option<&'a str> {
        let bytes = self.data.split(|b| *b == 0).next().unwrap_or_default();
        std::str::from_utf8(bytes).ok()
    }

    /// An IPv4 or IPv6 address, by its length.
    pub fn ip(self) -> Option<IpAddr> {
        if let Ok(v4) = <[u8; 4]>::try_from(self.data) {
            return Some(IpAddr::from(v4));
        }
        <[u8; 16]>::try_from(self.data).ok().map(IpAddr::from)
    }

    /// The attributes inside.
    pub fn nested(self) -> Attrs<'a> {
        Attrs::new(self.data)
    }
}

/// Iterates over a block of attributes; stops at the first whose length leads outside the block.
#[derive(Clone, Debug)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes in `block`.
    pub const fn new(block: &'a [u8]) -> Self {
        Self(block)
    }

    /// The attributes after a fixed header of `header` bytes (aligned to 4); none when the payload is shorter.
    pub fn after(payload: &'a [u8], header: usize) -> Self {
        Self(payload.get(align4(header)..).unwrap_or_default())
    }

    /// The first attribute of a type.
    pub fn find_kind(mut self, kind: u16) -> Option<Attr<'a>> {
        self.find(|a| a.kind == kind)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let (&[l0, l1, k0, k1], _) = self.0.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let data = self.0.get(4..len)?;
        self.0 = self.0.get(align4(len)..).unwrap_or_default();
        // NLA_TYPE_MASK takes off NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        Some(Attr { kind: u16::from_ne_bytes([k0, k1]) & 0x3fff, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Writer;

    #[test]
    fn what_is_written_can_be_read() {
        let mut buf = Vec::new();
        Writer::new(&mut buf)
            .attr_u8(1, 7)
            .attr_str(2, "eth0")
            .nest(3, |w| {
                w.attr_be16(1, 80).attr_ip(2, "fd00::1".parse().unwrap());
            })
            .attr_flag(4);
        assert_eq!(buf.len() % 4, 0);
        let attrs: Vec<_> = Attrs::new(&buf).collect();
        assert_eq!(attrs.iter().map(|a| a.kind).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(attrs[0].u8(), Some(7));
        assert_eq!(attrs[0].u32(), None);
        assert_eq!(attrs[1].str(), Some("eth0"));
        let nested: Vec<_> = attrs[2].nested().collect();
        assert_eq!(nested[0].be16(), Some(80));
        assert_eq!(nested[1].ip(), "fd00::1".parse().ok());
        assert!(attrs[3].data.is_empty());
    }

    #[test]
    fn lengths_that_lead_outside_end_the_iteration() {
        for block in
            [&[][..], &[4], &[3, 0, 1, 0], &[0, 0, 0, 0], &[9, 0, 1, 0, 1, 2, 3, 4], &[255, 255, 1, 0]]
        {
            assert_eq!(Attrs::new(block).count(), 0, "{block:?}");
        }
        // The padding after the last attribute may be missing.
        assert_eq!(Attrs::new(&[5, 0, 1, 0, 9]).map(Attr::u8).collect::<Vec<_>>(), [Some(9)]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(block: Vec<u8>, header in 0usize..64) {
            for attr in Attrs::after(&block, header) {
                let _ = (attr.u8(), attr.u16(), attr.u32(), attr.be64(), attr.str(), attr.ip(), attr.nested().count());
            }
        }
    }
}
