//! MRT files.

use std::{
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
            WireNextHop, decode_rib_attributes, describe,
        },
    },
    model::{Family, Prefix},
};

#[derive(Serialize)]
struct MrtOrigin {
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
    fn new(record: &MrtRecord) -> Self {
        let micros = record.microseconds.unwrap_or(0);
        let timestamp = f64::from(record.seconds) + f64::from(micros) / 1e6;
        Self { timestamp, peer: None, peer_asn: None, local: None, local_asn: None, sent: None }
    }

    fn of_message(record: &MrtRecord, message: &MessageRecord) -> Self {
        Self {
            peer: message.peer,
            peer_asn: Some(message.peer_asn),
            local: message.local,
            local_asn: Some(message.local_asn),
            sent: Some(message.sent),
            ..Self::new(record)
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
    for record in MrtReader::new(input) {
        let record = match record {
            Ok(record) => record,
            Err(error) => return broken(&error.to_string(), out),
        };
        match record.entry() {
            None => {
                let message = Description::invalid("malformed MRT record", record.header_len);
                out.line(&Line { message, origin: MrtOrigin::new(&record) })?;
            }
            Some(MrtEntry::PeerIndex(index)) => peers = Some(index),
            Some(MrtEntry::Rib(rib)) => {
                for entry in &rib.entries {
                    out.line(&rib_line(&record, &rib, entry, peers.as_ref()))?;
                }
            }
            Some(MrtEntry::ForeignRib(rib)) => out.line(&foreign_line(&record, &rib))?,
            Some(MrtEntry::Message(message)) => {
                let mut ctx = message.context(base);
                // The record knows better than the default, and the command line better than the record.
                if message.is_internal() && !args.ebgp {
                    ctx.peer = PeerKind::Internal;
                }
                let described = describe(&ctx, &message.message);
                out.line(&Line { message: described, origin: MrtOrigin::of_message(&record, &message) })?;
            }
            // No BGP message.
            Some(MrtEntry::StateChange(_) | MrtEntry::Other) => {}
        }
    }
    Ok(())
}

fn foreign_line(record: &MrtRecord, rib: &ForeignRib) -> ForeignRibLine {
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
        origin: MrtOrigin::new(record),
    }
}

fn rib_line(record: &MrtRecord, rib: &RibRecord, entry: &RibEntry, peers: Option<&PeerIndex>) -> RibLine {
    let mut decoded = decode_rib_attributes(rib.four_octet, &entry.attributes);
    let by_index = |peers: &PeerIndex| {
        peers.peers.get(usize::from(entry.peer_index)).map(|peer| (peer.address, peer.asn))
    };
    let peer = entry.peer.or_else(|| peers.and_then(by_index));
    if peer.is_some_and(|(_, asn)| asn == 0) {
        // The collector's own route, as BIRD dumps it: no peer has AS 0, and nobody has sent attributes that could miss.
        decoded.errors.retain(|error| !matches!(error.reason, Reason::MissingAttribute(_)));
        let actions = decoded.errors.iter().map(|error| Disposition::from(error.action));
        decoded.disposition = actions.max().unwrap_or_default();
    }
    let mut errors: Vec<ErrorView> = decoded.errors.iter().map(ErrorView::from).collect();
    for error in &mut errors {
        error.offset += entry.offset;
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
        attributes: AttributesView::from(&decoded.attributes).with_next_hop(decoded.next_hop),
        disposition: Disposition::to_string(&decoded.disposition),
        errors,
        origin: MrtOrigin {
            peer: peer.map(|(address, _)| address),
            peer_asn: peer.map(|(_, asn)| asn),
            ..MrtOrigin::new(record)
        },
    }
}
