//! ADDs after a boot wait until the neighbours have told what they know.
//!
//! An address of this host's blocks may meanwhile be a container's on another host. An agent that knows nothing of this
//! boot would give it to the first who asks, and lose it a moment later. So ADDs that need an address of ours wait until
//! each configured neighbour has sent all it has, or for a bounded time. Nobody else waits: every other call goes on, and a
//! DEL ends the ADDs of its container that wait.
//!
//! Callers are not waited for by anybody: a call is kept as a closure, which is called when it may go on, in the order in
//! which calls came.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{config::Config, metrics::Page};
use crate::{
    api::CniRequest,
    cni::types::{CniError, NetConf, code},
    model::{EndpointKey, Family},
};

/// The neighbours that are waited for, as configured, with the families that they have still to tell.
type Missing = BTreeMap<String, BTreeSet<Family>>;
/// What to do with a call: whether it may go on, or why not.
type Work = Box<dyn FnOnce(Result<(), CniError>) + Send>;

/// Where CNI calls pass. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// None once it is open: it never closes again.
    closed: Mutex<Option<Closed>>,
    opened: Notify,
}

struct Closed {
    missing: Missing,
    until: Instant,
    waiting: Vec<(EndpointKey, Work)>,
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.iter().map(|(key, _)| key).collect::<Vec<_>>();
        f.debug_struct("Closed")
            .field("missing", &self.missing)
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

/// What a call means to the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    /// An ADD that needs an address of ours.
    Waits(EndpointKey),
    /// A DEL: of an ADD that waits nothing is to come.
    Ends(EndpointKey),
    /// Anything else.
    Free,
}

/// The wait as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Whom it is for, in words.
    pub(super) neighbours: Vec<String>,
    /// How many ADDs wait.
    pub(super) adds: usize,
    /// The most that is left of it.
    pub(super) left: Duration,
}

impl Gate {
    /// Closed if there is anybody to wait for.
    pub(super) fn closed(config: &Config, now: Instant) -> Self {
        Self::waiting_for(missing(config), config.neighbours_wait, now)
    }

    fn waiting_for(missing: Missing, wait: Duration, now: Instant) -> Self {
        let gate = Self::default();
        if !missing.is_empty() && !wait.is_zero() {
            let names = names(&missing).join(", ");
            tracing::info!(
                "containers get no address before these neighbours have told what they know, or {wait:?}: {names}"
            );
            let until = now + wait;
            *gate.lock() = Some(Closed { missing, until, waiting: Vec::new() });
        }
        gate
    }

    fn lock(&self) -> MutexGuard<'_, Option<Closed>> {
        self.inner.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the call is to the gate; that costs something only while it is closed.
    pub(super) fn passing(&self, request: &CniRequest) -> Passing {
        if self.lock().is_none() {
            return Passing::Free;
        }
        passing(request)
    }

    /// Calls `work` when the call may go on: at once, or when the gate opens. `work` must not wait, nor come here.
    pub(super) fn pass(&self, passing: Passing, work: impl FnOnce(Result<(), CniError>) + Send + 'static) {
        let mut closed = self.lock();
        match (&mut *closed, passing) {
            (Some(closed), Passing::Waits(key)) => {
                closed.waiting.push((key, Box::new(work)));
                return;
            }
            // In one go with what comes after them: whoever opens the gate finds both or neither.
            (Some(closed), Passing::Ends(key)) => {
                for (_, waiting) in closed.waiting.extract_if(.., |(of, _)| *of == key) {
                    waiting(Err(CniError::new(
                        code::TRY_AGAIN_LATER,
                        "a DEL came while this ADD waited for the BGP neighbours",
                    )));
                }
            }
            _ => {}
        }
        drop(closed);
        work(Ok(()));
    }

    /// A neighbour has told all it knows of a family, and the core has heard of that before.
    pub(super) fn told(&self, peer: &str, family: Family) {
        self.less(|missing| {
            if let Some(families) = missing.get_mut(peer) {
                families.remove(&family);
            }
        });
    }

