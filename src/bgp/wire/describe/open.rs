//! OPEN and its capabilities.

use std::{fmt, net::Ipv4Addr};

use serde::Serialize;

use crate::bgp::wire::{Capability, Open, code};

/// Fields of an OPEN.
#[derive(Clone, Debug, Serialize)]
pub struct OpenView {
    version: u8,
    /// The four-octet number where the capability gives one.
    asn: u32,
    /// The two-octet field.
    my_as: u16,
    hold_time: u16,
    router_id: Ipv4Addr,
    capabilities: Vec<CapabilityView>,
}

/// A capability: code, name and its own fields.
#[derive(Clone, Debug, Serialize)]
struct CapabilityView {
    code: u8,
    name: &'static str,
    #[serde(flatten)]
    fields: CapabilityFields,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum CapabilityFields {
    None {},
    Family { afi: u16, safi: u8 },
    NextHops { families: Vec<NextHopFamily> },
    Role { role: u8, role_name: &'static str },
    Restart { restart_state: bool, notification: bool, restart_time: u16, families: Vec<RestartFamily> },
    Asn { asn: u32 },
    AddPath { families: Vec<AddPathFamily> },
    LongLived { families: Vec<LongLivedFamily> },
    Fqdn { hostname: String, domain: String },
    Raw { value: String },
}

#[derive(Clone, Debug, Serialize)]
struct NextHopFamily {
    afi: u16,
    safi: u16,
    next_hop_afi: u16,
}

#[derive(Clone, Debug, Serialize)]
struct RestartFamily {
    afi: u16,
    safi: u8,
    forwarding: bool,
}

#[derive(Clone, Debug, Serialize)]
struct AddPathFamily {
    afi: u16,
    safi: u8,
    mode: &'static str,
}

#[derive(Clone, Debug, Serialize)]
struct LongLivedFamily {
    afi: u16,
    safi: u8,
    forwarding: bool,
    stale_time: u32,
}

impl From<&Open> for OpenView {
    fn from(open: &Open) -> Self {
        let four_octet = open.capabilities.iter().find_map(|c| match c {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        Self {
            version: open.version,
            asn: four_octet.unwrap_or(u32::from(open.my_as)),
            my_as: open.my_as,
            hold_time: open.hold_time,
            router_id: open.router_id,
            capabilities: open.capabilities.iter().map(CapabilityView::from).collect(),
        }
    }
}

impl From<&Capability> for CapabilityView {
    fn from(capability: &Capability) -> Self {
        let fields = match capability {
            Capability::Multiprotocol { afi, safi } => CapabilityFields::Family { afi: *afi, safi: *safi },
            Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRouteRefresh => {
                CapabilityFields::None {}
            }
            Capability::ExtendedNextHop(list) => {
                let one = |&(afi, safi, next_hop_afi): &_| NextHopFamily { afi, safi, next_hop_afi };
                CapabilityFields::NextHops { families: list.iter().map(one).collect() }
            }
            Capability::Role(role) => CapabilityFields::Role {
                role: *role,
                role_name: match role {
                    0 => "provider",
                    1 => "route-server",
                    2 => "route-server-client",
                    3 => "customer",
                    4 => "peer",
                    _ => "unknown",
                },
            },
            Capability::GracefulRestart { restart_state, notification, restart_time, families } => {
                let one = |&(afi, safi, forwarding): &_| RestartFamily { afi, safi, forwarding };
                CapabilityFields::Restart {
                    restart_state: *restart_state,
                    notification: *notification,
                    restart_time: *restart_time,
                    families: families.iter().map(one).collect(),
                }
            }
            Capability::FourOctetAs(asn) => CapabilityFields::Asn { asn: *asn },
            Capability::AddPath(list) => {
                let one = |&(afi, safi, mode): &_| AddPathFamily {
                    afi,
                    safi,
                    mode: match mode {
                        1 => "receive",
                        2 => "send",
                        _ => "both",
                    },
                };
                CapabilityFields::AddPath { families: list.iter().map(one).collect() }
            }
            Capability::LongLivedGracefulRestart(list) => {
                let one = |&(afi, safi, forwarding, stale_time): &_| LongLivedFamily {
                    afi,
                    safi,
                    forwarding,
                    stale_time,
                };
                CapabilityFields::LongLived { families: list.iter().map(one).collect() }
            }
            Capability::Fqdn { hostname, domain } => {
                CapabilityFields::Fqdn { hostname: hostname.clone(), domain: domain.clone() }
            }
            Capability::Unknown { value, .. } => CapabilityFields::Raw { value: hex::encode(value) },
        };
        Self { code: capability.code(), name: code::capability_name(capability.code()), fields }
    }
}

impl fmt::Display for OpenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " AS{} id {} hold {} s", self.asn, self.router_id, self.hold_time)?;
        self.capabilities.iter().try_for_each(|capability| write!(f, " [{}]", capability.name))
    }
}
