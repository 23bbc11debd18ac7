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
        wire::{
            self, Capability, DecodeContext, Decoded, Message, Open, PeerKind, code::attribute::AS_PATH,
            describe_decoded,
        },
    },
    model::Family,
};

#[derive(Serialize)]
struct CaptureOrigin {
    timestamp: Option<f64>,
    source: String,
    destination: String,
    /// Octets of the stream that the capture has lost before this message.
    #[serde(skip_serializing_if = "is_zero")]
    missing_octets: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl std::fmt::Display for CaptureOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(timestamp) = self.timestamp {
            write!(f, "{timestamp:.6} ")?;
        }
        write!(f, "{} > {}", self.source, self.destination)?;
        if self.missing_octets != 0 {
            write!(f, " (after {} octets that are not in the capture)", self.missing_octets)?;
        }
        Ok(())
    }
}

pub(super) fn decode<W: Write>(
    args: &DecodeArgs,
    input: impl Read,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    let mut sessions = Sessions { args, base: context(args), opens: HashMap::new() };
    let mut messages = Messages::new(input, args.port);
    for message in messages.by_ref() {
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
            missing_octets: message.missing,
        };
        let (ctx, decoded) = sessions.decode(message.source, message.destination, &message.message);
        out.line(&Line { message: describe_decoded(&ctx, &message.message, &decoded), origin })?;
        if let Some(Message::Open(open)) = decoded.message {
            sessions.opens.insert((message.source, message.destination), open);
        }
    }
    let counts = messages.counts();
    if let Some(link) = counts.link {
        let (n, of) = (counts.unknown_link, counts.packets);
        out.note(format!("{n} of {of} packets are of a link type that is not known, such as {link}"));
    } else if counts.segments == 0 {
        let (n, port) = (counts.packets, args.port);
        out.note(format!("none of {n} packets is of TCP port {port} (--port for another one)"));
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
    /// Reads what `source` sends.
    fn decode(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        message: &[u8],
    ) -> (DecodeContext, Decoded) {
        let (ctx, sure) = self.context(source, destination);
        let decoded = wire::decode(&ctx, message);
        let bad_path = |d: &Decoded| d.errors.iter().any(|e| e.attribute == Some(AS_PATH));
        if !sure && bad_path(&decoded) {
            let other = DecodeContext { four_octet: !ctx.four_octet, ..ctx };
            let again = wire::decode(&other, message);
            if !bad_path(&again) {
                return (other, again);
            }
        }
        (ctx, decoded)
    }

    /// How to read what `source` sends: what the command line says comes first, then what the OPENs say. False when they
    /// leave it open how wide AS numbers are.
    fn context(&self, source: SocketAddr, destination: SocketAddr) -> (DecodeContext, bool) {
        let mut ctx = self.base;
        let opens = [self.opens.get(&(source, destination)), self.opens.get(&(destination, source))];
        let has = |open: &Open, test: fn(&Capability) -> bool| open.capabilities.iter().any(test);
        // RFC 6793 section 3: four octets when both say so; one that does not is enough to know. An OPEN without any
        // capability, which hardly anybody sends today, may be made by hand: what it goes with is looked at.
        let narrow = |open: &&Open| !has(open, |c| matches!(c, Capability::FourOctetAs(_)));
        let mut sure = true;
        if opens.iter().flatten().any(narrow) {
            ctx.four_octet = false;
            sure = self.args.as2 || opens.iter().flatten().any(|open| !open.capabilities.is_empty());
        }
        let [sender, receiver] = opens;
        // RFC 8654 section 4: they may be sent to who has advertised to take them.
        ctx.extended_message |= receiver.is_some_and(|open| has(open, |c| *c == Capability::ExtendedMessage));
        let (Some(sender), Some(receiver)) = (sender, receiver) else { return (ctx, sure) };
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
        (ctx, sure)
    }
}

fn asn(open: &Open) -> u32 {
    let four_octet = open.capabilities.iter().find_map(|c| match c {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    });
    four_octet.unwrap_or(u32::from(open.my_as))
}
