//! MRT files.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::IpAddr,
};

use serde::Serialize;

use super::{DecodeArgs, Line, Output, broken, context};
use crate::{
    bgp::{
        mrt::{ForeignRib, MessageRecord, MrtEntry, MrtReader, MrtRecord, PeerIndex, RibEntry, RibRecord},
        wire::{
            Action, AttributesView, Description, Disposition, ErrorView, PeerKind, Reason, WireError,
            WireNextHop, decode_own_rib_attributes, decode_rib_attributes, describe,
        },
    },
    model::{Family, Prefix},
};

#[derive(Serialize)]
struct MrtOrigin {
    /// Which record of the file, from 1; those without routes or messages count too.
    record: u64,
    timestamp: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_asn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_asn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<bool>,
}

impl MrtOrigin {
    fn new(record: &MrtRecord, number: u64) -> Self {
        let micros = record.microseconds.unwrap_or(0);
        let timestamp = f64::from(record.seconds) + f64::from(micros) / 1e6;
        Self {
            record: number,
            timestamp,
            peer: None,
            peer_asn: None,
            local: None,
            local_asn: None,
            sent: None,
        }
    }

    fn of_message(record: &MrtRecord, number: u64, message: &MessageRecord) -> Self {
        Self {
            peer: message.peer,
            peer_asn: Some(message.peer_asn),
            local: message.local,
            local_asn: Some(message.local_asn),
            sent: Some(message.sent),
            ..Self::new(record, number)
        }
    }
}

impl std::fmt::Display for MrtOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6}", self.timestamp)?;
        if let Some(peer) = self.peer {
            write!(f, " {peer}")?;
        }
        if let Some(asn) = self.peer_asn {
            write!(f, " AS{asn}")?;
        }
        Ok(())
    }
}

/// A route of a table dump.
#[derive(Serialize)]
struct RibLine {
    #[serde(rename = "type")]
    kind: &'static str,
    length: usize,
    afi: u16,
    safi: u8,
    prefix: Prefix,
    path_id: Option<u32>,
    originated: u32,
    next_hop: Option<IpAddr>,
    link_local: Option<IpAddr>,
    attributes: AttributesView,
    disposition: String,
    errors: Vec<ErrorView>,
    #[serde(flatten)]
    origin: MrtOrigin,
}

impl std::fmt::Display for RibLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: RIB {} {} +{}", self.origin, self.length, self.disposition, self.prefix)?;
        if let Some(next_hop) = self.next_hop {
            write!(f, " via={next_hop}")?;
        }
        write!(f, "{}", self.attributes)?;
        for error in &self.errors {
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Routes of a family that is not decoded.
#[derive(Serialize)]
struct ForeignRibLine {
    #[serde(rename = "type")]
    kind: &'static str,
    length: usize,
    afi: u16,
    safi: u8,
    prefix: Option<Prefix>,
    raw: String,
    disposition: String,
    errors: Vec<ErrorView>,
    #[serde(flatten)]
    origin: MrtOrigin,
}

impl std::fmt::Display for ForeignRibLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: RIB {} {}", self.origin, self.length, self.disposition)?;
        self.errors.iter().try_for_each(|error| write!(f, "{error}"))
    }
}

