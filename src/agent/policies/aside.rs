//! What takes a while to find out, on threads of its own so that no container waits for it: whether the kernel's table is
//! as it should be, which chains of others refuse containers, and with which addresses connections live.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use super::Policies;
use crate::{
    model::Prefix,
    netlink::{Error, Socket, conntrack},
    policy::nft::{self, Look, Looked, Settings},
};

/// How often a thread is asked whether it is done.
const POLL: Duration = Duration::from_millis(100);

/// How long after nftables was changed by others their chains are looked at: firewalls make many changes in a row.
const AFTER_CHANGE: Duration = Duration::from_secs(2);

/// How often they are looked at at most.
const SELDOM: Duration = Duration::from_secs(30);

/// How long after a look that failed, or that found too many addresses, the next one comes.
const AGAIN: Duration = Duration::from_secs(600);

/// How often a look that a change has made void is taken again before the table is compared where it is changed.
const TRIES: u32 = 5;

/// Work on another thread.
#[derive(Debug)]
struct Running<T>(Receiver<T>);

impl<T: Send + 'static> Running<T> {
    fn start(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Option<Self> {
        let (sender, receiver) = sync_channel(1);
        let run = move || {
            // Nobody may want to know any more.
            let _ = sender.send(work());
        };
        match thread::Builder::new().name(name.into()).spawn(run) {
            Ok(_) => Some(Self(receiver)),
            Err(error) => {
                tracing::warn!("cannot start a thread: {error}");
                None
            }
        }
    }
}

/// The answer, once it is there, with which the work is over.
fn finished<T>(running: &mut Option<Running<T>>) -> Option<T> {
    match running.as_ref()?.0.try_recv() {
        Ok(answer) => {
            *running = None;
            Some(answer)
        }
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => {
            *running = None;
            None
        }
    }
}

/// What a look found: at our table, if it was wanted, and at others' chains.
type Found = (Option<Result<Looked, nft::Error>>, Result<Vec<(String, String)>, nft::Error>);

/// What goes on aside.
#[derive(Debug)]
pub(super) struct Aside {
    /// How often the table is compared; never, if so.
    pub(super) every: Option<Duration>,
    /// When the table is due.
    table: Option<Instant>,
    /// When others' chains are.
    others: Option<Instant>,
    looked_at_others: Option<Instant>,
    look: Option<Running<Found>>,
    tries: u32,
    foreign: Vec<(String, String)>,
    /// When the addresses of connections are due, if they are wanted.
    scan: Instant,
    scanning: Option<Running<Result<HashSet<IpAddr>, Error>>>,
}

impl Aside {
    pub(super) fn new(every: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            every,
            table: None,
            others: Some(now),
            looked_at_others: None,
            look: None,
            tries: 0,
            foreign: Vec::new(),
            scan: now,
            scanning: None,
        }
    }

    /// A look through connections that began before says nothing of the addresses of other pools.
    pub(super) fn other_pools(&mut self) {
        self.scanning = None;
        self.scan = Instant::now();
    }
}

impl Policies {
    /// Somebody has changed a table that is not ours.
    pub(in crate::agent) fn others_changed(&mut self) {
        let now = Instant::now();
        let earliest = self.aside.looked_at_others.map_or(now, |at| at + SELDOM);
        self.aside.others.get_or_insert_with(|| earliest.max(now + AFTER_CHANGE));
    }

    /// Chains of others that refuse containers, as far as the last look has found them, and what to do about each.
    pub(in crate::agent) fn known_foreign_drops(&self) -> &[(String, String)] {
        &self.aside.foreign
    }

    /// Another interval; whatever is under way goes on.
    pub(super) fn compare_every(&mut self, every: Option<Duration>) {
        if self.aside.every != every {
            self.aside.every = every;
            self.aside.table = None;
        }
    }

