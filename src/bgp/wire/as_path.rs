//! AS_PATH: reading, writing, and joining with AS4_PATH (RFC 6793).

use std::fmt;

use bytes::{BufMut, BytesMut};
use nom::{
    IResult, Parser,
    multi::count,
    number::complete::{be_u8, be_u16, be_u32},
};

use super::{AsPath, AsSegment, AsSegmentKind, Reason};
use crate::model::Asn;

/// The most AS numbers a segment holds on the wire.
const MAX_SEGMENT: usize = 255;

impl AsSegmentKind {
    /// The segment type on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfedSequence => 3,
            Self::ConfedSet => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Set,
            2 => Self::Sequence,
            3 => Self::ConfedSequence,
            4 => Self::ConfedSet,
            _ => return None,
        })
    }

    /// Whether the segment belongs to a confederation (RFC 5065): no part of the path's length.
    pub const fn is_confed(self) -> bool {
        matches!(self, Self::ConfedSequence | Self::ConfedSet)
    }
}

impl AsPath {
    /// A path of one AS_SEQUENCE; empty when there are no numbers.
    pub fn sequence(asns: impl Into<Vec<u32>>) -> Self {
        let asns = asns.into();
        if asns.is_empty() {
            return Self::default();
        }
        Self { segments: vec![AsSegment { kind: AsSegmentKind::Sequence, asns }] }
    }

    /// Takes the first AS number away if it is this one.
    pub fn strip_first(&mut self, asn: u32) {
        if let Some(first) = self.segments.first_mut()
            && first.kind == AsSegmentKind::Sequence
            && first.asns.first() == Some(&asn)
        {
            first.asns.remove(0);
            if first.asns.is_empty() {
                self.segments.remove(0);
            }
        }
    }

    /// The length for the decision process: a set counts 1 (RFC 4271 section 9.1.2.2 a), confederations 0 (RFC 5065).
    pub fn hop_count(&self) -> usize {
        self.segments.iter().map(AsSegment::hop_count).sum()
    }
}

impl AsSegment {
    fn hop_count(&self) -> usize {
        match self.kind {
            AsSegmentKind::Sequence => self.asns.len(),
            AsSegmentKind::Set => 1,
            AsSegmentKind::ConfedSequence | AsSegmentKind::ConfedSet => 0,
        }
    }
}

