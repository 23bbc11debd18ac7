//! The BFD Control packet (RFC 5880 section 4.1).

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::fmt;

use serde::{Deserialize, Serialize};

/// Octets of a packet without authentication.
pub const PACKET_LEN: usize = 24;

/// Session state (RFC 5880 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// 0: held down by the administrator.
    AdminDown,
    /// 1.
    Down,
    /// 2: the other side is heard, but may not hear us.
    Init,
    /// 3.
    Up,
}

impl State {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// Why the session last went down (RFC 5880 section 4.1); five bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No diagnostic.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The neighbour said it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// The administrator took it down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self.0 {
            0 => "No Diagnostic",
            1 => "Control Detection Time Expired",
            2 => "Echo Function Failed",
            3 => "Neighbor Signaled Session Down",
            4 => "Forwarding Plane Reset",
            5 => "Path Down",
            6 => "Concatenated Path Down",
            7 => "Administratively Down",
            8 => "Reverse Concatenated Path Down",
            _ => "Unknown",
        })
    }
}

/// A BFD Control packet. Intervals are microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag of the packet")]
pub struct ControlPacket {
    /// Why the sender's session last went down.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: an answer with F is wanted.
    pub poll: bool,
    /// F: the answer to P.
    pub final_: bool,
    /// C: the sender's BFD does not share fate with its control plane.
    pub control_plane_independent: bool,
    /// D: the sender wishes no periodic packets while both are up.
    pub demand: bool,
    /// How many packets may be missed.
    pub detect_multiplier: u8,
    /// The sender's discriminator; not 0.
    pub my_discriminator: u32,
    /// The receiver's discriminator, or 0 when the sender does not know it.
    pub your_discriminator: u32,
    /// The interval that the sender would like to use.
    pub desired_min_tx: u32,
    /// The shortest interval that the sender can receive; 0: send nothing periodically.
    pub required_min_rx: u32,
    /// The same for echo packets; 0: no echo.
    pub required_min_echo_rx: u32,
}

/// Why a packet is dropped (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than its own length says, or than a packet is.
    #[error("the packet is too short")]
    Length,
    /// Not version 1.
    #[error("version {0} is not 1")]
    Version(u8),
    /// A detection multiplier of 0.
    #[error("the detection multiplier is 0")]
    Multiplier,
    /// The Multipoint bit.
    #[error("the multipoint bit is set")]
    Multipoint,
    /// My Discriminator is 0.
    #[error("the sender's discriminator is 0")]
    Discriminator,
    /// Authenticated, and no session of ours is.
    #[error("the packet is authenticated")]
    Authenticated,
    /// Your Discriminator is 0 in a state that knows it.
    #[error("the receiver's discriminator is 0 in state {0}")]
    State(State),
}

impl ControlPacket {
    /// Reads and checks a UDP payload, as far as RFC 5880 section 6.8.6 needs no session for it.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let (head, _) = bytes.split_first_chunk::<PACKET_LEN>().ok_or(PacketError::Length)?;
        let [first, second, detect_multiplier, length, ..] = *head;
        let word = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        if first >> 5 != 1 {
            return Err(PacketError::Version(first >> 5));
        }
        if !(PACKET_LEN..=bytes.len()).contains(&usize::from(length)) {
            return Err(PacketError::Length);
        }
        let packet = Self {
            diagnostic: Diagnostic(first & 0x1F),
            state: State::from_bits(second >> 6),
            poll: second & 0x20 != 0,
            final_: second & 0x10 != 0,
            control_plane_independent: second & 0x08 != 0,
            demand: second & 0x02 != 0,
            detect_multiplier,
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx: word(12),
            required_min_rx: word(16),
            required_min_echo_rx: word(20),
        };
        if detect_multiplier == 0 {
            return Err(PacketError::Multiplier);
        }
        if second & 0x01 != 0 {
            return Err(PacketError::Multipoint);
        }
        if packet.my_discriminator == 0 {
            return Err(PacketError::Discriminator);
        }
        if packet.your_discriminator == 0 && !matches!(packet.state, State::Down | State::AdminDown) {
            return Err(PacketError::State(packet.state));
        }
        if second & 0x04 != 0 {
            return Err(PacketError::Authenticated);
        }
        Ok(packet)
    }

    /// The packet's octets.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut bytes = [0; PACKET_LEN];
        bytes[0] = 1 << 5 | self.diagnostic.0 & 0x1F;
        bytes[1] = self.state.bits() << 6
            | flag(self.poll, 0x20)
            | flag(self.final_, 0x10)
            | flag(self.control_plane_independent, 0x08)
            | flag(self.demand, 0x02);
        bytes[2] = self.detect_multiplier;
        bytes[3] = PACKET_LEN as u8;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (part, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}