    /// These are the families that a session has.
    pub(super) fn negotiated(&self, peer: &str, in_use: &[Family]) {
        self.less(|missing| {
            if let Some(families) = missing.get_mut(peer) {
                families.retain(|family| in_use.contains(family));
            }
        });
    }

    /// Whoever is configured no more is not waited for; nor is who is new.
    pub(super) fn reconfigure(&self, config: &Config) {
        let wanted = if config.neighbours_wait.is_zero() { Missing::new() } else { missing(config) };
        self.less(|missing| missing.retain(|peer, _| wanted.contains_key(peer)));
    }

    fn less(&self, change: impl FnOnce(&mut Missing)) {
        let mut closed = self.lock();
        if let Some(closed) = &mut *closed {
            change(&mut closed.missing);
            closed.missing.retain(|_, families| !families.is_empty());
        }
        if closed.as_ref().is_some_and(|closed| closed.missing.is_empty()) {
            self.open(&mut closed);
        }
    }

    /// Whoever waits goes on, before anybody who comes later.
    fn open(&self, closed: &mut Option<Closed>) {
        let Some(Closed { missing, waiting, .. }) = closed.take() else { return };
        let adds = waiting.len();
        if missing.is_empty() {
            tracing::info!(adds, "the neighbours have told what they know: containers get addresses");
        } else {
            let names = names(&missing).join(", ");
            tracing::warn!(
                adds,
                "containers get addresses, though these neighbours have not told what they know: {names}; should another \
                 host have one of them, the container with the older attachment loses it"
            );
        }
        for (_, work) in waiting {
            work(Ok(()));
        }
        self.inner.opened.notify_waiters();
    }

    /// Whether nobody waits any more.
    pub(super) fn is_open(&self) -> bool {
        self.lock().is_none()
    }

    /// Returns when the gate is open, and opens it when the time is over.
    pub(super) async fn opens(&self) {
        let opened = self.inner.opened.notified();
        tokio::pin!(opened);
        opened.as_mut().enable();
        let Some(until) = self.lock().as_ref().map(|closed| closed.until) else { return };
        if tokio::time::timeout_at(until.into(), opened).await.is_err() {
            self.expire(Instant::now());
        }
    }

    /// Opens the gate if the time is over.
    fn expire(&self, now: Instant) {
        let mut closed = self.lock();
        if closed.as_ref().is_some_and(|closed| closed.until <= now) {
            self.open(&mut closed);
        }
    }

    /// Whether, for whom and how long is waited; none once it is open.
    pub(super) fn wait(&self, now: Instant) -> Option<Wait> {
        self.lock().as_ref().map(|closed| Wait {
            neighbours: names(&closed.missing),
            adds: closed.waiting.len(),
            left: closed.until.saturating_duration_since(now),
        })
    }

    /// How much is waited, for whoever counts.
    pub(super) fn write(&self, page: &mut Page) {
        let wait = self.wait(Instant::now());
        let mut gauge = |name, help, value: usize| {
            page.metric(name, "gauge", help);
            page.sample(name, &[], value as u64);
        };
        gauge(
            "slash32_neighbours_awaited",
            "Neighbours that have not told what they know since the boot, and for which ADDs wait.",
            wait.as_ref().map_or(0, |wait| wait.neighbours.len()),
        );
        gauge(
            "slash32_cni_adds_waiting",
            "ADDs that wait for neighbours.",
            wait.as_ref().map_or(0, |wait| wait.adds),
        );
    }
}

impl Wait {
    /// What is left, in seconds.
    pub(super) fn seconds(&self) -> u128 {
        self.left.as_millis().div_ceil(1000)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ADDs wait for neighbours that have not told since the boot which addresses other hosts have: {}; for {} s more \
             at most ({} waiting)",
            self.neighbours.join(", "),
            self.seconds(),
            self.adds
        )
    }
}

