//! TCP MD5 (RFC 2385) and TCP-AO (RFC 5925): which keys are on which socket.
//!
//! A neighbour with keys is never talked to without them: where the kernel has no TCP-AO, dialling fails and accepted
//! connections are refused, with the reason.

use std::{collections::BTreeSet, io, net::IpAddr};

use tokio::net::{TcpListener, TcpStream};

use super::socket::named;
use crate::{
    bgp::config::{PeerAddress, PeerSettings, SpeakerConfig, TcpAoKey},
    model::{Family, Ipv6Prefix, Prefix},
    netlink::{
        sockopt,
        tcp_ao::{self, InUse},
    },
};

/// What a listener knows of the peers inside a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Md5(String),
    Ao(Vec<TcpAoKey>),
}

impl Keys {
    fn of(settings: &PeerSettings) -> Option<Self> {
        match &settings.password {
            Some(key) => Some(Self::Md5(key.0.clone())),
            None if settings.tcp_ao.is_empty() => None,
            None => Some(Self::Ao(settings.tcp_ao.clone())),
        }
    }
}

/// What the kernel says, in words that help.
fn explain(error: io::Error, what: &str) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
        return io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel has no TCP-AO (Linux 6.7 with CONFIG_TCP_AO): no session without authentication",
        );
    }
    named(error, what)
}

fn kernel_key(key: &TcpAoKey) -> tcp_ao::Key<'_> {
    tcp_ao::Key {
        algorithm: key.algorithm,
        send_id: key.send_id,
        receive_id: key.receive_id,
        secret: key.secret.0.as_bytes(),
    }
}

fn add(socket: &impl std::os::fd::AsFd, peers: Prefix, key: &TcpAoKey, first: bool) -> io::Result<()> {
    tcp_ao::add_key(socket, peers, kernel_key(key), first)
        .map_err(|e| explain(e, &format!("TCP-AO key {} for {peers}", key.send_id)))
}

fn delete(
    socket: &impl std::os::fd::AsFd,
    peers: Prefix,
    key: &TcpAoKey,
    instead: Option<InUse>,
) -> io::Result<()> {
    tcp_ao::delete_key(socket, peers, (key.send_id, key.receive_id), instead)
        .map_err(|e| explain(e, &format!("TCP-AO key {} for {peers}", key.send_id)))
}

/// Gives a socket that is going to dial the keys of its peer. The first one of TCP-AO is used.
pub(super) fn before_dial(
    socket: &impl std::os::fd::AsFd,
    to: IpAddr,
    peer: &PeerSettings,
) -> io::Result<()> {
    if let Some(key) = &peer.password {
        sockopt::set_tcp_md5(socket, Prefix::host(to), Some(key.0.as_bytes()))
            .map_err(|e| named(e, "TCP MD5 key"))?;
    }
    for (i, key) in peer.tcp_ao.iter().enumerate() {
        add(socket, Prefix::host(to), key, i == 0)?;
    }
    Ok(())
}

/// Refuses an accepted connection that is not authenticated although its peer has TCP-AO keys.
pub(super) fn accepted(stream: &TcpStream, peer: &PeerSettings) -> io::Result<()> {
    if peer.tcp_ao.is_empty() || tcp_ao::has_keys(stream).map_err(|e| explain(e, "TCP-AO"))? {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "a connection without TCP-AO"))
}

/// Brings the keys of a connection from `old` to `new`, which have one in common: new ones first, then the peer is asked
/// for the one that is listed first, then old ones go.
pub(super) fn roll_over(stream: &TcpStream, old: &[TcpAoKey], new: &[TcpAoKey]) -> io::Result<()> {
    let peer = Prefix::host(super::socket::canonical(stream.peer_addr()?).ip());
    for key in new.iter().filter(|key| !old.contains(key)) {
        add(stream, peer, key, false)?;
    }
    let Some(first) = new.first() else { return Ok(()) };
    tcp_ao::ask_for_key(stream, first.receive_id).map_err(|e| explain(e, "TCP-AO"))?;
    // What is deleted must not be in use: by now both sides know the others.
    let instead = Some(InUse { current: first.send_id, next: first.receive_id });
    for key in old.iter().filter(|key| !new.contains(key)) {
        // Fails where the connection has its keys from a listener, by the prefix of a range: then it begins anew.
        delete(stream, peer, key, instead)?;
    }
    Ok(())
}

