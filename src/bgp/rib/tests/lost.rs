//! What endpoints are known as when the session is lost that told it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::kit::*;
use crate::{
    bgp::{
        PeerId,
        config::{IdentityMode, MaxPrefixes, NextHopCheck},
        identity,
        rib::{
            DownReason, FamilyParams, GracefulParams, LocalRoute, PeerParams, Refresh, Restart, Rib,
            RibConfig, Tellers, filter::Rule,
        },
        wire::{AsPath, PathAttributes, PerFamily, Update},
    },
    model::{Family, Identity, LabelHash, Prefix},
};

const P: [&str; 4] = ["10.1.0.1/32", "10.1.0.2/32", "fd00::1/128", "10.1.9.0/24"];
const HOLD: u64 = 40;
const RESTART: u64 = 10;
const STALE: u64 = 15;
const UNPROMISED: u64 = 12;

/// Number 0 is nobody.
fn endpoint(k: u8) -> Option<Identity> {
    (k > 0).then(|| [LabelHash(k.into())].into_iter().collect())
}

/// A route of an internal peer to that endpoint; a higher number is a newer attachment.
fn route(k: u8) -> PathAttributes {
    let domain = config().identity_domain;
    let sequence = (k > 0).then_some(k.into());
    let large = identity::to_communities(domain, endpoint(k).as_ref(), sequence).collect();
    PathAttributes { large_communities: large, ..internal() }
}

/// Odd peers have graceful restart and so promise End-of-RIB.
fn peer(n: u8, preserved: bool) -> PeerParams {
    let graceful = GracefulParams {
        forwarding_preserved: preserved,
        restart_time: Duration::from_secs(RESTART),
        long_lived: None,
        stale_time: Duration::from_secs(STALE),
    };
    let family = FamilyParams {
        graceful: (n % 2 == 1).then_some(graceful),
        sends_end_of_rib: n % 2 == 1,
        ..FamilyParams::default()
    };
    PeerParams { families: PerFamily::both(Some(family)), ..ibgp(n) }
}

fn settings() -> RibConfig {
    RibConfig {
        identity_hold: Duration::from_secs(HOLD),
        unpromised: Duration::from_secs(UNPROMISED),
        ..config()
    }
}

/// Who is where as far as the changes of best paths tell, and since when it is kept of a lost session.
type Known = BTreeMap<Prefix, (Identity, Option<Instant>)>;

fn take(rib: &mut Rib, known: &mut Known) {
    for change in rib.poll_best(100) {
        assert!(change.best.is_none() || change.told.is_none());
        let of_best = change.best.filter(|best| !best.local).and_then(|best| best.identity);
        let told = change.told.map(|told| (told.identity, told.lost));
        match of_best.map(|identity| (identity, None)).or(told) {
            Some((identity, lost)) => _ = known.insert(change.prefix, ((*identity).clone(), lost)),
            None => _ = known.remove(&change.prefix),
        }
    }
}

/// A lab with what it tells.
struct Watched {
    lab: Lab,
    known: Known,
}

impl Watched {
    fn new(config: RibConfig) -> Self {
        Self { lab: Lab::new(config), known: Known::new() }
    }

    /// The number of the endpoint at a prefix, and how long its session has been lost.
    fn at(&mut self, text: &str) -> Option<(u8, Option<u64>)> {
        take(&mut self.lab.rib, &mut self.known);
        let (identity, lost) = self.known.get(&prefix(text))?;
        let k =
            (1..=9).find(|k| endpoint(*k).as_ref() == Some(identity)).expect("an endpoint of these tests");
        Some((k, lost.map(|since| (self.lab.now - since).as_secs())))
    }

    fn down(&mut self, n: u8) {
        self.lab.rib.peer_down(id(n), DownReason::Flush, self.lab.now);
    }
}

fn one(config: RibConfig) -> Watched {
    let mut w = Watched::new(config);
    w.lab.up(1, peer(1, true));
    w.lab.update(1, announce(1, route(3), &[P[0], P[1]]));
    assert_eq!(w.at(P[0]), Some((3, None)));
    w
}

