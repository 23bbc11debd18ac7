//! What the tests share: peers, updates, and a receiver that decodes what a peer is sent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use crate::{
    bgp::{
        PeerId,
        config::IdentityMode,
        rib::{FamilyParams, LocalAddresses, PeerParams, Rib, RibConfig},
        wire::{
            self, AsPath, DecodeContext, Message, Nlri, Origin, PathAttributes, PeerKind, PerFamily, Reach,
            Unreach, Update, WireNextHop,
        },
    },
    model::{Asn, Family, Prefix, RouterId},
};

pub(super) const OUR_AS: u32 = 64512;

pub(super) fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(super) fn config() -> RibConfig {
    let mut config = RibConfig::new(asn(OUR_AS), RouterId::new(Ipv4Addr::new(10, 0, 0, 100)).unwrap());
    config.identity_pools = vec![prefix("10.0.0.0/8"), prefix("fd00::/8")];
    config
}

/// The peer number `n` has address 192.0.2.n and router id 10.0.0.n; external ones AS 65000 + n.
pub(super) fn params(n: u8, kind: PeerKind) -> PeerParams {
    let peer_asn = match kind {
        PeerKind::External => 65000 + u32::from(n),
        PeerKind::Internal => OUR_AS,
    };
    let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, n)).unwrap();
    PeerParams {
        local: LocalAddresses {
            ipv4: Some(Ipv4Addr::new(192, 0, 2, 100)),
            ipv6: Some("2001:db8::100".parse().unwrap()),
            link_local: None,
        },
        identity: IdentityMode::Accept,
        families: PerFamily::both(Some(FamilyParams::default())),
        ..PeerParams::new(kind, asn(OUR_AS), asn(peer_asn), router_id, addr(n))
    }
}

pub(super) fn ebgp(n: u8) -> PeerParams {
    params(n, PeerKind::External)
}

pub(super) fn ibgp(n: u8) -> PeerParams {
    params(n, PeerKind::Internal)
}

pub(super) fn client(n: u8) -> PeerParams {
    PeerParams { route_reflector_client: true, ..ibgp(n) }
}

pub(super) fn addr(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

/// The attributes of a route of the external peer `n`.
pub(super) fn from(n: u8) -> PathAttributes {
    PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath::sequence([65000 + u32::from(n)]),
        ..PathAttributes::default()
    }
}

/// The attributes of a route of an internal peer.
pub(super) fn internal() -> PathAttributes {
    PathAttributes { origin: Some(Origin::Igp), local_pref: Some(100), ..PathAttributes::default() }
}

/// An announcement by peer `n` with itself as next hop.
pub(super) fn announce(n: u8, attributes: PathAttributes, prefixes: &[&str]) -> Update {
    let family = prefix(prefixes[0]).family();
    let next_hop = match family {
        Family::Ipv4 => WireNextHop::V4(Ipv4Addr::new(192, 0, 2, n)),
        Family::Ipv6 => WireNextHop::V6(format!("2001:db8::{n}").parse().unwrap()),
    };
    announce_via(next_hop, attributes, prefixes)
}

pub(super) fn announce_via(next_hop: WireNextHop, attributes: PathAttributes, prefixes: &[&str]) -> Update {
    let nlri: Vec<Nlri> = prefixes.iter().map(|p| Nlri { prefix: prefix(p), path_id: 0 }).collect();
    let family = nlri[0].prefix.family();
    Update { reach: vec![Reach { family, next_hop, nlri }], unreach: Vec::new(), attributes }
}

pub(super) fn withdraw(prefixes: &[&str]) -> Update {
    let nlri: Vec<Nlri> = prefixes.iter().map(|p| Nlri { prefix: prefix(p), path_id: 0 }).collect();
    Update { unreach: vec![Unreach { family: nlri[0].prefix.family(), nlri }], ..Update::default() }
}

pub(super) fn end_of_rib(family: Family) -> Update {
    match family {
        Family::Ipv4 => Update::default(),
        Family::Ipv6 => Update { unreach: vec![Unreach { family, nlri: Vec::new() }], ..Update::default() },
    }
}

/// What was received with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) next_hop: WireNextHop,
    pub(super) attributes: PathAttributes,
}

