//! Capabilities (RFC 5492), one type-length-value after another.

use bytes::{BufMut, Bytes, BytesMut};
use nom::{
    Parser,
    combinator::{all_consuming, map},
    multi::{length_data, many0},
    number::complete::{be_u8, be_u16, be_u24, be_u32},
};

use super::{Action, Capability, EncodeError, Reason, code::capability as cap, error::Errors, parse};

/// Reads the capabilities in `bytes`, which start at `at` of the message, each with its place there; false when they do
/// not fit their bounds.
///
/// A known capability with an impossible length is an error of the OPEN. One with a value that its RFC says to
/// ignore is kept as [`Capability::Unknown`].
pub(super) fn decode(
    mut bytes: &[u8],
    mut at: usize,
    out: &mut Vec<(usize, Capability)>,
    errors: &mut Errors,
) -> bool {
    while !bytes.is_empty() {
        let Some((rest, (code, value))) = parse((be_u8, length_data(be_u8)), bytes) else {
            errors.push(Action::Reset, Reason::CapabilityBounds, None, at, at..at + bytes.len());
            return false;
        };
        let whole = at..at + 2 + value.len();
        match decode_one(code, value) {
            Ok(capability) => out.push((at, capability)),
            Err(Fault::Length) => {
                let reason = Reason::CapabilityLength { code, length: value.len() };
                errors.push(Action::Reset, reason, None, at, whole.clone());
                out.push((at, unknown(code, value)));
            }
            Err(Fault::Value) => {
                errors.push(Action::Discard, Reason::CapabilityValue(code), None, at, whole.clone());
                out.push((at, unknown(code, value)));
            }
        }
        at = whole.end;
        bytes = rest;
    }
    true
}

enum Fault {
    Length,
    Value,
}

fn unknown(code: u8, value: &[u8]) -> Capability {
    Capability::Unknown { code, value: Bytes::copy_from_slice(value) }
}

fn decode_one(code: u8, value: &[u8]) -> Result<Capability, Fault> {
    let empty = |capability| if value.is_empty() { Ok(capability) } else { Err(Fault::Length) };
    match code {
        cap::MULTIPROTOCOL => {
            let (afi, _, safi) = whole((be_u16, be_u8, be_u8), value)?;
            Ok(Capability::Multiprotocol { afi, safi })
        }
        cap::ROUTE_REFRESH => empty(Capability::RouteRefresh),
        cap::EXTENDED_NEXT_HOP => {
            let tuples = whole(many0((be_u16, be_u16, be_u16)), value)?;
            Ok(Capability::ExtendedNextHop(tuples))
        }
        cap::EXTENDED_MESSAGE => empty(Capability::ExtendedMessage),
        cap::ROLE => Ok(Capability::Role(whole(be_u8, value)?)),
        cap::GRACEFUL_RESTART => {
            let family = map((be_u16, be_u8, be_u8), |(afi, safi, flags)| (afi, safi, flags & 0x80 != 0));
            let (head, families) = whole((be_u16, many0(family)), value)?;
            Ok(Capability::GracefulRestart {
                restart_state: head & 0x8000 != 0,
                notification: head & 0x4000 != 0,
                restart_time: head & 0x0FFF,
                families,
            })
        }
        cap::FOUR_OCTET_AS => Ok(Capability::FourOctetAs(whole(be_u32, value)?)),
        cap::ADD_PATH => {
            let families: Vec<_> = whole(many0((be_u16, be_u8, be_u8)), value)?;
            // RFC 7911 section 4: any other value, and the capability is treated as not understood.
            if families.iter().all(|&(_, _, mode)| matches!(mode, 1..=3)) {
                Ok(Capability::AddPath(families))
            } else {
                Err(Fault::Value)
            }
        }
        cap::ENHANCED_ROUTE_REFRESH => empty(Capability::EnhancedRouteRefresh),
        cap::LONG_LIVED_GRACEFUL_RESTART => {
            let family = map((be_u16, be_u8, be_u8, be_u24), |(afi, safi, flags, time)| {
                (afi, safi, flags & 0x80 != 0, time)
            });
            Ok(Capability::LongLivedGracefulRestart(whole(many0(family), value)?))
        }
        // A draft, for show only: one that does not parse is kept as it is.
        cap::FQDN => Ok(decode_fqdn(value).unwrap_or_else(|| unknown(code, value))),
        _ => Ok(unknown(code, value)),
    }
}

