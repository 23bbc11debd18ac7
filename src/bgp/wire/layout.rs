//! Where the parts of an UPDATE are, without looking into them.

use std::ops::Range;

use super::{HEADER_LEN, Reason, code::flag};

/// The three variable fields of an UPDATE (RFC 4271 section 4.3), as ranges of the whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateLayout {
    /// Withdrawn Routes.
    pub withdrawn: Range<usize>,
    /// Path Attributes.
    pub attributes: Range<usize>,
    /// Network Layer Reachability Information.
    pub nlri: Range<usize>,
}

impl UpdateLayout {
    /// Finds the fields in a whole message. The error's number is the offset of the length that does not fit.
    ///
    /// All arithmetic is in usize: the sum of two 16-bit lengths does not fit 16 bits.
    pub fn of(message: &[u8]) -> Result<Self, (Reason, usize)> {
        let (withdrawn, after) = field(message, HEADER_LEN, "withdrawn routes")?;
        let (attributes, after) = field(message, after, "path attributes")?;
        Ok(Self { withdrawn, attributes, nlri: after..message.len() })
    }
}

/// A field with its two-octet length at `at`; the second number is where the next one starts.
fn field(message: &[u8], at: usize, what: &'static str) -> Result<(Range<usize>, usize), (Reason, usize)> {
    let start = at + 2;
    let left = message.len().saturating_sub(start);
    let Some(&[high, low]) = message.get(at..start) else {
        return Err((Reason::UpdateLengthField { what, left: message.len().saturating_sub(at) }, at));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > left {
        return Err((Reason::UpdateLength { what, length, left }, at));
    }
    Ok((start..start + length, start + length))
}

/// A path attribute as it is in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeRef<'a> {
    /// Offset of the flags octet in the message.
    pub offset: usize,
    /// Flags.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// Value.
    pub value: &'a [u8],
}

impl AttributeRef<'_> {
    /// Offset of the value in the message.
    pub const fn value_offset(&self) -> usize {
        self.offset + if self.flags & flag::EXTENDED_LENGTH == 0 { 3 } else { 4 }
    }

    /// The attribute with its header, as a range of the message.
    pub const fn range(&self) -> Range<usize> {
        self.offset..self.value_offset() + self.value.len()
    }
}

/// An attribute that does not fit the block (RFC 7606 section 4). It is the last one that can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeFault {
    /// Offset in the message.
    pub offset: usize,
    /// Its type code, if that much is there.
    pub code: Option<u8>,
    /// What is wrong.
    pub reason: Reason,
}

/// The attributes of a block one after another; ends after the first fault.
#[derive(Clone, Debug)]
pub struct RawAttributes<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> RawAttributes<'a> {
    /// The attributes of `block`, which is at `offset` of its message.
    pub const fn new(block: &'a [u8], offset: usize) -> Self {
        Self { rest: block, offset }
    }
}

impl<'a> Iterator for RawAttributes<'a> {
    type Item = Result<AttributeRef<'a>, AttributeFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() {
            return None;
        }
        let offset = self.offset;
        let (flags, code, length, after) = match *bytes {
            [flags, code, high, low, ref after @ ..] if flags & flag::EXTENDED_LENGTH != 0 => {
                (flags, code, usize::from(u16::from_be_bytes([high, low])), after)
            }
            [flags, code, length, ref after @ ..] if flags & flag::EXTENDED_LENGTH == 0 => {
                (flags, code, usize::from(length), after)
            }
            _ => {
                let reason = Reason::AttributeHeader(bytes.len());
                return Some(Err(AttributeFault { offset, code: bytes.get(1).copied(), reason }));
            }
        };
        let Some((value, rest)) = after.split_at_checked(length) else {
            let reason = Reason::AttributeOverrun { length, left: after.len() };
            return Some(Err(AttributeFault { offset, code: Some(code), reason }));
        };
        self.offset += bytes.len() - rest.len();
        self.rest = rest;
        Some(Ok(AttributeRef { offset, flags, code, value }))
    }
}