#[test]
fn kept_until_end_of_rib_without_it() {
    let mut w = one(settings());
    w.down(1);
    assert_eq!(w.at(P[0]), Some((3, Some(0))));
    w.lab.wait(5);
    w.lab.up(1, peer(1, true));
    assert_eq!(w.at(P[1]), Some((3, Some(5))));
    w.lab.update(1, announce(1, route(4), &[P[0]]));
    assert_eq!(w.at(P[0]), Some((4, None)));
    // The other family's says nothing of this one.
    w.lab.update(1, end_of_rib(Family::Ipv6));
    assert_eq!(w.at(P[1]), Some((3, Some(5))));
    assert_eq!(w.lab.rib.poll_complete(), [("192.0.2.1".into(), Family::Ipv6)]);
    w.lab.update(1, end_of_rib(Family::Ipv4));
    assert!(w.lab.rib.poll_complete().is_empty(), "not before what it told");
    assert_eq!((w.at(P[0]), w.at(P[1])), (Some((4, None)), None));
    assert_eq!(w.lab.rib.poll_complete(), [("192.0.2.1".into(), Family::Ipv4)]);
    w.lab.update(1, end_of_rib(Family::Ipv4));
    w.at(P[0]);
    assert!(w.lab.rib.poll_complete().is_empty(), "once a session");
}

#[test]
fn not_longer_than_configured_and_not_at_all_if_so() {
    let mut w = one(settings());
    w.down(1);
    w.lab.wait(HOLD - 1);
    assert_eq!(w.at(P[0]), Some((3, Some(HOLD - 1))));
    assert_eq!(w.lab.rib.poll_timeout(), Some(w.lab.now + Duration::from_secs(1)));
    w.lab.wait(1);
    assert_eq!(w.at(P[0]), None);
    assert_eq!(w.lab.rib.poll_timeout(), None);

    let mut w = one(RibConfig { identity_hold: Duration::ZERO, ..settings() });
    w.down(1);
    assert_eq!(w.at(P[0]), None);

    let mut w = one(settings());
    w.down(1);
    assert_eq!(w.at(P[0]), Some((3, Some(0))));
    w.lab.rib.reconfigure(RibConfig { identity_hold: Duration::ZERO, ..settings() }, w.lab.now);
    assert_eq!(w.at(P[0]), None, "a reload forgets it as well");
}

/// Flapping makes nothing younger that nobody has told again.
#[test]
fn a_session_that_flaps() {
    let mut w = one(settings());
    for _ in 0..6 {
        w.down(1);
        w.lab.wait(3);
        w.lab.up(1, peer(1, true));
        w.lab.update(1, announce(1, route(3), &[P[1]]));
        w.lab.wait(2);
    }
    assert_eq!((w.at(P[0]), w.at(P[1])), (Some((3, Some(30))), Some((3, None))));
    w.lab.wait(HOLD - 30);
    assert_eq!(w.at(P[0]), None);
}

#[test]
fn two_reflectors_of_which_one_dies() {
    let mut w = one(settings());
    w.lab.up(2, peer(2, true));
    w.lab.update(2, announce(2, route(3), &[P[0], P[1]]));
    w.down(1);
    assert_eq!(w.at(P[0]), Some((3, None)), "the other one tells it still");
    w.lab.update(2, withdraw(&[P[0]]));
    assert_eq!(w.at(P[0]), Some((3, Some(0))), "the lost one has not said so");
    w.lab.wait(1);
    w.down(2);
    assert_eq!((w.at(P[0]), w.at(P[1])), (Some((3, Some(1))), Some((3, Some(0)))));
    // What both told is kept until both have told everything without it.
    w.lab.up(1, peer(1, true));
    w.lab.update(1, end_of_rib(Family::Ipv4));
    assert_eq!((w.at(P[0]), w.at(P[1])), (None, Some((3, Some(0)))));
    w.lab.up(2, peer(2, true));
    w.lab.wait(UNPROMISED - 1);
    assert!(w.at(P[1]).is_some());
    w.lab.wait(1);
    assert_eq!(w.at(P[1]), None, "it promises no End-of-RIB, and has had its time");
}

