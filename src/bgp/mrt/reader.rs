//! Records of a file, one after another (RFC 6396 section 2).

use std::io::{self, Read};

use bytes::Bytes;

use super::kind;

/// Octets of a record header: timestamp, type, subtype, length.
const HEADER_LEN: usize = 12;
/// The longest record that is read. The largest table dump records of today's collectors are far below this.
const MAX_RECORD: usize = 16 << 20;

/// Why a file cannot be read on. Nothing after such a record can be found.
#[derive(Debug, thiserror::Error)]
pub enum MrtError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file ends inside a record.
    #[error("the file ends after {got} of a record's {wanted} octets")]
    Truncated {
        /// Octets there are.
        got: usize,
        /// Octets the record should have, or those of a header.
        wanted: usize,
    },
    /// The length field is beyond what any record has.
    #[error("a record of {0} octets is too long to be one")]
    TooLong(usize),
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MrtRecord {
    /// Seconds since 1970.
    pub seconds: u32,
    /// Microseconds of the second, in the `_ET` types.
    pub microseconds: Option<u32>,
    /// Type.
    pub kind: u16,
    /// Subtype.
    pub subtype: u16,
    /// The message, without the microseconds.
    pub body: Bytes,
    /// Octets of the record that come before `body`.
    pub header_len: usize,
}

/// Reads a file, or any stream.
#[derive(Debug)]
pub struct MrtReader<R> {
    input: R,
    failed: bool,
}

impl<R: Read> MrtReader<R> {
    /// Reads from `input`, which should be buffered.
    pub const fn new(input: R) -> Self {
        Self { input, failed: false }
    }

    /// Whether the first octets of a file may be those of an MRT file.
    pub fn looks_like(head: &[u8]) -> bool {
        // A type that nobody knows is told apart from text by its zeros. UTF-16 has them where the time begins.
        matches!(
            head,
            [_, _, _, _, 0, 11 | 12 | 13 | 16 | 17 | 32 | 33 | 48 | 49, 0, ..]
                | [0x20..=0xFF, _, _, _, 0, _, 0, _, 0, _, _, _]
        )
    }

    fn read(&mut self) -> Result<Option<MrtRecord>, MrtError> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        self.input.by_ref().take(HEADER_LEN as u64).read_to_end(&mut header)?;
        let Ok([t0, t1, t2, t3, k0, k1, s0, s1, l0, l1, l2, l3]) = <[u8; HEADER_LEN]>::try_from(&*header)
        else {
            return match header.len() {
                0 => Ok(None),
                got => Err(MrtError::Truncated { got, wanted: HEADER_LEN }),
            };
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_RECORD {
            return Err(MrtError::TooLong(length));
        }
        // Grows with what arrives: a lying length reserves nothing.
        let mut body = Vec::new();
        self.input.by_ref().take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Err(MrtError::Truncated { got: HEADER_LEN + body.len(), wanted: HEADER_LEN + length });
        }
        let mut record = MrtRecord {
            seconds: u32::from_be_bytes([t0, t1, t2, t3]),
            microseconds: None,
            kind: u16::from_be_bytes([k0, k1]),
            subtype: u16::from_be_bytes([s0, s1]),
            body: body.into(),
            header_len: HEADER_LEN,
        };
        if record.kind == kind::BGP4MP_ET
            && let Some(micros) = record.body.first_chunk::<4>().copied()
        {
            record.microseconds = Some(u32::from_be_bytes(micros));
            record.body = record.body.slice(4..);
            record.header_len += 4;
        }
        Ok(Some(record))
    }
}

impl<R: Read> Iterator for MrtReader<R> {
    type Item = Result<MrtRecord, MrtError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let record = self.read();
        self.failed = record.is_err();
        record.transpose()
    }
}