pub(super) fn decode<W: Write>(
    args: &DecodeArgs,
    input: impl Read,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    let base = context(args);
    let mut peers: Option<PeerIndex> = None;
    let mut unknown: BTreeMap<(u16, u16), u64> = BTreeMap::new();
    // Where the next record begins in the file.
    let mut at: usize = 0;
    for (number, record) in (1..).zip(MrtReader::new(input)) {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                return broken(&format!("record {number}, at octet {at} of the file: {error}"), out);
            }
        };
        let begins = at;
        at += record.header_len + record.body.len();
        match record.entry() {
            None => {
                let reason = format!(
                    "malformed MRT record of type {}, subtype {}, at octet {begins} of the file",
                    record.kind, record.subtype
                );
                let message = Description::invalid(&reason, record.header_len);
                out.line(&Line { message, origin: MrtOrigin::new(&record, number) })?;
            }
            Some(MrtEntry::PeerIndex(index)) => peers = Some(index),
            Some(MrtEntry::Rib(rib)) => {
                for entry in &rib.entries {
                    out.line(&rib_line((&record, number), &rib, entry, peers.as_ref()))?;
                }
            }
            Some(MrtEntry::ForeignRib(rib)) => out.line(&foreign_line(&record, number, &rib))?,
            Some(MrtEntry::Message(message)) => {
                let mut ctx = message.context(base);
                // The record knows better than the default, and the command line better than the record.
                if message.is_internal() && !args.ebgp {
                    ctx.peer = PeerKind::Internal;
                }
                let described = describe(&ctx, &message.message);
                out.line(&Line {
                    message: described,
                    origin: MrtOrigin::of_message(&record, number, &message),
                })?;
            }
            // No BGP message.
            Some(MrtEntry::StateChange(_) | MrtEntry::Other) => {}
            Some(MrtEntry::Unknown) => *unknown.entry((record.kind, record.subtype)).or_default() += 1,
        }
    }
    for ((kind, subtype), count) in unknown {
        out.note(format!(
            "{count} records of type {kind}, subtype {subtype}, which is not known, were passed over"
        ));
    }
    Ok(())
}

fn foreign_line(record: &MrtRecord, number: u64, rib: &ForeignRib) -> ForeignRibLine {
    let error = WireError::new(
        Action::Discard,
        Reason::Family { afi: rib.afi, safi: rib.safi },
        None,
        // After the record's header and the sequence number.
        record.header_len + 4,
    );
    ForeignRibLine {
        kind: "RIB",
        length: rib.rest.len(),
        afi: rib.afi,
        safi: rib.safi,
        prefix: None,
        raw: ::hex::encode(&rib.rest),
        disposition: Disposition::from(error.action).to_string(),
        errors: vec![ErrorView::from(&error)],
        origin: MrtOrigin::new(record, number),
    }
}

fn rib_line(
    (record, number): (&MrtRecord, u64),
    rib: &RibRecord,
    entry: &RibEntry,
    peers: Option<&PeerIndex>,
) -> RibLine {
    let by_index = |peers: &PeerIndex| {
        peers.peers.get(usize::from(entry.peer_index)).map(|peer| (peer.address, peer.asn))
    };
    let peer = entry.peer.or_else(|| peers.and_then(by_index));
    // No peer has AS 0: it stands for the collector itself, in the dumps of BIRD.
    let mut decoded = if peer.is_some_and(|(_, asn)| asn == 0) {
        decode_own_rib_attributes(rib.four_octet, &entry.attributes)
    } else {
        decode_rib_attributes(rib.four_octet, &entry.attributes)
    };
    let mut errors: Vec<ErrorView> = decoded.errors.iter().map(ErrorView::from).collect();
    for error in &mut errors {
        error.offset += entry.offset;
    }
    if peer.is_none() {
        let reason = match peers {
            Some(peers) => format!(
                "there is no peer {} among the {} of the peer index table",
                entry.peer_index,
                peers.peers.len()
            ),
            None => "no peer index table has come before".to_owned(),
        };
        errors.insert(0, ErrorView::of_file(reason, entry.begins));
        decoded.disposition = decoded.disposition.max(Disposition::Discard);
    }
    let link_local = match decoded.next_hop {
        Some(WireNextHop::V6LinkLocal { link_local, .. }) => Some(IpAddr::V6(link_local)),
        _ => None,
    };
    RibLine {
        kind: "RIB",
        length: entry.attributes.len(),
        afi: match rib.prefix.family() {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        },
        safi: rib.safi,
        prefix: rib.prefix,
        path_id: entry.path_id,
        originated: entry.originated,
        next_hop: decoded.next_hop.map(WireNextHop::global),
        link_local,
        attributes: AttributesView::from(&decoded.attributes)
            .with_next_hop(decoded.next_hop)
            .with_path_if(decoded.has_as_path),
        disposition: Disposition::to_string(&decoded.disposition),
        errors,
        origin: MrtOrigin {
            peer: peer.map(|(address, _)| address),
            peer_asn: peer.map(|(_, asn)| asn),
            ..MrtOrigin::new(record, number)
        },
    }
}