    /// Takes what threads have found, and starts those that are due; when to come back.
    pub(super) fn tick_aside(&mut self, now: Instant) -> Option<Instant> {
        if !self.loaded || self.driver.is_none() || self.blocked() {
            return None;
        }
        if let Some(found) = finished(&mut self.aside.look) {
            self.found(found, now);
        }
        if let Some(found) = finished(&mut self.aside.scanning) {
            match found {
                Ok(addresses) => self.engine.known_connections(addresses),
                Err(error) => tracing::debug!(%error, "cannot list connections"),
            }
        }
        self.scan(now);
        self.look(now);
        let aside = &self.aside;
        let running = (aside.look.is_some() || aside.scanning.is_some()).then(|| now + POLL);
        let scan = (aside.scanning.is_none() && self.engine.suspects_all()).then_some(aside.scan);
        let due = [aside.table, aside.others].into_iter().flatten().filter(|_| aside.look.is_none());
        due.chain(running).chain(scan).min()
    }

    /// Any address may have been somebody's: those with connections are.
    fn scan(&mut self, now: Instant) {
        if !self.engine.suspects_all() || self.aside.scanning.is_some() || self.aside.scan > now {
            return;
        }
        self.aside.scan = now + AGAIN;
        // Who goes from here on is remembered.
        self.engine.continued();
        let pools: Vec<Prefix> = self.engine.config().pools.iter().map(|pool| pool.cidr).collect();
        self.aside.scanning = Running::start("connections", move || {
            let mut socket = Socket::netfilter()?;
            let mut found = HashSet::new();
            for ipv4 in [true, false] {
                let wanted = |addr| pools.iter().any(|pool| pool.contains_addr(addr));
                found.extend(conntrack::addresses_of_all(&mut socket, ipv4, wanted)?);
            }
            Ok(found)
        });
    }

    /// Starts a look at what is due.
    fn look(&mut self, now: Instant) {
        let Some(driver) = &mut self.driver else { return };
        let aside = &mut self.aside;
        if aside.look.is_some() {
            return;
        }
        let table = match (aside.every, aside.table) {
            (None, _) => false,
            (Some(every), None) => {
                aside.table = Some(now + every);
                false
            }
            (Some(_), Some(at)) => at <= now,
        };
        let others = table || aside.others.is_some_and(|at| at <= now);
        if !others {
            return;
        }
        aside.others = None;
        aside.looked_at_others = Some(now);
        let look = if table {
            aside.table = aside.every.map(|every| now + every);
            driver.look(|| self.engine.compiled())
        } else {
            Ok(None)
        };
        let look = look.unwrap_or_else(|error| {
            tracing::warn!("policy: the table cannot be compared: {error}");
            None
        });
        let settings: Settings = driver.settings().clone();
        aside.look = Running::start("nft-look", move || {
            let mut socket = match Socket::netfilter() {
                Ok(socket) => socket,
                Err(error) => return (None, Err(error.into())),
            };
            let looked = look.map(|look| look.take(&mut socket));
            let drops = Look::foreign_drops(&settings, &mut socket);
            let told = drops.map(|list| list.iter().map(|d| (d.to_string(), d.remedy.join("\n"))).collect());
            (looked, told)
        });
    }

