//! Packets of pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng) files.

use std::{
    io::{self, Read},
    time::Duration,
};

/// The largest packet or block that is read.
const MAX_BLOCK: usize = 16 << 20;

/// Why a capture cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither pcap nor pcapng.
    #[error("this is neither a pcap nor a pcapng file")]
    Magic,
    /// The file ends inside a packet.
    #[error("the capture ends inside a packet")]
    Truncated,
    /// A length that no packet has.
    #[error("a block of {0} octets is no packet's")]
    Length(usize),
}

/// A captured packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When, since 1970.
    pub(super) time: Option<Duration>,
    /// Link type (LINKTYPE_*).
    pub(super) link: u16,
    /// The packet from its link header on.
    pub(super) data: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    snap_len: usize,
    /// Time units in a second.
    resolution: u64,
}

/// What a pcapng block holds.
#[derive(Debug)]
enum Block {
    Packet(Packet),
    NoPacket,
    End,
}

#[derive(Debug)]
enum Format {
    Unknown,
    Pcap { little: bool, nanoseconds: bool, link: u16 },
    PcapNg { little: bool, interfaces: Vec<Interface> },
    Ended,
}

/// Reads the packets of a file.
#[derive(Debug)]
pub struct PacketReader<R> {
    input: R,
    format: Format,
}

impl<R: Read> PacketReader<R> {
    /// Reads from `input`, which should be buffered.
    pub const fn new(input: R) -> Self {
        Self { input, format: Format::Unknown }
    }

    /// Whether the first octets of a file are those of a capture.
    pub fn looks_like(head: &[u8]) -> bool {
        let Some(magic) = head.first_chunk::<4>() else { return false };
        *magic == PCAPNG || pcap_magic(*magic).is_some()
    }

    fn octets(&mut self, n: usize) -> Result<Vec<u8>, CaptureError> {
        if n > MAX_BLOCK {
            return Err(CaptureError::Length(n));
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(n as u64).read_to_end(&mut bytes)?;
        if bytes.len() == n { Ok(bytes) } else { Err(CaptureError::Truncated) }
    }

    /// `n` octets, or nothing at the end of the file.
    fn octets_or_end(&mut self, n: usize) -> Result<Option<Vec<u8>>, CaptureError> {
        let mut first = [0];
        if self.input.read(&mut first)? == 0 {
            return Ok(None);
        }
        let mut bytes = first.to_vec();
        bytes.extend(self.octets(n - 1)?);
        Ok(Some(bytes))
    }

    fn read(&mut self) -> Result<Option<Packet>, CaptureError> {
        loop {
            match &self.format {
                Format::Unknown => {
                    let Some(magic) = self.octets_or_end(4)? else { return Ok(None) };
                    let magic = *magic.first_chunk::<4>().ok_or(CaptureError::Magic)?;
                    if magic == PCAPNG {
                        self.format = self.section()?;
                    } else {
                        let (little, nanoseconds) = pcap_magic(magic).ok_or(CaptureError::Magic)?;
                        let rest = self.octets(20)?;
                        // The upper bits tell the length of a frame check sequence.
                        let link = u32_at(&rest, 16, little).ok_or(CaptureError::Truncated)? as u16;
                        self.format = Format::Pcap { little, nanoseconds, link };
                    }
                }
                Format::Pcap { .. } => return self.pcap_packet(),
                Format::PcapNg { .. } => match self.block()? {
                    Block::Packet(packet) => return Ok(Some(packet)),
                    Block::NoPacket => {}
                    Block::End => return Ok(None),
                },
                Format::Ended => return Ok(None),
            }
        }
    }

    fn pcap_packet(&mut self) -> Result<Option<Packet>, CaptureError> {
        let Format::Pcap { little, nanoseconds, link } = self.format else { return Ok(None) };
        let Some(header) = self.octets_or_end(16)? else { return Ok(None) };
        let field = |at| u32_at(&header, at, little).ok_or(CaptureError::Truncated);
        let (seconds, fraction, length) = (field(0)?, field(4)?, field(8)? as usize);
        let nanos = u64::from(fraction) * if nanoseconds { 1 } else { 1000 };
        let time = Duration::from_secs(u64::from(seconds)) + Duration::from_nanos(nanos);
        Ok(Some(Packet { time: Some(time), link, data: self.octets(length)? }))
    }

    /// The rest of a section header, after its type.
    fn section(&mut self) -> Result<Format, CaptureError> {
        let head = self.octets(8)?;
        let little = match head.get(4..8) {
            Some([0x4D, 0x3C, 0x2B, 0x1A]) => true,
            Some([0x1A, 0x2B, 0x3C, 0x4D]) => false,
            _ => return Err(CaptureError::Magic),
        };
        let length = u32_at(&head, 0, little).ok_or(CaptureError::Truncated)? as usize;
        self.octets(length.checked_sub(12).ok_or(CaptureError::Length(length))?)?;
        Ok(Format::PcapNg { little, interfaces: Vec::new() })
    }

    /// One block.
    fn block(&mut self) -> Result<Block, CaptureError> {
        let Some(kind) = self.octets_or_end(4)? else { return Ok(Block::End) };
        if kind == PCAPNG {
            self.format = self.section()?;
            return Ok(Block::NoPacket);
        }
        let Format::PcapNg { little, .. } = self.format else { return Ok(Block::End) };
        let kind = u32_at(&kind, 0, little).ok_or(CaptureError::Truncated)?;
        let length = u32_at(&self.octets(4)?, 0, little).ok_or(CaptureError::Truncated)? as usize;
        let body = self.octets(length.checked_sub(12).ok_or(CaptureError::Length(length))?)?;
        self.octets(4)?;
        let Format::PcapNg { interfaces, .. } = &mut self.format else { return Ok(Block::End) };
        let packet = match kind {
            1 => {
                interfaces.extend(interface(&body, little));
                None
            }
            3 => simple_packet(&body, little, interfaces),
            6 => enhanced_packet(&body, little, interfaces),
            _ => None,
        };
        Ok(packet.map_or(Block::NoPacket, Block::Packet))
    }
}

impl<R: Read> Iterator for PacketReader<R> {
    type Item = Result<Packet, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let packet = self.read();
        if packet.is_err() {
            self.format = Format::Ended;
        }
        packet.transpose()
    }
}