/// All of `value` by `parser`, or a wrong length.
fn whole<'a, P>(parser: P, value: &'a [u8]) -> Result<P::Output, Fault>
where
    P: Parser<&'a [u8], Error = ()>,
{
    parse(all_consuming(parser), value).map(|(_, out)| out).ok_or(Fault::Length)
}

fn decode_fqdn(value: &[u8]) -> Option<Capability> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let (_, (hostname, domain)) = parse(all_consuming((length_data(be_u8), length_data(be_u8))), value)?;
    Some(Capability::Fqdn { hostname: text(hostname)?, domain: text(domain)? })
}

/// Appends one capability.
pub(super) fn encode(capability: &Capability, out: &mut BytesMut) -> Result<(), EncodeError> {
    let code = capability.code();
    let start = out.len();
    out.put_slice(&[code, 0]);
    match capability {
        Capability::Multiprotocol { afi, safi } => {
            out.put_u16(*afi);
            out.put_slice(&[0, *safi]);
        }
        Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRouteRefresh => {}
        Capability::ExtendedNextHop(tuples) => {
            for &(afi, safi, next_hop) in tuples {
                out.put_u16(afi);
                out.put_u16(safi);
                out.put_u16(next_hop);
            }
        }
        Capability::Role(role) => out.put_u8(*role),
        Capability::GracefulRestart { restart_state, notification, restart_time, families } => {
            let flags = u16::from(*restart_state) << 15 | u16::from(*notification) << 14;
            out.put_u16(flags | (*restart_time).min(0x0FFF));
            for &(afi, safi, forwarding) in families {
                out.put_u16(afi);
                out.put_slice(&[safi, u8::from(forwarding) << 7]);
            }
        }
        Capability::FourOctetAs(asn) => out.put_u32(*asn),
        Capability::AddPath(families) => {
            for &(afi, safi, mode) in families {
                out.put_u16(afi);
                out.put_slice(&[safi, mode]);
            }
        }
        Capability::LongLivedGracefulRestart(families) => {
            for &(afi, safi, forwarding, time) in families {
                out.put_u16(afi);
                out.put_slice(&[safi, u8::from(forwarding) << 7]);
                out.put_uint(u64::from(time.min(0x00FF_FFFF)), 3);
            }
        }
        Capability::Fqdn { hostname, domain } => {
            for text in [hostname, domain] {
                let length = u8::try_from(text.len()).map_err(|_| EncodeError::Capability(code))?;
                out.put_u8(length);
                out.put_slice(text.as_bytes());
            }
        }
        Capability::Unknown { value, .. } => out.put_slice(value),
    }
    out[start + 1] = u8::try_from(out.len() - start - 2).map_err(|_| EncodeError::Capability(code))?;
    Ok(())
}

impl Capability {
    /// The capability code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol { .. } => cap::MULTIPROTOCOL,
            Self::RouteRefresh => cap::ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => cap::EXTENDED_NEXT_HOP,
            Self::ExtendedMessage => cap::EXTENDED_MESSAGE,
            Self::Role(_) => cap::ROLE,
            Self::GracefulRestart { .. } => cap::GRACEFUL_RESTART,
            Self::FourOctetAs(_) => cap::FOUR_OCTET_AS,
            Self::AddPath(_) => cap::ADD_PATH,
            Self::EnhancedRouteRefresh => cap::ENHANCED_ROUTE_REFRESH,
            Self::LongLivedGracefulRestart(_) => cap::LONG_LIVED_GRACEFUL_RESTART,
            Self::Fqdn { .. } => cap::FQDN,
            Self::Unknown { code, .. } => *code,
        }
    }
}