#[test]
fn an_announcement_counts_whoever_makes_it() {
    for (what, n, k, mode, expected) in [
        ("another endpoint", 2, 5, IdentityMode::Accept, Some((5, None))),
        ("an older attachment", 2, 1, IdentityMode::Accept, Some((1, None))),
        ("without identity", 2, 0, IdentityMode::Accept, None),
        ("from one that is not believed", 2, 5, IdentityMode::Ignore, None),
    ] {
        let mut w = one(settings());
        w.down(1);
        w.lab.up(n, PeerParams { identity: mode, ..peer(n, true) });
        w.lab.update(n, announce(n, route(k), &[P[0]]));
        assert_eq!(w.at(P[0]), expected, "{what}");
        w.lab.update(n, withdraw(&[P[0]]));
        assert_eq!(w.at(P[0]), None, "{what}, and it is gone for good");
        assert_eq!(w.at(P[1]), Some((3, Some(0))), "{what}");
    }
}

#[test]
fn what_the_neighbour_itself_takes_back() {
    let reject: Arc<[Rule]> = {
        #[derive(serde::Deserialize)]
        struct File {
            rule: Vec<Rule>,
        }
        let text = r#"rule = [{ prefix = "10.1.0.0/16", le = 32, action = "reject" }]"#;
        toml::from_str::<File>(text).unwrap().rule.into()
    };
    let limited = |n| {
        let mut params = peer(n, true);
        let limit = MaxPrefixes { limit: 1, warning_percent: 0, restart: None };
        for family in Family::ALL {
            params.families[family].as_mut().unwrap().max_prefixes = Some(limit);
        }
        params
    };
    let lost = || {
        let mut w = one(settings());
        w.down(1);
        w
    };
    let mut w = lost();
    w.lab.up(1, peer(1, true));
    w.lab.update(1, withdraw(&[P[0]]));
    assert_eq!((w.at(P[0]), w.at(P[1])), (None, Some((3, Some(0)))), "withdrawn");
    let mut w = lost();
    w.lab.up(1, PeerParams { import: reject.clone(), ..peer(1, true) });
    w.lab.update(1, announce(1, route(3), &[P[0]]));
    assert_eq!((w.at(P[0]), w.at(P[1])), (None, Some((3, Some(0)))), "refused by a rule");
    let mut w = lost();
    w.lab.up(1, limited(1));
    w.lab.update(1, announce(1, route(3), &[P[1], P[0]]));
    assert_eq!((w.at(P[0]), w.at(P[1])), (None, Some((3, None))), "one more than it may tell");

    // In a living session all of these are no loss.
    let mut w = one(settings());
    w.lab.update(1, withdraw(&[P[0]]));
    assert_eq!(w.at(P[0]), None);
    w.lab.rib.peer_changed(id(1), PeerParams { import: reject, ..peer(1, true) }, w.lab.now);
    assert_eq!(w.at(P[1]), None);
    let mut w = one(settings());
    w.lab.rib.refresh(id(1), Family::Ipv4, Refresh::Begin, w.lab.now);
    w.lab.update(1, announce(1, route(3), &[P[1]]));
    w.lab.rib.refresh(id(1), Family::Ipv4, Refresh::End, w.lab.now);
    assert_eq!((w.at(P[0]), w.at(P[1])), (None, Some((3, None))));
}

#[test]
fn a_local_container_takes_the_address() {
    let mut w = one(settings());
    w.down(1);
    w.lab.rib.originate(prefix(P[0]), LocalRoute::default(), w.lab.now);
    assert_eq!(w.at(P[0]), None);
    w.lab.rib.withdraw_local(prefix(P[0]), w.lab.now);
    assert_eq!(w.at(P[0]), None);
    // Also when it had it before.
    let mut w = one(settings());
    w.lab.rib.originate(prefix(P[0]), LocalRoute::default(), w.lab.now);
    w.down(1);
    w.lab.rib.withdraw_local(prefix(P[0]), w.lab.now);
    assert_eq!((w.at(P[0]), w.at(P[1])), (None, Some((3, Some(0)))));
}