const PCAPNG: [u8; 4] = [0x0A, 0x0D, 0x0D, 0x0A];

/// Little endian, and nanoseconds.
const fn pcap_magic(magic: [u8; 4]) -> Option<(bool, bool)> {
    match magic {
        [0xD4, 0xC3, 0xB2, 0xA1] => Some((true, false)),
        [0xA1, 0xB2, 0xC3, 0xD4] => Some((false, false)),
        [0x4D, 0x3C, 0xB2, 0xA1] => Some((true, true)),
        [0xA1, 0xB2, 0x3C, 0x4D] => Some((false, true)),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize, little: bool) -> Option<u32> {
    let octets = bytes.get(at..)?.first_chunk::<4>().copied()?;
    Some(if little { u32::from_le_bytes(octets) } else { u32::from_be_bytes(octets) })
}

fn u16_at(bytes: &[u8], at: usize, little: bool) -> Option<u16> {
    let octets = bytes.get(at..)?.first_chunk::<2>().copied()?;
    Some(if little { u16::from_le_bytes(octets) } else { u16::from_be_bytes(octets) })
}

fn interface(body: &[u8], little: bool) -> Option<Interface> {
    let link = u16_at(body, 0, little)?;
    let snap_len = u32_at(body, 4, little)? as usize;
    let mut resolution = 1_000_000;
    let mut at = 8;
    while let (Some(code), Some(length)) = (u16_at(body, at, little), u16_at(body, at + 2, little)) {
        // Option 9, if_tsresol: a power of 10, or of 2 with the high bit.
        if let (9, Some(&value)) = (code, body.get(at + 4)) {
            let exponent = u32::from(value & 0x7F);
            let base: u64 = if value & 0x80 == 0 { 10 } else { 2 };
            resolution = base.checked_pow(exponent).unwrap_or(resolution);
        }
        if code == 0 {
            break;
        }
        at += 4 + usize::from(length).next_multiple_of(4);
    }
    Some(Interface { link, snap_len, resolution })
}

fn enhanced_packet(body: &[u8], little: bool, interfaces: &[Interface]) -> Option<Packet> {
    let interface = interfaces.get(u32_at(body, 0, little)? as usize)?;
    let units = u64::from(u32_at(body, 4, little)?) << 32 | u64::from(u32_at(body, 8, little)?);
    let length = u32_at(body, 12, little)? as usize;
    let data = body.get(20..)?.get(..length)?.to_vec();
    let nanos = u128::from(units % interface.resolution) * 1_000_000_000 / u128::from(interface.resolution);
    let time = Duration::new(units / interface.resolution, nanos as u32);
    Some(Packet { time: Some(time), link: interface.link, data })
}

fn simple_packet(body: &[u8], little: bool, interfaces: &[Interface]) -> Option<Packet> {
    let interface = interfaces.first()?;
    let mut length = u32_at(body, 0, little)? as usize;
    if interface.snap_len != 0 {
        length = length.min(interface.snap_len);
    }
    let data = body.get(4..)?.get(..length)?.to_vec();
    Some(Packet { time: None, link: interface.link, data })
}
