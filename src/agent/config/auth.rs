//! `password` and `tcp_ao` of a peer: how its connection is authenticated.

use std::path::Path;

use super::{bgp::with, file, locate::Step, resolve::Errors};
use crate::{
    bgp::config::{PeerAddress, Secret, SpeakerConfig, TcpAoKey},
    netlink::tcp_ao::{Algorithm, MAX_SECRET},
};

/// A secret that is given as text or in a file, relative to `base`.
fn secret(
    text: Option<&String>,
    file: Option<&Path>,
    [text_key, file_key]: [&str; 2],
    base: &Path,
    place: &[Step<'_>],
    errors: &mut Errors<'_>,
) -> Option<Secret> {
    let (key, text) = match (text, file) {
        (Some(_), Some(_)) => {
            errors.at(&with(place, file_key), format!("give either `{text_key}` or `{file_key}`, not both"));
            return None;
        }
        (Some(text), None) => (text_key, text.clone()),
        (None, Some(file)) => match std::fs::read_to_string(base.join(file)) {
            Ok(text) => (file_key, text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                errors.at(&with(place, file_key), format!("cannot read {}: {error}", file.display()));
                return None;
            }
        },
        (None, None) => return None,
    };
    // TCP_MD5SIG_MAXKEYLEN and TCP_AO_MAXKEYLEN of linux/tcp.h are the same.
    if text.is_empty() || text.len() > MAX_SECRET {
        errors.at(&with(place, key), format!("`{key}` has 1 to {MAX_SECRET} bytes"));
    }
    Some(Secret(text))
}

/// The key of TCP MD5.
pub(super) fn password(
    peer: &file::Peer,
    base: &Path,
    place: &[Step<'_>],
    errors: &mut Errors<'_>,
) -> Option<Secret> {
    let (text, file) = (peer.password.as_ref(), peer.password_file.as_deref());
    secret(text, file, ["password", "password_file"], base, place, errors)
}

/// The keys of TCP-AO.
pub(super) fn tcp_ao(
    peer: &file::Peer,
    base: &Path,
    place: &[Step<'_>],
    errors: &mut Errors<'_>,
) -> Vec<TcpAoKey> {
    let Some(list) = &peer.tcp_ao else { return Vec::new() };
    let place = with(place, "tcp_ao");
    if peer.password.is_some() || peer.password_file.is_some() {
        errors.at(&place, "tcp_ao and a TCP MD5 password exclude each other");
    }
    if list.is_empty() {
        errors.at_with_help(&place, "tcp_ao has no key", "add one: { id = 1, secret = \"…\" }");
    }
    let mut keys: Vec<TcpAoKey> = Vec::new();
    for (i, key) in list.iter().enumerate() {
        let place: Vec<_> = place.iter().copied().chain([Step::Index(i)]).collect();
        let (Some(send_id), Some(receive_id)) = (key.send_id.or(key.id), key.receive_id.or(key.id)) else {
            errors.at_with_help(
                &place,
                "this key has no id",
                "add `id = 1`, or `send_id` and `receive_id` where the neighbour numbers keys otherwise",
            );
            continue;
        };
        let (text, file) = (key.secret.as_ref(), key.secret_file.as_deref());
        if text.is_none() && file.is_none() {
            errors.at(&place, "this key has neither `secret` nor `secret_file`");
        }
        if keys.iter().any(|other| other.send_id == send_id || other.receive_id == receive_id) {
            errors
                .at(&place, format!("another key has the send id {send_id} or the receive id {receive_id}"));
        }
        let algorithm = match key.algorithm {
            file::TcpAoAlgorithm::HmacSha1 => Algorithm::HmacSha1,
            file::TcpAoAlgorithm::Aes128Cmac => Algorithm::Aes128Cmac,
        };
        let Some(secret) = secret(text, file, ["secret", "secret_file"], base, &place, errors) else {
            continue;
        };
        keys.push(TcpAoKey { send_id, receive_id, algorithm, secret });
    }
    keys
}

/// The kernel knows either TCP MD5 or TCP-AO for an address: a listed peer and the range around it agree on one.
pub(super) fn check_ranges(config: &SpeakerConfig, errors: &mut Errors<'_>) {
    for (i, range) in config.listen_ranges.iter().enumerate() {
        for peer in &config.peers {
            let PeerAddress::Ip(addr) = peer.address else { continue };
            let (a, b) = (&range.settings, &peer.settings);
            let mixed =
                !a.tcp_ao.is_empty() && b.password.is_some() || a.password.is_some() && !b.tcp_ao.is_empty();
            if mixed && range.prefix.contains_addr(addr) {
                errors.at(
                    &[Step::Key("bgp"), Step::Key("listen_range"), Step::Index(i)],
                    format!("the range holds the peer {addr}: one of them uses TCP MD5 and the other TCP-AO"),
                );
            }
        }
    }
}