impl fmt::Display for AsPath {
    /// `65001 65002 {65003,65004} (65100) [65101,65102]`: sequence, set, confederation sequence and set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.segments.iter().enumerate() {
            let (open, separator, close) = match segment.kind {
                AsSegmentKind::Sequence => ("", " ", ""),
                AsSegmentKind::Set => ("{", ",", "}"),
                AsSegmentKind::ConfedSequence => ("(", " ", ")"),
                AsSegmentKind::ConfedSet => ("[", ",", "]"),
            };
            f.write_str(if i == 0 { "" } else { " " })?;
            f.write_str(open)?;
            for (j, asn) in segment.asns.iter().enumerate() {
                write!(f, "{}{asn}", if j == 0 { "" } else { separator })?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

/// Reads a path. The error's number is the offset in `value` of the segment at fault, or of its AS 0.
pub(super) fn decode(value: &[u8], four_octet: bool) -> Result<AsPath, (Reason, usize)> {
    let mut rest = value;
    let mut segments = Vec::new();
    while let Some(&kind) = rest.first() {
        let at = value.len() - rest.len();
        let kind = AsSegmentKind::from_code(kind).ok_or((Reason::AsPathSegment(kind), at))?;
        let (after, asns) = segment(rest, four_octet).map_err(|_| (Reason::AsPathOverrun, at))?;
        // RFC 7606 section 7.2: a segment without AS numbers is malformed; RFC 7607 section 2: so is AS 0.
        if asns.is_empty() {
            return Err((Reason::AsPathEmptySegment, at));
        }
        if let Some(i) = asns.iter().position(|asn| *asn == 0) {
            return Err((Reason::AsPathZero, at + 2 + i * width(four_octet)));
        }
        segments.push(AsSegment { kind, asns });
        rest = after;
    }
    Ok(AsPath { segments })
}

/// Octets of an AS number.
const fn width(four_octet: bool) -> usize {
    if four_octet { 4 } else { 2 }
}

/// Where the first segment of a confederation is in the attribute that this path was read from.
pub(super) fn confed_at(path: &AsPath, four_octet: bool) -> Option<usize> {
    let first = path.segments.iter().position(|s| s.kind.is_confed())?;
    Some(path.segments[..first].iter().map(|s| 2 + s.asns.len() * width(four_octet)).sum())
}

fn segment(bytes: &[u8], four_octet: bool) -> IResult<&[u8], Vec<u32>, ()> {
    let (rest, (_, n)) = (be_u8, be_u8).parse(bytes)?;
    // Bounds first, so that a lying count cannot make us reserve memory.
    if rest.len() < usize::from(n) * width(four_octet) {
        return Err(nom::Err::Error(()));
    }
    if four_octet {
        count(be_u32, usize::from(n)).parse(rest)
    } else {
        count(be_u16.map(u32::from), usize::from(n)).parse(rest)
    }
}

/// Joins AS_PATH and AS4_PATH of an old speaker (RFC 6793 section 4.2.3).
///
/// AS4_PATH replaces the tail of AS_PATH; when it is the longer one it cannot be right and is ignored.
pub(super) fn merge(path: AsPath, as4: AsPath) -> AsPath {
    let Some(mut lead) = path.hop_count().checked_sub(as4.hop_count()) else { return path };
    let mut segments: Vec<AsSegment> = Vec::new();
    for mut segment in path.segments {
        // Confederation segments are never in AS4_PATH: those before or next to the lead are kept.
        if segment.kind.is_confed() {
            segments.push(segment);
            continue;
        }
        if lead == 0 {
            break;
        }
        if segment.kind == AsSegmentKind::Sequence {
            segment.asns.truncate(lead);
        }
        lead -= segment.hop_count();
        segments.push(segment);
    }
    // A sequence that was cut in two becomes one again.
    let mut tail = as4.segments.into_iter();
    if let Some(first) = tail.next() {
        match segments.last_mut() {
            Some(last)
                if last.kind == AsSegmentKind::Sequence
                    && first.kind == AsSegmentKind::Sequence
                    && last.asns.len() + first.asns.len() <= MAX_SEGMENT =>
            {
                last.asns.extend(first.asns);
            }
            _ => segments.push(first),
        }
    }
    segments.extend(tail);
    AsPath { segments }
}

/// Octets of the encoded path; segments of more than 255 numbers are split.
pub(super) fn encoded_len(path: &AsPath, four_octet: bool) -> usize {
    let width = width(four_octet);
    path.segments.iter().map(|s| s.asns.len().div_ceil(MAX_SEGMENT) * 2 + s.asns.len() * width).sum()
}

/// Appends the path; numbers that do not fit two octets become AS_TRANS.
pub(super) fn encode(path: &AsPath, four_octet: bool, out: &mut BytesMut) {
    for segment in &path.segments {
        for asns in segment.asns.chunks(MAX_SEGMENT) {
            out.put_slice(&[segment.kind.code(), asns.len() as u8]);
            for &asn in asns {
                if four_octet {
                    out.put_u32(asn);
                } else {
                    out.put_u16(two_octet(asn));
                }
            }
        }
    }
}

/// The number, or AS_TRANS when it does not fit (RFC 6793 section 4.2.2).
pub(super) fn two_octet(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(Asn::TRANS.get() as u16)
}

/// The AS4_PATH to send along with a two-octet AS_PATH; `None` when nothing was lost.
pub(super) fn as4_path(path: &AsPath) -> Option<AsPath> {
    // RFC 6793 section 4.2.2: confederation segments never go into AS4_PATH.
    let plain = || path.segments.iter().filter(|s| !s.kind.is_confed());
    plain()
        .any(|s| s.asns.iter().any(|&a| a > u32::from(u16::MAX)))
        .then(|| AsPath { segments: plain().cloned().collect() })
}