#[test]
fn who_is_no_longer_believed_has_told_nothing() {
    let name = || "192.0.2.1".to_owned();
    let only = |listed: &[(String, bool)], ranges: &[(&str, bool)]| {
        let ranges = ranges.iter().map(|(range, believed)| (prefix(range), *believed)).collect();
        Some(Tellers { listed: listed.iter().cloned().collect(), ranges })
    };
    for (what, tellers, kept) in [
        ("listed", only(&[(name(), true)], &[]), true),
        ("listed and not believed", only(&[(name(), false)], &[("192.0.2.0/24", true)]), false),
        ("not configured any more", only(&[("192.0.2.2".to_owned(), true)], &[]), false),
        ("of a range", only(&[], &[("192.0.2.0/24", true)]), true),
        ("of a range inside", only(&[], &[("192.0.2.0/28", false), ("192.0.2.0/24", true)]), false),
    ] {
        let after = RibConfig { tellers, ..settings() };
        let mut w = one(settings());
        w.down(1);
        w.lab.rib.reconfigure(after.clone(), w.lab.now);
        assert_eq!(w.at(P[0]).is_some(), kept, "{what}");
        // Removed while it is up.
        let mut w = one(settings());
        w.lab.rib.reconfigure(after.clone(), w.lab.now);
        w.lab.rib.peer_removed(id(1), w.lab.now);
        assert_eq!(w.at(P[0]).is_some(), kept, "{what}");
        // Away, and its routes are kept for its restart.
        let mut w = one(settings());
        w.lab.rib.peer_down(id(1), DownReason::Restarting, w.lab.now);
        w.lab.rib.reconfigure(after, w.lab.now);
        assert_eq!(w.at(P[0]).is_some(), kept, "{what}");
    }
    let mut w = one(settings());
    w.down(1);
    w.lab.rib.reconfigure(RibConfig { identity_pools: vec![prefix("10.1.0.2/31")], ..settings() }, w.lab.now);
    assert_eq!((w.at(P[0]), w.at(P[1])), (None, Some((3, Some(0)))), "outside of the pools");
}

/// A dynamic neighbour that was forgotten comes back as another peer of the same name.
#[test]
fn a_dynamic_neighbour_that_comes_back() {
    let mut w = one(settings());
    w.lab.rib.peer_removed(id(1), w.lab.now);
    assert_eq!(w.at(P[0]), Some((3, Some(0))));
    w.lab.rib.peer_up(PeerId(77), peer(1, true), w.lab.now);
    w.lab.rib.update(PeerId(77), announce(1, route(3), &[P[0]]), w.lab.now);
    w.lab.rib.update(PeerId(77), end_of_rib(Family::Ipv4), w.lab.now);
    assert_eq!((w.at(P[0]), w.at(P[1])), (Some((3, None)), None));
}

/// The way to a next hop goes before its session does.
#[test]
fn a_next_hop_that_cannot_be_reached() {
    for check in [NextHopCheck::Prefer, NextHopCheck::Require] {
        let mut w = one(RibConfig { next_hop_check: check, ..settings() });
        let hop = "192.0.2.1".parse().unwrap();
        w.lab.rib.set_next_hop_cost(hop, 0, None);
        assert_eq!(w.at(P[0]), Some((3, None)), "the neighbour tells it still");
        w.lab.update(1, announce(1, route(4), &[P[0]]));
        w.lab.update(1, announce(1, route(0), &[P[1]]));
        assert_eq!((w.at(P[0]), w.at(P[1])), (Some((4, None)), None));
        w.lab.update(1, announce(1, route(3), &[P[1]]));
        assert_eq!(w.at(P[1]), Some((3, None)));
        w.lab.update(1, withdraw(&[P[1]]));
        assert_eq!(w.at(P[1]), None);
        w.down(1);
        assert_eq!(w.at(P[0]), Some((4, Some(0))));
    }
}

#[test]
fn nobody_is_told_complete_while_changes_are_held_back() {
    let restart = Restart {
        peers: 2,
        connect_wait: Duration::from_secs(20),
        gather: Duration::from_secs(5),
        deferral: Duration::from_secs(60),
    };
    let mut w = Watched::new(RibConfig { restart: Some(restart), ..settings() });
    w.lab.up(1, peer(1, true));
    w.lab.update(1, announce(1, route(3), &[P[0]]));
    w.lab.update(1, end_of_rib(Family::Ipv4));
    assert!(w.lab.rib.poll_complete().is_empty());
    w.lab.wait(5);
    assert!(w.lab.rib.poll_complete().is_empty(), "the changes come first");
    assert_eq!(w.at(P[0]), Some((3, None)));
    assert_eq!(w.lab.rib.poll_complete().len(), 1);
}

