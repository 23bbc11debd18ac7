//! Captures put together by hand.

use super::{
    packet::{ACK, SYN},
    *,
};

/// A keepalive, and an UPDATE of 23 octets.
fn two_messages() -> Vec<u8> {
    hex::decode("ffffffffffffffffffffffffffffffff001304ffffffffffffffffffffffffffffffff00170200000000")
        .unwrap()
}

/// An IPv4 TCP segment from port 179 to 40000, or back.
fn ip4(back: bool, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0];
    p.extend((40 + payload.len() as u16).to_be_bytes());
    p.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    let (source, destination) = if back { ([2], [1]) } else { ([1], [2]) };
    p.extend([192, 0, 2]);
    p.extend(source);
    p.extend([192, 0, 2]);
    p.extend(destination);
    p.extend(tcp(back, sequence, flags, payload));
    p
}

fn tcp(back: bool, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination): (u16, u16) = if back { (40000, 179) } else { (179, 40000) };
    let mut t = Vec::new();
    t.extend(source.to_be_bytes());
    t.extend(destination.to_be_bytes());
    t.extend(sequence.to_be_bytes());
    t.extend([0; 4]);
    t.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    t.extend(payload);
    t
}

fn ip6(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let tcp = tcp(false, sequence, ACK, payload);
    let mut p = vec![0x60, 0, 0, 0];
    // A hop-by-hop header in between.
    p.extend((8 + tcp.len() as u16).to_be_bytes());
    p.extend([0, 64]);
    p.extend([0xFD; 16]);
    p.extend([0xFC; 16]);
    p.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    p.extend(tcp);
    p
}

/// A pcap file of packets with one link type.
fn pcap(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut f = vec![0xD4, 0xC3, 0xB2, 0xA1, 2, 0, 4, 0];
    f.extend([0; 8]);
    f.extend(65535_u32.to_le_bytes());
    f.extend(link.to_le_bytes());
    for (i, packet) in packets.iter().enumerate() {
        f.extend(1_700_000_000_u32.to_le_bytes());
        f.extend((i as u32).to_le_bytes());
        f.extend((packet.len() as u32).to_le_bytes());
        f.extend((packet.len() as u32).to_le_bytes());
        f.extend(packet);
    }
    f
}

fn messages(file: &[u8]) -> Vec<Vec<u8>> {
    Messages::new(file, 179).map(|m| m.unwrap().message).collect()
}

fn expected() -> Vec<Vec<u8>> {
    let both = two_messages();
    vec![both[..19].to_vec(), both[19..].to_vec()]
}

#[test]
fn every_link_type() {
    let ip = ip4(false, 1, ACK, &two_messages());
    let with = |head: &[u8], ip: &[u8]| [head, ip].concat();
    let cases = [
        (1, with(&[&[0; 12][..], &[8, 0]].concat(), &ip)),
        (1, with(&[&[0; 12][..], &[0x88, 0xA8, 0, 1, 0x81, 0, 0, 2, 8, 0]].concat(), &ip)),
        (1, with(&[&[0; 12][..], &[0x86, 0xDD]].concat(), &ip6(1, &two_messages()))),
        (0, with(&[2, 0, 0, 0], &ip)),
        // PPP: whole, without address and control, with the protocol in one octet, MPLS in it; HDLC of both kinds.
        (9, with(&[0xFF, 3, 0, 0x21], &ip)),
        (9, with(&[0, 0x57], &ip6(1, &two_messages()))),
        (9, with(&[0x21], &ip)),
        (9, with(&[0xFF, 3, 2, 0x81, 0, 0, 0x50, 0, 0, 0, 0x61, 64], &ip)),
        (50, with(&[0xFF, 3, 0, 0x21], &ip)),
        (50, with(&[0x0F, 0, 8, 0], &ip)),
        (104, with(&[0x0F, 0, 0x86, 0xDD], &ip6(1, &two_messages()))),
        (104, with(&[0x0F, 0, 0x88, 0x47, 0, 0, 0x51, 64], &ip)),
        (1, with(&[&[0; 12][..], &[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 2, 0x81, 0, 0, 0x51, 64]].concat(), &ip)),
        (12, ip.clone()),
        (14, ip.clone()),
        (101, ip.clone()),
        (228, ip.clone()),
        (229, ip6(1, &two_messages())),
        (113, with(&[&[0; 14][..], &[8, 0]].concat(), &ip)),
        (276, with(&[&[8, 0][..], &[0; 18]].concat(), &ip)),
    ];
    for (link, packet) in cases {
        assert_eq!(messages(&pcap(link, std::slice::from_ref(&packet))), expected(), "link type {link}");
        for cut in 0..packet.len() {
            messages(&pcap(link, &[packet[..cut].to_vec()]));
        }
    }
    // Not TCP, a piece of a datagram, another port.
    let mut udp = ip.clone();
    udp[9] = 17;
    let mut fragment = ip.clone();
    fragment[6] = 0x20;
    let mut other = ip;
    other[20..24].copy_from_slice(&[0, 80, 0, 81]);
    assert_eq!(messages(&pcap(101, &[udp, fragment, other])), Vec::<Vec<u8>>::new());
}

