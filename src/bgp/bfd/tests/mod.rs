//! Packets and sessions, with a clock that only tests move.

mod pair;
mod random;
mod sessions;

use proptest::prelude::*;

use super::{ControlPacket, Diagnostic, PacketError, State};

fn packet() -> ControlPacket {
    ControlPacket {
        diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
        state: State::Up,
        poll: true,
        final_: false,
        control_plane_independent: true,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 0x0102_0304,
        your_discriminator: 0x0506_0708,
        desired_min_tx: 300_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    }
}

#[test]
fn octets_of_a_packet() {
    let golden = "23e80318 01020304 05060708 000493e0 0000c350 00000000".replace(' ', "");
    assert_eq!(hex::encode(packet().encode()), golden);
    assert_eq!(ControlPacket::decode(&packet().encode()), Ok(packet()));
}

#[test]
fn packets_to_drop() {
    let good = packet().encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        ControlPacket::decode(&bytes)
    };
    for cut in 0..good.len() {
        assert_eq!(ControlPacket::decode(&good[..cut]), Err(PacketError::Length));
    }
    assert_eq!(with(0, 0x03), Err(PacketError::Version(0)));
    assert_eq!(with(0, 0x43), Err(PacketError::Version(2)));
    assert_eq!(with(1, 0xC1), Err(PacketError::Multipoint));
    assert_eq!(with(1, 0xC4), Err(PacketError::Authenticated));
    assert_eq!(with(2, 0), Err(PacketError::Multiplier));
    assert_eq!(with(3, 23), Err(PacketError::Length));
    assert_eq!(with(3, 25), Err(PacketError::Length));
    let zero_mine = ControlPacket { my_discriminator: 0, ..packet() };
    assert_eq!(ControlPacket::decode(&zero_mine.encode()), Err(PacketError::Discriminator));
    for state in [State::AdminDown, State::Down, State::Init, State::Up] {
        let zero_yours = ControlPacket { your_discriminator: 0, state, ..packet() };
        let expected = match state {
            State::AdminDown | State::Down => Ok(zero_yours),
            State::Init | State::Up => Err(PacketError::State(state)),
        };
        assert_eq!(ControlPacket::decode(&zero_yours.encode()), expected);
    }
    // Padding after the packet is no matter.
    assert_eq!(ControlPacket::decode(&[&good[..], &[0; 30]].concat()), Ok(packet()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_octets(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(packet) = ControlPacket::decode(&bytes) {
            prop_assert_eq!(ControlPacket::decode(&packet.encode()), Ok(packet));
        }
    }
}