/// What one peer says of a prefix, in the model.
#[derive(Clone, Copy, Debug)]
struct Path {
    k: u8,
    stale: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Session {
    up: bool,
    /// Until when what is stale of a family stays.
    stale: [Option<u64>; 2],
    since: u64,
    complete: [bool; 2],
}

/// Too simple to be wrong: who says what, and who said what when his session was lost.
#[derive(Debug, Default)]
struct Simple {
    now: u64,
    sessions: BTreeMap<u8, Session>,
    paths: BTreeMap<(usize, u8), Path>,
    words: BTreeMap<(usize, u8), (u8, u64)>,
    local: BTreeSet<usize>,
    gone: BTreeSet<u8>,
}

fn six(p: usize) -> usize {
    usize::from(prefix(P[p]).family() == Family::Ipv6)
}

impl Simple {
    /// Paths of a peer go because nobody said anything.
    fn lose(&mut self, n: u8, which: impl Fn(usize, &Path) -> bool) {
        for (p, text) in P.iter().enumerate() {
            if let Some(path) = self.paths.get(&(p, n)).copied().filter(|path| which(p, path)) {
                self.paths.remove(&(p, n));
                if path.k > 0 && prefix(text).is_host() && !self.local.contains(&p) && !self.gone.contains(&n)
                {
                    self.words.insert((p, n), (path.k, self.now));
                }
            }
        }
    }

    fn up(&mut self, n: u8, preserved: bool) {
        if self.gone.contains(&n) {
            return;
        }
        self.down(n, false);
        let mut session = Session { up: true, since: self.now, ..Session::default() };
        for family in 0..2 {
            if self.sessions.get(&n).is_some_and(|s| s.stale[family].is_some()) {
                if preserved && n % 2 == 1 {
                    session.stale[family] = Some(self.now + STALE);
                } else {
                    self.lose(n, |p, path| six(p) == family && path.stale);
                }
            }
        }
        self.sessions.insert(n, session);
    }

    fn is_up(&self, n: u8) -> bool {
        self.sessions.get(&n).is_some_and(|s| s.up)
    }

    fn down(&mut self, n: u8, restarting: bool) {
        if !self.is_up(n) {
            return;
        }
        let mut session = Session::default();
        if restarting && n % 2 == 1 {
            self.lose(n, |_, path| path.stale);
            for path in self.paths.iter_mut().filter(|((_, of), _)| *of == n).map(|(_, path)| path) {
                path.stale = true;
            }
            session.stale = [Some(self.now + RESTART); 2];
        } else {
            self.lose(n, |_, _| true);
        }
        self.sessions.insert(n, session);
    }

    fn announce(&mut self, n: u8, p: usize, k: u8) {
        self.paths.insert((p, n), Path { k, stale: false });
        self.words.retain(|(of, _), _| *of != p);
    }

    fn unsay(&mut self, n: u8, p: usize) {
        self.paths.remove(&(p, n));
        self.words.remove(&(p, n));
    }