    fn found(&mut self, (looked, foreign): Found, now: Instant) {
        match foreign {
            Ok(list) => self.aside.foreign = list,
            Err(error) => tracing::warn!("cannot look for other firewalls: {error}"),
        }
        let Some(looked) = looked else { return };
        match looked {
            Ok(Looked::Moved) if self.aside.tries < TRIES => {
                self.aside.tries += 1;
                self.aside.table = Some(now + POLL);
            }
            Ok(looked @ Looked::Right(_)) => {
                self.aside.tries = 0;
                if let Some(driver) = &mut self.driver {
                    driver.looked(&looked);
                }
            }
            // The last word has who changes it.
            Ok(Looked::Wrong(_) | Looked::Moved) | Err(_) => {
                self.aside.tries = 0;
                self.repair();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;
    use crate::{
        agent::config::{self, Config, Surroundings},
        netlink::ns::testing::private,
    };

    fn nft(script: &str) {
        assert!(
            Command::new("nft").arg(script).status().expect("nftables is installed").success(),
            "{script}"
        );
    }

    fn config(dir: &Path) -> Config {
        std::fs::create_dir_all(dir.join("policy.d")).unwrap();
        let text = format!(
            "[agent]\nrun_dir = {dir:?}\n[policy]\naudit_seconds = 60\n[[ipam.pool]]\ncidr = \"10.32.0.0/16\"\n"
        );
        config::parse(&dir.join("slash32.toml"), &text, &Surroundings::default()).unwrap()
    }

    /// Lets time pass until the threads that are started then have been heard.
    fn pass(policies: &mut Policies, seconds: u64) {
        let then = Instant::now() + Duration::from_secs(seconds);
        policies.tick(then);
        let busy = |p: &Policies| p.aside.look.is_some() || p.aside.scanning.is_some();
        while busy(policies) {
            thread::sleep(Duration::from_millis(5));
            policies.tick(then);
        }
    }

    /// Nobody tells of the change here: there is no [`crate::netlink::NftWatch`].
    #[test]
    fn what_nobody_tells_of_is_put_right_by_the_next_look() {
        private(|| {
            let dir = tempfile::tempdir().unwrap();
            let mut policies = Policies::start(&config(dir.path())).unwrap();
            policies.load().unwrap();
            pass(&mut policies, 0);
            let right = |policies: &mut Policies| {
                let want = policies.engine.compiled();
                policies.driver.as_mut().unwrap().differences(&want).unwrap().is_empty()
            };
            pass(&mut policies, 61);
            for (script, seconds) in [
                ("add rule inet slash32 refuse accept", 122),
                ("delete table inet slash32", 183),
                ("add set inet slash32 mine { type ipv4_addr; }", 244),
            ] {
                nft(script);
                assert!(!right(&mut policies));
                pass(&mut policies, seconds - 30);
                assert!(!right(&mut policies), "not yet: {script}");
                pass(&mut policies, seconds);
                assert!(right(&mut policies), "{script}");
            }
        });
    }

    #[test]
    fn chains_of_others_that_drop_are_known_without_a_look_for_each_question() {
        private(|| {
            let dir = tempfile::tempdir().unwrap();
            let mut policies = Policies::start(&config(dir.path())).unwrap();
            let chain =
                "table ip theirs { chain forward { type filter hook forward priority 0; policy drop; }\n}";
            nft(chain);
            policies.load().unwrap();
            pass(&mut policies, 0);
            let [(what, todo)] = policies.known_foreign_drops() else { panic!("one, from the start on") };
            assert!(what.starts_with("ip theirs forward drops") && !todo.is_empty(), "{what} {todo}");
            nft("delete table ip theirs");
            policies.others_changed();
            pass(&mut policies, 10);
            assert_eq!(policies.known_foreign_drops().len(), 1, "not so soon again");
            pass(&mut policies, 31);
            assert_eq!(policies.known_foreign_drops(), []);
        });
    }

    /// After a restart any address may have been somebody's, until the kernel's connections say which.
    #[test]
    fn after_a_restart_connections_are_looked_through_once() {
        private(|| {
            let dir = tempfile::tempdir().unwrap();
            for again in [false, true] {
                let mut policies = Policies::start(&config(dir.path())).unwrap();
                policies.load().unwrap();
                assert_eq!(policies.engine.suspects_all(), again);
                pass(&mut policies, 0);
                assert!(!policies.engine.suspects_all());
            }
        });
    }

    /// What was asked for some pools is no answer for others.
    #[test]
    fn other_pools_end_a_look_through_connections() {
        private(|| {
            let dir = tempfile::tempdir().unwrap();
            let config = config(dir.path());
            Policies::start(&config).unwrap().load().unwrap();
            let mut policies = Policies::start(&config).unwrap();
            policies.load().unwrap();
            policies.tick(Instant::now());
            assert!(policies.aside.scanning.is_some());
            policies.reconfigure(&config);
            assert!(policies.aside.scanning.is_some(), "nothing has changed");
            let mut more = config;
            more.pools.clear();
            policies.reconfigure(&more);
            assert!(policies.aside.scanning.is_none() && policies.engine.suspects_all());
            pass(&mut policies, 1);
            assert!(!policies.engine.suspects_all());
        });
    }
}