#[test]
fn segments_in_any_order_sent_again_and_overlapping() {
    let both = two_messages();
    let start = u32::MAX - 10; // the sequence number wraps on the way
    let at = |range: std::ops::Range<usize>| {
        ip4(false, start.wrapping_add(1).wrapping_add(range.start as u32), ACK, &both[range])
    };
    let syn = ip4(false, start, SYN, &[]);
    let orders = [
        vec![at(0..5), at(5..30), at(30..42)],
        vec![at(5..30), at(30..42), at(0..5)],
        vec![at(30..42), at(0..10), at(5..30), at(0..42)],
        vec![at(0..10), at(0..20), at(25..42), at(15..30)],
        vec![at(1..42), at(0..1), at(0..42)],
    ];
    for order in orders {
        let packets = [vec![syn.clone()], order].concat();
        assert_eq!(messages(&pcap(101, &packets)), expected());
    }
}

#[test]
fn directions_are_apart_and_in_order_of_completion() {
    let both = two_messages();
    let packets =
        [ip4(false, 1, ACK, &both[..10]), ip4(true, 9, ACK, &both[..19]), ip4(false, 11, ACK, &both[10..19])];
    let got: Vec<_> = Messages::new(&pcap(101, &packets)[..], 179).map(|m| m.unwrap()).collect();
    let sources: Vec<_> = got.iter().map(|m| m.source.port()).collect();
    assert_eq!(sources, [40000, 179]);
    assert_eq!(got[1].time, Some(Duration::new(1_700_000_000, 2000)));
}

#[test]
fn a_capture_that_starts_or_loses_in_the_middle() {
    let both = two_messages();
    // It starts inside a message: that one is lost, the next ones are not.
    let packets = [ip4(false, 1, ACK, &both[7..])];
    assert_eq!(messages(&pcap(101, &packets)), expected()[1..]);
    // A segment never comes: what follows it is found at the end.
    let packets = [
        ip4(false, 0, SYN, &[]),
        ip4(false, 1, ACK, &both[..19]),
        ip4(false, 30, ACK, &both[..10]),
        ip4(false, 40, ACK, &both[10..]),
    ];
    let got = messages(&pcap(101, &packets));
    assert_eq!(got, [&expected()[..1], &expected()[..]].concat());
}

#[test]
fn bad_headers_are_shown_and_passed_by() {
    let both = two_messages();
    let mut marker = both.clone();
    marker[3] = 0;
    let mut length = both.clone();
    length[17] = 5;
    let mut kind = both.clone();
    kind[18] = 77;
    for bad in [marker, length, kind] {
        let packets = [ip4(false, 0, SYN, &[]), ip4(false, 1, ACK, &bad), ip4(true, 1, ACK, &both)];
        let got = messages(&pcap(101, &packets));
        assert_eq!(got, [&[bad[..19].to_vec()][..], &expected()[1..], &expected()[..]].concat());
    }
    // The capture ends inside a message.
    let packets = [ip4(false, 0, SYN, &[]), ip4(false, 1, ACK, &both[..40])];
    assert_eq!(messages(&pcap(101, &packets)), [both[..19].to_vec(), both[19..40].to_vec()]);
}