    fn end_of_rib(&mut self, n: u8, family: usize) {
        let session = self.sessions.get_mut(&n).expect("it is up");
        if session.stale[family].take().is_some() {
            self.paths.retain(|(p, of), path| !(*of == n && six(*p) == family && path.stale));
        }
        let first = !std::mem::replace(&mut session.complete[family], true);
        if first {
            self.words.retain(|(p, of), _| !(*of == n && six(*p) == family));
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        for n in self.sessions.keys().copied().collect::<Vec<_>>() {
            for family in 0..2 {
                let session = self.sessions.get_mut(&n).expect("listed");
                if session.stale[family].is_some_and(|until| until <= self.now) {
                    session.stale[family] = None;
                    self.lose(n, |p, path| six(p) == family && path.stale);
                }
                let session = self.sessions.get_mut(&n).expect("listed");
                let silent = n % 2 == 0 && session.up && !session.complete[family];
                if silent && self.now >= session.since + UNPROMISED {
                    session.complete[family] = true;
                    self.words.retain(|(p, of), _| !(*of == n && six(*p) == family));
                }
            }
        }
        self.words.retain(|_, (_, since)| self.now - *since < HOLD);
    }

    fn expected(&self) -> BTreeMap<usize, (u8, Option<u64>)> {
        let mut all = BTreeMap::new();
        for p in (0..P.len()).filter(|p| !self.local.contains(p)) {
            let of = |(key, _): &(&(usize, u8), &Path)| key.0 == p;
            // The newest attachment is the best path.
            let best = self.paths.iter().filter(of).map(|(_, path)| path.k).max();
            let word = self.words.iter().filter(|((of, _), _)| *of == p).map(|(_, word)| *word);
            match best {
                Some(0) => {}
                Some(k) => _ = all.insert(p, (k, None)),
                None => {
                    // Of equal ones it is either's time that is told.
                    if let Some((k, since)) = word.max_by_key(|(k, _)| *k) {
                        all.insert(p, (k, Some(since)));
                    }
                }
            }
        }
        all
    }
}

#[derive(Clone, Debug)]
enum Op {
    Up {
        n: u8,
        preserved: bool,
    },
    Down {
        n: u8,
        restarting: bool,
    },
    Announce {
        n: u8,
        p: usize,
        k: u8,
    },
    Refused {
        n: u8,
        p: usize,
    },
    Withdraw {
        n: u8,
        p: usize,
    },
    EndOfRib {
        n: u8,
        six: bool,
    },
    Local {
        p: usize,
        on: bool,
    },
    /// A dynamic neighbour that is away is forgotten; when it comes back it has another number.
    Expire(u8),
    Deconfigure(u8),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (n, p) = (1..=4u8, 0..P.len());
    prop_oneof![
        5 => (n.clone(), any::<bool>()).prop_map(|(n, preserved)| Op::Up { n, preserved }),
        4 => (n.clone(), any::<bool>()).prop_map(|(n, restarting)| Op::Down { n, restarting }),
        14 => (n.clone(), p.clone(), 0..4u8).prop_map(|(n, p, k)| Op::Announce { n, p, k }),
        1 => (n.clone(), p.clone()).prop_map(|(n, p)| Op::Refused { n, p }),
        4 => (n.clone(), p.clone()).prop_map(|(n, p)| Op::Withdraw { n, p }),
        4 => (n.clone(), any::<bool>()).prop_map(|(n, six)| Op::EndOfRib { n, six }),
        2 => (p, any::<bool>()).prop_map(|(p, on)| Op::Local { p, on }),
        2 => n.clone().prop_map(Op::Expire),
        1 => n.prop_map(Op::Deconfigure),
        6 => (1..15u64).prop_map(Op::Wait),
    ]
}

/// The RIB beside the model.
struct Pair {
    watched: Watched,
    model: Simple,
    start: Instant,
    /// How often a neighbour has got another number.
    numbers: [u32; 5],
}

impl Pair {
    fn id(&self, n: u8) -> PeerId {
        PeerId(u32::from(n) + 10 * self.numbers[usize::from(n)])
    }

    fn say(&mut self, n: u8, update: Update) {
        let (id, now) = (self.id(n), self.watched.lab.now);
        self.watched.lab.rib.update(id, update, now);
    }