/// Whether a running connection can go from the `old` keys to the `new` ones: there is one that both sides have, and no
/// identifier changes its meaning.
pub(super) fn can_roll_over(old: &[TcpAoKey], new: &[TcpAoKey]) -> bool {
    let clash =
        |a: &TcpAoKey, b: &TcpAoKey| a != b && (a.send_id == b.send_id || a.receive_id == b.receive_id);
    new.iter().any(|key| old.contains(key)) && !old.iter().any(|a| new.iter().any(|b| clash(a, b)))
}

/// Sets the keys of all peers and ranges on a listener; `before` are those it has.
///
/// Returns what the listener has now, for the next call. A kernel without TCP-AO is no error here: [`accepted`] refuses.
pub(super) fn set_listener_keys(
    listener: &TcpListener,
    config: &SpeakerConfig,
    before: &[(Prefix, Keys)],
) -> io::Result<Vec<(Prefix, Keys)>> {
    let family = Family::of(listener.local_addr()?.ip());
    let mut after = keys(config, family);
    for (prefix, keys) in before.iter().filter(|known| !after.contains(known)) {
        // Gone already is as good; a key that stays among others is added again below.
        match keys {
            Keys::Md5(_) => drop(sockopt::set_tcp_md5(listener, *prefix, None)),
            Keys::Ao(list) => list.iter().for_each(|key| drop(delete(listener, *prefix, key, None))),
        }
    }
    let mut unsupported = BTreeSet::new();
    for (prefix, keys) in after.iter().filter(|wanted| !before.contains(wanted)) {
        let set = match keys {
            Keys::Md5(key) => sockopt::set_tcp_md5(listener, *prefix, Some(key.as_bytes()))
                .map_err(|e| named(e, &format!("TCP MD5 key for {prefix}"))),
            Keys::Ao(list) => list.iter().try_for_each(|key| add(listener, *prefix, key, false)),
        };
        match set {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::error!(peers = %prefix, %error, "TCP-AO");
                unsupported.insert(*prefix);
            }
            other => other?,
        }
    }
    after.retain(|(prefix, _)| !unsupported.contains(prefix));
    Ok(after)
}

fn keys(config: &SpeakerConfig, family: Family) -> Vec<(Prefix, Keys)> {
    let of_peer = |address: &PeerAddress| match address {
        PeerAddress::Ip(addr) => Prefix::host(*addr),
        PeerAddress::LinkLocal { addr, .. } => Prefix::host(IpAddr::V6(*addr)),
        // Whoever is on the link: link-local addresses.
        PeerAddress::Interface(_) => {
            Prefix::V6(Ipv6Prefix::new(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10))
        }
    };
    let peers = config.peers.iter().map(|peer| (of_peer(&peer.address), &peer.settings));
    let ranges = config.listen_ranges.iter().map(|range| (range.prefix, &range.settings));
    // A host key of a range's prefix is the listed peer's.
    let mut seen = BTreeSet::new();
    let known = peers.chain(ranges).filter_map(|(prefix, settings)| Some((prefix, Keys::of(settings)?)));
    known.filter(|(prefix, _)| prefix.family() == family && seen.insert(*prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::config::Secret;

    fn key(send_id: u8, receive_id: u8, secret: &str) -> TcpAoKey {
        TcpAoKey {
            send_id,
            receive_id,
            algorithm: tcp_ao::Algorithm::default(),
            secret: Secret(secret.into()),
        }
    }

    #[test]
    fn which_keys_can_be_rolled_over() {
        // Keys by letters; x and y are others under the numbers of b and of what a receives.
        let chain = |letters: &str| -> Vec<TcpAoKey> {
            let of = |letter| match letter {
                'a' => key(1, 1, "a"),
                'b' => key(2, 2, "b"),
                'c' => key(3, 3, "c"),
                'x' => key(2, 2, "x"),
                _ => key(5, 1, "y"),
            };
            letters.chars().map(of).collect()
        };
        for (old, new, can) in [
            ("a", "ab", true),
            ("ab", "ba", true),
            ("ab", "bc", true),
            ("a", "b", false),
            ("a", "", false),
            ("", "a", false),
            // The other side cannot know when.
            ("ab", "ax", false),
            ("a", "ay", false),
        ] {
            assert_eq!(can_roll_over(&chain(old), &chain(new)), can, "{old} to {new}");
        }
    }
}
