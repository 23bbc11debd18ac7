//! The log of updates (MRT), as far as one neighbour writes to it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::SystemTime,
};

use super::{
    super::socket::{self, canonical},
    PeerTask,
};
use crate::bgp::{
    config::{PeerAddress, RemoteAs},
    mrt,
    session::State,
    wire::Update,
};

impl PeerTask {
    /// The ends of the session, for the log.
    fn log_session(&self) -> mrt::write::Session {
        let peer_asn = |asn: &RemoteAs| match asn {
            RemoteAs::Is(asn) => asn.get(),
            RemoteAs::Internal => self.context.speaker.asn.get(),
            RemoteAs::External | RemoteAs::OneOf(_) => 0,
        };
        let settings = &self.context.config.settings;
        if let Some(e) = &self.established {
            return mrt::write::Session {
                peer_asn: e.negotiated.peer_asn.get(),
                local_asn: e.negotiated.local_asn.get(),
                ifindex: u16::try_from(socket::scope(canonical(e.peer))).unwrap_or(0),
                peer: canonical(e.peer).ip(),
                local: canonical(e.local).ip(),
            };
        }
        let peer = match &self.context.config.address {
            PeerAddress::Ip(addr) => *addr,
            PeerAddress::LinkLocal { addr, .. } => IpAddr::V6(*addr),
            PeerAddress::Interface(_) => {
                self.neighbour.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |addr| addr.ip())
            }
        };
        let unspecified = match peer {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        mrt::write::Session {
            peer_asn: peer_asn(&settings.asn),
            local_asn: settings.local_asn.unwrap_or(self.context.speaker.asn).get(),
            ifindex: 0,
            peer,
            local: settings.local_address.unwrap_or(unspecified),
        }
    }

    pub(super) fn log_state(&mut self, state: State) {
        let before = std::mem::replace(&mut self.logged, state);
        if before != state {
            self.context.update_log.write(|out| {
                let time = SystemTime::now();
                mrt::write::state_change(out, time, &self.log_session(), before.number(), state.number());
            });
        }
    }

    pub(super) fn log_update(&self, update: &Update, raw: &[u8]) {
        let Some(established) = &self.established else { return };
        let negotiated = &established.negotiated;
        self.context.update_log.write(|out| {
            let mut families = (update.reach.iter().filter(|r| !r.nlri.is_empty()).map(|r| r.family))
                .chain(update.unreach.iter().filter(|u| !u.nlri.is_empty()).map(|u| u.family));
            let encoding = mrt::write::Encoding {
                two_octet: !negotiated.four_octet_as,
                add_path: families.any(|family| negotiated.add_path_receive[family]),
            };
            mrt::write::message(out, SystemTime::now(), &self.log_session(), false, encoding, raw);
        });
    }
}