/// Whom to wait for: who is configured and is to have a session, if there are addresses to give at all.
fn missing(config: &Config) -> Missing {
    if config.pools.is_empty() {
        return Missing::new();
    }
    let peers = config.bgp.iter().flat_map(|bgp| &bgp.peers).filter(|peer| peer.settings.shutdown.is_none());
    peers
        .map(|peer| (peer.address.to_string(), peer.settings.families.iter().copied().collect()))
        .filter(|(_, families): &(_, BTreeSet<Family>)| !families.is_empty())
        .collect()
}

fn names(missing: &Missing) -> Vec<String> {
    let name = |(peer, families): (&String, &BTreeSet<Family>)| {
        let families: Vec<String> = families.iter().map(ToString::to_string).collect();
        format!("{peer} ({})", families.join(", "))
    };
    missing.iter().map(name).collect()
}

fn passing(request: &CniRequest) -> Passing {
    let key = |network| EndpointKey {
        network,
        container_id: request.container_id.clone(),
        ifname: request.ifname.clone(),
    };
    match request.command.as_str() {
        // What is wrong with it is told at once, and another plugin's address is not ours to look after.
        "ADD" => match NetConf::parse(&request.stdin) {
            Ok(conf) if conf.ipam.delegate.is_none() => Passing::Waits(key(conf.name)),
            _ => Passing::Free,
        },
        "DEL" => {
            NetConf::essentials(&request.stdin).map_or(Passing::Free, |(_, name)| Passing::Ends(key(name)))
        }
        _ => Passing::Free,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use serde_json::json;

    use super::{super::config, *};

    const WAIT: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn call(command: &str, container: &str) -> CniRequest {
        CniRequest {
            command: command.into(),
            container_id: container.into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: String::new(),
            path: String::new(),
            stdin: json!({"cniVersion": "1.1.0", "name": "net", "type": "slash32"}),
        }
    }

    /// A gate, and what has come through it.
    struct World {
        gate: Gate,
        start: Instant,
        done: mpsc::Sender<String>,
        seen: mpsc::Receiver<String>,
    }

    impl World {
        fn new(peers: &[(&str, &[Family])]) -> Self {
            let missing = peers.iter().map(|(p, f)| ((*p).to_owned(), f.iter().copied().collect())).collect();
            let (start, (done, seen)) = (Instant::now(), mpsc::channel());
            Self { gate: Gate::waiting_for(missing, WAIT, start), start, done, seen }
        }

        fn call(&self, request: &CniRequest) {
            let name = format!("{} {}", request.command, request.container_id);
            let done = self.done.clone();
            self.gate.pass(self.gate.passing(request), move |passed| {
                let how = passed.map_or_else(|error| format!(": {}", error.code), |()| String::new());
                done.send(name + &how).unwrap();
            });
        }

        fn seen(&self) -> Vec<String> {
            self.seen.try_iter().collect()
        }
    }

    #[tokio::test]
    async fn adds_wait_until_all_have_told() {
        let world = World::new(&[("192.0.2.1", &Family::ALL), ("eth1", &[Family::Ipv6])]);
        let gate = world.gate.clone();
        let opens = tokio::spawn(async move { gate.opens().await });
        for n in 0..100 {
            world.call(&call("ADD", &format!("c{n}")));
        }
        world.gate.told("192.0.2.1", Family::Ipv4);
        world.gate.told("192.0.2.9", Family::Ipv6);
        world.gate.told("eth1", Family::Ipv6);
        tokio::task::yield_now().await;
        assert_eq!((world.seen(), opens.is_finished()), (vec![], false));
        let wait = world.gate.wait(world.start + 2 * SECOND).unwrap();
        assert_eq!((wait.neighbours.join(";").as_str(), wait.adds), ("192.0.2.1 (ipv6)", 100));
        assert!(wait.to_string().contains("192.0.2.1 (ipv6); for 8 s more at most (100 waiting)"), "{wait}");
        world.gate.told("192.0.2.1", Family::Ipv6);
        opens.await.unwrap();
        let expected: Vec<String> = (0..100).map(|n| format!("ADD c{n}")).collect();
        assert_eq!(world.seen(), expected, "in the order in which they came");
        world.call(&call("ADD", "late"));
        assert_eq!(world.seen(), ["ADD late"]);
        assert!(world.gate.is_open() && world.gate.wait(world.start).is_none());
        world.gate.opens().await;
    }

    #[test]
    fn a_silent_neighbour_is_waited_for_so_long_and_no_longer() {
        let world = World::new(&[("192.0.2.1", &Family::ALL)]);
        world.call(&call("ADD", "c1"));
        world.gate.expire(world.start + 9 * SECOND);
        assert_eq!(world.seen(), [""; 0]);
        world.gate.expire(world.start + WAIT);
        assert_eq!(world.seen(), ["ADD c1"]);
    }

    #[tokio::test]
    async fn the_end_of_the_wait_comes_by_itself() {
        let world = World::new(&[("192.0.2.1", &Family::ALL)]);
        world.call(&call("ADD", "c1"));
        // As if it had begun long ago.
        world.gate.lock().as_mut().unwrap().until = world.start;
        world.gate.opens().await;
        assert_eq!(world.seen(), ["ADD c1"]);
    }

    #[test]
    fn nobody_else_waits_and_a_del_ends_the_adds_of_its_container() {
        let world = World::new(&[("192.0.2.1", &Family::ALL)]);
        let mut delegated = call("ADD", "delegated");
        delegated.stdin["ipam"] = json!({"type": "host-local"});
        let mut broken = call("ADD", "broken");
        broken.stdin["mtu"] = json!("x");
        let mut other = call("ADD", "c1");
        other.ifname = "eth1".into();
        for request in [
            &call("ADD", "c1"),
            &other,
            &call("ADD", "c2"),
            &delegated,
            &broken,
            &call("CHECK", "c1"),
            &call("GC", ""),
            &call("STATUS", ""),
            &call("DEL", "c1"),
            &call("ADD", "c1"),
        ] {
            world.call(request);
        }
        let at_once = ["ADD delegated", "ADD broken", "CHECK c1", "GC ", "STATUS ", "ADD c1: 11", "DEL c1"];
        assert_eq!(world.seen(), at_once);
        world.gate.expire(world.start + WAIT);
        // The other interface of that container, the other container, and what came after the DEL.
        assert_eq!(world.seen(), ["ADD c1", "ADD c2", "ADD c1"]);
    }

    #[test]
    fn whom_there_is_no_use_in_waiting_for() {
        let world = World::new(&[("192.0.2.1", &Family::ALL)]);
        world.call(&call("ADD", "c1"));
        world.gate.negotiated("192.0.2.1", &[Family::Ipv4]);
        assert_eq!(world.seen(), [""; 0]);
        world.gate.told("192.0.2.1", Family::Ipv4);
        assert_eq!(world.seen(), ["ADD c1"]);

        let read = |text: &str| {
            let surroundings =
                config::Surroundings { hostname: "h".into(), router_id: Some([192, 0, 2, 9].into()) };
            config::parse("x.toml".as_ref(), text, &surroundings).unwrap()
        };
        let peer = "[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 2\n";
        let pool = "[[ipam.pool]]\ncidr = \"10.0.0.0/8\"\nblock = \"10.0.0.0/24\"\n";
        let gate = |text: &str| Gate::closed(&read(text), world.start);
        let closed = |text: &str| !gate(text).is_open();
        assert!(closed(&format!("{peer}{pool}")));
        assert!(!closed(&format!("{peer}shutdown = true\n{pool}")));
        assert!(!closed(peer) && !closed(pool));
        assert!(!closed(&format!("{peer}[ipam]\nneighbours_wait_seconds = 0\n{pool}")));
        let range = "[bgp]\nasn = 1\n[[bgp.listen_range]]\nprefix = \"192.0.2.0/24\"\nasn = 2\n";
        assert!(!closed(&format!("{range}{pool}")), "nobody knows who comes");
        let gate = gate(&format!("{peer}{pool}"));
        gate.reconfigure(&read(&format!("{peer}{pool}")));
        assert!(!gate.is_open());
        gate.reconfigure(&read(pool));
        assert!(gate.is_open());
    }
}