    fn apply(&mut self, op: &Op) {
        let now = self.watched.lab.now;
        match *op {
            Op::Up { n, preserved } => {
                if !self.model.gone.contains(&n) {
                    self.watched.lab.rib.peer_up(self.id(n), peer(n, preserved), now);
                }
                self.model.up(n, preserved);
            }
            Op::Down { n, restarting } => {
                self.model.down(n, restarting);
                let reason = if restarting { DownReason::Restarting } else { DownReason::Flush };
                self.watched.lab.rib.peer_down(self.id(n), reason, now);
            }
            Op::Announce { n, p, k } if self.model.is_up(n) => {
                self.model.announce(n, p, k);
                self.say(n, announce(n, route(k), &[P[p]]));
            }
            Op::Refused { n, p } if self.model.is_up(n) => {
                self.model.unsay(n, p);
                // Our own AS in the path.
                let attributes = PathAttributes { as_path: AsPath::sequence([OUR_AS]), ..route(1) };
                self.say(n, announce(n, attributes, &[P[p]]));
            }
            Op::Withdraw { n, p } if self.model.is_up(n) => {
                self.model.unsay(n, p);
                self.say(n, withdraw(&[P[p]]));
            }
            Op::EndOfRib { n, six } if self.model.is_up(n) => {
                self.model.end_of_rib(n, usize::from(six));
                self.say(n, end_of_rib(if six { Family::Ipv6 } else { Family::Ipv4 }));
            }
            Op::Local { p, on: true } => {
                self.model.local.insert(p);
                self.model.words.retain(|(of, _), _| *of != p);
                // Goes before whatever others tell.
                let route = LocalRoute { sequence: Some(9), ..LocalRoute::default() };
                self.watched.lab.rib.originate(prefix(P[p]), route, now);
            }
            Op::Local { p, on: false } => {
                self.model.local.remove(&p);
                self.watched.lab.rib.withdraw_local(prefix(P[p]), now);
            }
            Op::Expire(n) if !self.model.is_up(n) => {
                self.model.lose(n, |_, _| true);
                self.model.sessions.remove(&n);
                self.watched.lab.rib.peer_removed(self.id(n), now);
                self.numbers[usize::from(n)] += 1;
            }
            Op::Deconfigure(n) => {
                self.model.gone.insert(n);
                self.model.paths.retain(|(_, of), _| *of != n);
                self.model.words.retain(|(_, of), _| *of != n);
                self.model.sessions.remove(&n);
                let listed =
                    (1..=4).filter(|n| !self.model.gone.contains(n)).map(|n| (addr(n).to_string(), true));
                let tellers = Some(Tellers { listed: listed.collect(), ranges: Vec::new() });
                self.watched.lab.rib.reconfigure(RibConfig { tellers, ..settings() }, now);
                self.watched.lab.rib.peer_removed(self.id(n), now);
            }
            Op::Wait(seconds) => {
                self.model.wait(seconds);
                self.watched.lab.wait(seconds);
            }
            _ => {}
        }
    }

    fn check(&mut self, op: &Op) {
        take(&mut self.watched.lab.rib, &mut self.watched.known);
        let known: BTreeMap<usize, (u8, Option<u64>)> = (0..P.len())
            .filter_map(|p| {
                let (k, age) = self.watched.at(P[p])?;
                Some((p, (k, age.map(|age| (self.watched.lab.now - self.start).as_secs() - age))))
            })
            .collect();
        let expected = self.model.expected();
        let who = |all: &BTreeMap<usize, (u8, Option<u64>)>| {
            all.iter().map(|(p, (k, lost))| (*p, *k, lost.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(who(&known), who(&expected), "after {op:?}");
        for (p, (k, since)) in known {
            let times = self.model.words.iter().filter(|((of, _), (word, _))| *of == p && *word == k);
            let times: Vec<_> = times.map(|(_, (_, since))| *since).collect();
            assert!(since.is_none_or(|since| times.contains(&since)), "after {op:?}: {since:?} of {times:?}");
        }
    }
}

proptest! {
    #[test]
    fn equals_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let watched = Watched::new(settings());
        let start = watched.lab.now;
        let mut pair = Pair { watched, model: Simple::default(), start, numbers: [0; 5] };
        for op in &ops {
            pair.apply(op);
            pair.check(op);
        }
        // At most what was known is kept, and nothing for ever.
        for n in 1..=4 {
            pair.apply(&Op::Down { n, restarting: false });
        }
        // What is kept for a restart first, then what is kept of the lost session.
        for _ in 0..2 {
            pair.apply(&Op::Wait(HOLD));
            pair.check(&Op::Wait(HOLD));
        }
        prop_assert!(pair.watched.known.is_empty());
        prop_assert_eq!(pair.watched.lab.rib.poll_timeout(), None);
    }
}