#[test]
fn pcapng() {
    let block = |kind: u32, body: &[u8]| {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = (12 + body.len() as u32).to_be_bytes();
        [&kind.to_be_bytes()[..], &length, &body, &length].concat()
    };
    let ip = ip4(false, 1, ACK, &two_messages());
    let section = block(0x0A0D_0D0A, &[&[0x1A, 0x2B, 0x3C, 0x4D, 0, 1, 0, 0][..], &[0xFF; 8]].concat());
    // Nanoseconds, by option 9.
    let interface = block(1, &[0, 101, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
    let length = (ip.len() as u32).to_be_bytes();
    let time = 1_700_000_000_000_000_007_u64.to_be_bytes();
    let packet = block(6, &[&[0; 4][..], &time, &length, &length, &ip].concat());
    let simple = block(3, &[&length[..], &ip4(true, 1, ACK, &two_messages())].concat());
    let unknown = block(5, &[0; 12]);
    let file = [section.clone(), interface.clone(), unknown, packet.clone(), simple].concat();
    let got: Vec<_> = Messages::new(&file[..], 179).map(|m| m.unwrap()).collect();
    assert_eq!(got.len(), 4);
    assert_eq!(got[0].time, Some(Duration::new(1_700_000_000, 7)));
    assert_eq!(got[2].time, None);
    for cut in 0..file.len() {
        assert!(Messages::new(&file[..cut], 179).count() < 10);
    }
    // Two sections in one file.
    let twice = [section, interface, packet].concat().repeat(2);
    assert_eq!(PacketReader::new(&twice[..]).count(), 2);
}

/// The same packet, cut into fragments of so many octets.
fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(size);
    let cut = |(i, piece): (usize, &[u8])| {
        let mut p = [header, piece].concat();
        p[2..4].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
        let more = if i + 1 < count { 0x2000 } else { 0 };
        p[6..8].copy_from_slice(&(more | (i * size / 8) as u16).to_be_bytes());
        p
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// The same in IPv6, without other extension headers.
fn fragments6(tcp: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = tcp.len().div_ceil(size);
    let cut = |(i, piece): (usize, &[u8])| {
        let place = (i * size) as u16 | u16::from(i + 1 < count);
        let mut p = vec![0x60, 0, 0, 0];
        p.extend((8 + piece.len() as u16).to_be_bytes());
        p.extend([44, 64]);
        p.extend([0xFD; 16]);
        p.extend([0xFC; 16]);
        p.extend([6, 0]);
        p.extend(place.to_be_bytes());
        p.extend([0, 0, 0, 7]);
        p.extend(piece);
        p
    };
    tcp.chunks(size).enumerate().map(cut).collect()
}

#[test]
fn fragments_are_joined_in_any_order() {
    let packet = ip4(false, 1, ACK, &two_messages());
    let whole = fragments(&packet, 24);
    assert_eq!(whole.len(), 3);
    let mut back = whole.clone();
    back.reverse();
    let twice: Vec<_> = whole.iter().flat_map(|p| [p.clone(), p.clone()]).collect();
    let whole6 = fragments6(&tcp(false, 1, ACK, &two_messages()), 32);
    for packets in [whole.clone(), back, twice, whole6] {
        assert_eq!(messages(&pcap(101, &packets)), expected());
    }
    // Of another datagram, or one of them missing.
    let mut other = whole.clone();
    other[1][5] = 9;
    assert_eq!(messages(&pcap(101, &other)), Vec::<Vec<u8>>::new());
    assert_eq!(messages(&pcap(101, &whole[..2])), Vec::<Vec<u8>>::new());
    for packet in &whole {
        for cut in 0..packet.len() {
            messages(&pcap(101, &[packet[..cut].to_vec()]));
        }
    }
}

/// GRE and IP in IP, one in another, and in fragments.
#[test]
fn tunnels_are_opened() {
    let ip = ip4(false, 1, ACK, &two_messages());
    let ip6 = ip6(1, &two_messages());
    let ethernet = [&[0; 12][..], &[8, 0], &ip].concat();
    let outer = |protocol: u8, payload: &[u8]| {
        let mut p = ip4(true, 0, 0, &[]);
        p.truncate(20);
        p[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        p[9] = protocol;
        p.extend(payload);
        p
    };
    let gre = |head: &[u8], payload: &[u8]| outer(47, &[head, payload].concat());
    let cases = [
        outer(4, &ip),
        outer(41, &ip6),
        gre(&[0, 0, 8, 0], &ip),
        gre(&[0, 0, 0x86, 0xDD], &ip6),
        gre(&[0xB0, 0, 8, 0, 1, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9], &ip),
        gre(&[0, 0, 0x88, 0x47, 0, 0, 0x51, 64], &ip),
        gre(&[0, 0, 0x65, 0x58], &ethernet),
        gre(&[0, 0, 0x88, 0xBE], &ethernet),
        gre(&[0x10, 0, 0x88, 0xBE, 0, 0, 0, 1, 0x10, 1, 0, 2, 0, 0, 0, 3], &ethernet),
        gre(&[&[0x10, 0, 0x22, 0xEB, 0, 0, 0, 1][..], &[0; 12]].concat(), &ethernet),
        outer(4, &gre(&[0, 0, 8, 0], &outer(4, &ip))),
    ];
    for (i, packet) in cases.iter().enumerate() {
        assert_eq!(messages(&pcap(101, std::slice::from_ref(packet))), expected(), "case {i}");
        assert_eq!(messages(&pcap(101, &fragments(packet, 16))), expected(), "case {i} in fragments");
        for cut in 0..packet.len() {
            messages(&pcap(101, &[packet[..cut].to_vec()]));
        }
    }
    // However deep, it ends.
    let deep = (0..500).fold(ip, |inner, _| outer(4, &inner));
    assert_eq!(messages(&pcap(101, &[deep])), Vec::<Vec<u8>>::new());
}

/// What was held back for a gap comes with the time at which it was captured, and says how much is missing; each message
/// has no more memory than it needs.
#[test]
fn a_gap_costs_what_is_missing_only() {
    let keepalive = &two_messages()[..19];
    let mut packets = vec![ip4(false, 0, SYN, &[]), ip4(false, 1, ACK, keepalive)];
    // The second is missing.
    packets.extend((2..2000_u32).map(|i| ip4(false, 1 + i * 19, ACK, keepalive)));
    let got: Vec<_> = Messages::new(&pcap(101, &packets)[..], 179).map(|m| m.unwrap()).collect();
    assert_eq!(got.len(), 1999);
    assert!(got.iter().all(|m| m.message == keepalive && m.message.capacity() < 64));
    assert_eq!(got.iter().map(|m| m.missing).sum::<u64>(), 19);
    assert_eq!((got[0].missing, got[1].missing), (0, 19));
    for (i, message) in got.iter().enumerate() {
        assert_eq!(message.time, Some(Duration::new(1_700_000_000, (i as u32 + 1) * 1000)));
    }
}
