//! Packet captures.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::SocketAddr,
};

use serde::Serialize;

use super::{DecodeArgs, Line, Output, broken, context};
use crate::{
    bgp::{
        capture::Messages,
        wire::{self, Capability, DecodeContext, Message, Open, PeerKind, describe_decoded},
    },
    model::Family,
};

#[derive(Serialize)]
struct CaptureOrigin {
    timestamp: Option<f64>,
    source: String,
    destination: String,
}

impl std::fmt::Display for CaptureOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(timestamp) = self.timestamp {
            write!(f, "{timestamp:.6} ")?;
        }
        write!(f, "{} > {}", self.source, self.destination)
    }
}

pub(super) fn decode<W: Write>(
    args: &DecodeArgs,
    input: impl Read,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    let mut sessions = Sessions { args, base: context(args), opens: HashMap::new() };
    for message in Messages::new(input, args.port) {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                broken(&error.to_string(), out)?;
                continue;
            }
        };
        let origin = CaptureOrigin {
            timestamp: message.time.map(|t| t.as_secs_f64()),
            source: message.source.to_string(),
            destination: message.destination.to_string(),
        };
        let ctx = sessions.context(message.source, message.destination);
        let decoded = wire::decode(&ctx, &message.message);
        out.line(&Line { message: describe_decoded(&ctx, &message.message, &decoded), origin })?;
        if let Some(Message::Open(open)) = decoded.message {
            sessions.opens.insert((message.source, message.destination), open);
        }
    }
    Ok(())
}

/// What the OPENs of a capture have negotiated.
struct Sessions<'a> {
    args: &'a DecodeArgs,
    base: DecodeContext,
    opens: HashMap<(SocketAddr, SocketAddr), Open>,
}

impl Sessions<'_> {
    /// How to read what `source` sends: what the command line says comes first, then what both OPENs say.
    fn context(&self, source: SocketAddr, destination: SocketAddr) -> DecodeContext {
        let mut ctx = self.base;
        let (Some(sender), Some(receiver)) =
            (self.opens.get(&(source, destination)), self.opens.get(&(destination, source)))
        else {
            return ctx;
        };
        let both = |test: fn(&Capability) -> bool| {
            [sender, receiver].iter().all(|open| open.capabilities.iter().any(test))
        };
        ctx.extended_message |= both(|c| *c == Capability::ExtendedMessage);
        // An OPEN without any capability may be made by hand, and says too little to leave the default.
        let telling = [sender, receiver].iter().any(|open| !open.capabilities.is_empty());
        if telling && !both(|c| matches!(c, Capability::FourOctetAs(_))) {
            ctx.four_octet = false;
        }
        // RFC 7911 section 4: the sender offers to send (2 or 3), the receiver to receive (1 or 3).
        let modes = |open: &Open, family: Family| {
            let wanted = match family {
                Family::Ipv4 => (1, 1),
                Family::Ipv6 => (2, 1),
            };
            let lists = open.capabilities.iter().filter_map(|c| match c {
                Capability::AddPath(list) => Some(list),
                _ => None,
            });
            lists.flatten().find(|(afi, safi, _)| (*afi, *safi) == wanted).map_or(0, |(_, _, mode)| *mode)
        };
        for family in [Family::Ipv4, Family::Ipv6] {
            ctx.add_path[family] |= modes(sender, family) & 2 != 0 && modes(receiver, family) & 1 != 0;
        }
        // RFC 6286 section 2.1: in one AS the identifiers differ.
        if !self.args.ebgp && asn(sender) == asn(receiver) && sender.router_id != receiver.router_id {
            ctx.peer = PeerKind::Internal;
        }
        ctx
    }
}

fn asn(open: &Open) -> u32 {
    let four_octet = open.capabilities.iter().find_map(|c| match c {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    });
    four_octet.unwrap_or(u32::from(open.my_as))
}