/// The other end of a session: keeps what it is sent.
#[derive(Debug)]
pub(super) struct Receiver {
    ctx: DecodeContext,
    pub(super) routes: BTreeMap<(Prefix, u32), Received>,
    pub(super) ends: Vec<Family>,
    pub(super) marks: Vec<(Family, u8)>,
    /// Prefixes in the order in which they were announced.
    pub(super) order: Vec<Prefix>,
    pub(super) withdrawn: usize,
}

impl Receiver {
    pub(super) fn new(params: &PeerParams) -> Self {
        let mut add_path = PerFamily::both(false);
        for family in Family::ALL {
            add_path[family] = params.families[family].is_some_and(|f| f.add_path_tx.is_some());
        }
        let ctx = DecodeContext {
            peer: params.kind,
            four_octet: params.four_octet_as,
            add_path,
            extended_message: params.extended_message,
            ..DecodeContext::default()
        };
        Self {
            ctx,
            routes: BTreeMap::new(),
            ends: Vec::new(),
            marks: Vec::new(),
            order: Vec::new(),
            withdrawn: 0,
        }
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let length = wire::frame_length(bytes, self.ctx.extended_message).unwrap().unwrap();
            let (message, errors) = wire::decode(&self.ctx, &bytes[..length]).into_result().unwrap();
            assert_eq!(errors, []);
            bytes = &bytes[length..];
            match message {
                Message::Update(update) => self.update(update),
                Message::RouteRefresh(refresh) => {
                    let family = if refresh.afi == 1 { Family::Ipv4 } else { Family::Ipv6 };
                    self.marks.push((family, refresh.subtype));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn update(&mut self, update: Update) {
        self.ends.extend(update.end_of_rib());
        for unreach in update.unreach {
            for nlri in unreach.nlri {
                self.withdrawn += 1;
                self.routes.remove(&(nlri.prefix, nlri.path_id));
            }
        }
        for reach in update.reach {
            for nlri in reach.nlri {
                let received = Received { next_hop: reach.next_hop, attributes: update.attributes.clone() };
                self.order.push(nlri.prefix);
                self.routes.insert((nlri.prefix, nlri.path_id), received);
            }
        }
    }

    /// The only path to a prefix.
    pub(super) fn route(&self, text: &str) -> Option<&Received> {
        let wanted = prefix(text);
        let mut found = self.routes.iter().filter(|((prefix, _), _)| *prefix == wanted).map(|(_, r)| r);
        let first = found.next();
        assert!(found.next().is_none(), "more than one path to {text}");
        first
    }

    pub(super) fn prefixes(&self) -> Vec<String> {
        self.routes.keys().map(|(prefix, _)| prefix.to_string()).collect()
    }
}

/// A RIB with receivers at its peers, and a clock.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) rib: Rib,
    pub(super) now: Instant,
    pub(super) receivers: BTreeMap<u8, Receiver>,
}

impl Lab {
    pub(super) fn new(config: RibConfig) -> Self {
        Self { rib: Rib::new(config), now: Instant::now(), receivers: BTreeMap::new() }
    }

    /// The RIB of a route reflector.
    pub(super) fn reflector() -> Self {
        Self::new(RibConfig { route_reflector: true, ..config() })
    }

    /// The RIB of a transit router.
    pub(super) fn transit() -> Self {
        Self::new(RibConfig { transit: true, ..config() })
    }

    pub(super) fn up(&mut self, n: u8, params: PeerParams) {
        self.receivers.insert(n, Receiver::new(&params));
        self.rib.peer_up(id(n), params, self.now);
    }

    pub(super) fn update(&mut self, n: u8, update: Update) {
        self.rib.update(id(n), update, self.now);
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.rib.handle_timeout(self.now);
    }

    /// Lets a peer take all it can get.
    pub(super) fn pull(&mut self, n: u8) -> &Receiver {
        let receiver = self.receivers.get_mut(&n).unwrap();
        loop {
            let pieces = self.rib.poll_output(id(n), 64 << 10);
            if pieces.is_empty() {
                return receiver;
            }
            for piece in pieces {
                receiver.take(&piece);
            }
        }
    }

    pub(super) fn best(&mut self, text: &str) -> Option<String> {
        let explanation = self.rib.explain(prefix(text))?;
        let first = explanation.paths.into_iter().next()?;
        first.lost.is_none().then(|| first.route.peer.map_or("ours".to_owned(), |peer| peer.to_string()))
    }
}

pub(super) fn id(n: u8) -> PeerId {
    PeerId(n.into())
}
