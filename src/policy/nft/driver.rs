//! Loads compiled forms into the kernel.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{
    Difference, ForeignDrop, RuleCounter, Settings, dump,
    encode::{self, INET, SUBSYSTEM, UDATA_GENERATION},
    foreign,
};
use crate::{
    netlink::{Attr, Batch, BatchReport, Error as NetlinkError, Socket},
    policy::ir::{Chain, Delta, GENERATION, Name, Ruleset, SetKind},
};

/// Why the kernel does not have what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Netlink failed as a whole; whether a change was made is unknown.
    #[error("nftables: {0}")]
    Netlink(#[from] NetlinkError),
    /// The kernel refused the transaction; nothing was changed.
    #[error("nftables refused a change{}: {source}", match kind { Some(kind) => format!(" ({kind})"), None => String::new() })]
    Refused {
        /// What kind of message it was.
        kind: Option<&'static str>,
        /// The kernel's words.
        source: NetlinkError,
    },
    /// The mask cannot hold generation stamps.
    #[error("mark mask {0:#010x} is not usable: it must be one run of at least 8 bits")]
    Mask(u32),
}

impl Error {
    /// Whether the kernel's table is not what we thought it was: it must be loaded as a whole.
    pub fn is_out_of_step(&self) -> bool {
        match self {
            Self::Refused { source, .. } => source.is_exists() || source.is_missing(),
            Self::Netlink(NetlinkError::Overrun | NetlinkError::Timeout) => true,
            _ => false,
        }
    }
}

/// The table in the kernel: one netlink socket, kept open, as closing one waits for a grace period.
#[derive(Debug)]
pub struct Driver {
    socket: Socket,
    settings: Settings,
    generation: u32,
    /// Whether the kernel had a table of ours when the driver was made.
    found: bool,
    /// The kinds of the sets in the kernel, to encode elements with.
    kinds: HashMap<Name, SetKind>,
    /// The chains that stamp.
    stamps: BTreeMap<Name, Chain>,
    old: Old,
    /// How many transactions of ours the kernel has carried out.
    carried_out: u32,
    /// When the table was last seen to be right: the kernel's count of transactions, and ours.
    seen: Option<(u32, u32)>,
}

/// How long after a change the last packet that came before it has been judged, by far.
const GRACE: Duration = Duration::from_millis(10);

/// How long after a change to tidy up, if no other change comes that does.
const IDLE: Duration = Duration::from_secs(1);

/// What the kernel still has but nothing refers to.
#[derive(Debug, Default)]
struct Old {
    chains: Vec<Name>,
    sets: Vec<Name>,
    limits: Vec<Name>,
    /// The time of the last change that left something behind.
    since: Option<Instant>,
}

impl Old {
    fn names(&self) -> impl Iterator<Item = &Name> {
        self.chains.iter().chain(&self.sets).chain(&self.limits)
    }
}

impl Driver {
    /// A driver for the calling thread's network namespace. Goes on from the generation that the kernel's table has,
    /// if there is one: the stamps of connections outlive us. They also outlive a table that somebody flushed while no
    /// agent was there to notice, so without a table the first generation is a random one: a connection that an earlier
    /// table has stamped must not count as judged by this one.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        Self::with_socket(Socket::netfilter()?, settings)
    }

    /// A driver with a netfilter socket of any namespace.
    pub fn with_socket(mut socket: Socket, settings: Settings) -> Result<Self, Error> {
        if !settings.mask_is_usable() {
            return Err(Error::Mask(settings.mark_mask));
        }
        let found = read_generation(&mut socket, &settings)?;
        Ok(Self {
            socket,
            generation: found.unwrap_or_else(|| settings.random_generation()),
            found: found.is_some(),
            settings,
            kinds: HashMap::new(),
            stamps: BTreeMap::new(),
            old: Old::default(),
            carried_out: 0,
            seen: None,
        })
    }

    /// How the table is loaded.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The generation that connections are stamped with.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The netlink port, which notifications about our own changes carry.
    pub fn port(&self) -> Result<u32, Error> {
        Ok(self.socket.port()?)
    }

    /// Whether a process before us left its table.
    pub const fn found(&self) -> bool {
        self.found
    }

    /// Goes on with the table of the process before us, changed where it is not as it should be; whether nothing had to
    /// be changed.
    pub fn take_over(&mut self, rules: &Ruleset) -> Result<bool, Error> {
        let differences = if self.found { self.differences(rules).ok() } else { None };
        if differences.as_ref().is_some_and(Vec::is_empty) {
            self.loaded(rules);
            return Ok(true);
        }
        // The process before us stamped under another mask, as a rule, so its numbers say nothing here.
        let stamp = Difference::SetElements(GENERATION.to_owned());
        if differences.is_some_and(|list| list.contains(&stamp)) {
            self.generation = self.settings.random_generation();
        }
        self.replace(rules).map(|()| false)
    }

    /// Has the kernel's table be this one, with a new generation: every connection is judged anew at its next packet.
    /// No packet passes unjudged or is lost in between. What the table has already is not touched.
    pub fn replace(&mut self, rules: &Ruleset) -> Result<(), Error> {
        let generation = self.settings.next_generation(self.generation);
        self.bring(rules, generation)
    }

    /// The same after somebody else's `damage`. Without a table nothing is stamped, so if it was gone the generation stays.
    /// A damaged one may have stamped connections that the rules do not allow, so all are judged anew.
    pub fn restore(&mut self, rules: &Ruleset, damage: &[Difference]) -> Result<(), Error> {
        if damage == [Difference::NoTable] {
            self.bring(rules, self.generation)?;
        } else {
            self.replace(rules)?;
        }
        // Nothing of what somebody else has put there stays.
        self.tidy()
    }

    /// Changes what differs. A packet that the kernel judges at the very moment at which a table takes another's place
    /// can miss a set of either, so that is only for a table that is not there or no good.
    fn bring(&mut self, rules: &Ruleset, generation: u32) -> Result<(), Error> {
        // What is left of old changes shows up as foreign.
        self.old = Old::default();
        let actual = dump::read(&mut self.socket, &self.settings, rules);
        let plan = actual.ok().flatten().and_then(|a| a.plan(rules, &self.settings, generation));
        if let Some(delta) = plan {
            self.loaded(rules);
            match self.carry_out(&delta, generation, None, true) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "policy: the table cannot be changed; loading it as a whole");
                }
            }
        }
        self.send(encode::encode_replace(rules, &self.settings, generation))?;
        self.generation = generation;
        self.old = Old::default();
        self.loaded(rules);
        Ok(())
    }

    /// Notes what the kernel has now.
    fn loaded(&mut self, rules: &Ruleset) {
        self.kinds = rules.sets.iter().map(|(n, s)| (n.clone(), s.kind.clone())).collect();
        self.stamps = stamp_chains(&rules.chains);
    }

    /// Makes a change. After an error that [`Error::is_out_of_step`], load the whole.
    ///
    /// The change itself is one transaction. What is new is made in another one before, and what is old goes in one
    /// after, a little later: a packet sees chains as they were when it came, but sets as they are when it gets to
    /// them. So one that is on its way when the change happens may be sent to a chain that it finds empty if that is
    /// new, or miss a set that is gone.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Error> {
        if delta.is_empty() {
            return Ok(());
        }
        let again = |name: &Name| {
            delta.new_chains.iter().any(|(n, _)| n == name)
                || delta.new_sets.iter().any(|(n, _)| n == name)
                || delta.new_limits.iter().any(|(n, _)| n == name)
        };
        if self.old.since.is_some_and(|at| at.elapsed() >= GRACE) || self.old.names().any(again) {
            self.tidy()?;
        }
        if delta.revokes {
            let generation = self.settings.next_generation(self.generation);
            self.carry_out(delta, generation, Some(self.generation), true)
        } else {
            self.carry_out(delta, self.generation, None, false)
        }
    }

    /// Makes a change, and with `stamp` rewrites the chains that stamp. `previous`: the generation to move on from.
    fn carry_out(
        &mut self,
        delta: &Delta,
        generation: u32,
        previous: Option<u32>,
        stamp: bool,
    ) -> Result<(), Error> {
        let fresh = || delta.new_chains.iter().chain(&delta.changed_chains).map(|(n, c)| (n, c));
        for (name, set) in &delta.new_sets {
            self.kinds.insert(name.clone(), set.kind.clone());
        }
        if let Some(batch) = encode::encode_preparation(delta, &self.settings, generation) {
            self.send(batch)?;
        }
        let rewritten = |name: &Name| fresh().any(|(n, _)| n == name) || delta.old_chains.contains(name);
        let stamps: Vec<(Name, Chain)> = if stamp {
            self.stamps.iter().filter(|(n, _)| !rewritten(n)).map(|(n, c)| (n.clone(), c.clone())).collect()
        } else {
            Vec::new()
        };
        let kinds = |name: &Name| self.kinds.get(name).cloned();
        let switch = encode::encode_switch(delta, &self.settings, generation, kinds, previous, &stamps);
        self.send(switch)?;
        self.generation = generation;
        self.stamps.extend(stamp_chains(fresh()));
        self.stamps.retain(|name, _| !delta.old_chains.contains(name));
        for name in &delta.old_sets {
            self.kinds.remove(name);
        }
        if !(delta.old_chains.is_empty() && delta.old_sets.is_empty() && delta.old_limits.is_empty()) {
            self.old.chains.extend(delta.old_chains.iter().cloned());
            self.old.sets.extend(delta.old_sets.iter().cloned());
            self.old.limits.extend(delta.old_limits.iter().cloned());
            self.old.since = Some(Instant::now());
        }
        Ok(())
    }

    /// When to call [`Self::tidy`], if nothing else happens.
    pub fn tidy_at(&self) -> Option<Instant> {
        self.old.since.map(|since| since + IDLE)
    }

    /// Removes what earlier changes have left behind, once no packet can be using it any more. Nothing needs it to be
    /// gone, so it is enough to do so now and then; [`Self::apply`] and [`Self::differences`] do.
    pub fn tidy(&mut self) -> Result<(), Error> {
        let Some(since) = self.old.since else { return Ok(()) };
        std::thread::sleep(GRACE.saturating_sub(since.elapsed()));
        let old = std::mem::take(&mut self.old);
        self.send(encode::encode_removal(&old.chains, &old.sets, &old.limits, &self.settings))
    }

    /// How the kernel's table differs from what it should be; empty if it does not.
    pub fn differences(&mut self, want: &Ruleset) -> Result<Vec<Difference>, Error> {
        // Somebody may have been faster; then nothing is left to remove, or it shows up as foreign.
        let _ = self.tidy();
        // A change by somebody else in the middle of the listing shows up as an interruption: look again.
        for _ in 0..4 {
            match dump::read(&mut self.socket, &self.settings, want) {
                Err(NetlinkError::DumpInterrupted) => {}
                Ok(None) => return Ok(vec![Difference::NoTable]),
                Ok(Some(actual)) => return Ok(actual.differences(want, &self.settings, self.generation)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(NetlinkError::DumpInterrupted.into())
    }

    /// A look at the whole table that anybody can take who has the time; `None` if nobody but us has changed anything in
    /// nftables since the last look that found nothing, which is one question to the kernel. `want` is what should be there.
    pub fn look(&mut self, want: impl FnOnce() -> Ruleset) -> Result<Option<Look>, Error> {
        self.tidy()?;
        let count = transactions(&mut self.socket)?;
        let ours = |since: u32| self.carried_out.wrapping_sub(since);
        if self.seen.is_some_and(|(then, since)| then.wrapping_add(ours(since)) == count) {
            return Ok(None);
        }
        let (settings, generation) = (self.settings.clone(), self.generation);
        Ok(Some(Look { want: want(), settings, generation, seen: (count, self.carried_out) }))
    }

    /// Notes what a look found. Changes since it began are those that the next one is for.
    pub fn looked(&mut self, looked: &Looked) {
        if let Looked::Right(seen) = looked {
            self.seen = Some(*seen);
        }
    }

    /// The live counters of all rules that count.
    pub fn counters(&mut self) -> Result<Vec<RuleCounter>, Error> {
        // What earlier changes left behind has counters under the same names.
        let _ = self.tidy();
        Ok(dump::counters(&mut self.socket, &self.settings, None)?)
    }

    /// The live counters of some chains, without a look at the others' rules.
    pub fn counters_of(&mut self, chains: &[&str]) -> Result<Vec<RuleCounter>, Error> {
        let mut found = Vec::new();
        for chain in chains {
            found.extend(dump::counters(&mut self.socket, &self.settings, Some(chain))?);
        }
        Ok(found)
    }

    /// Other people's chains that refuse our traffic.
    pub fn foreign_drops(&mut self) -> Result<Vec<ForeignDrop>, Error> {
        Ok(foreign::drops(&mut self.socket, &self.settings)?)
    }

    /// Other people's rules that write bits of the connection mark which hold our stamps.
    pub fn foreign_marks(&mut self) -> Result<Vec<String>, Error> {
        Ok(foreign::marks(&mut self.socket, &self.settings)?)
    }

    /// Stamps under another mask from now on; false if it is the one that is in use. Load the whole afterwards: all
    /// connections are judged anew then, and those that are allowed notice nothing.
    pub fn set_mark_mask(&mut self, mark_mask: u32) -> Result<bool, Error> {
        if mark_mask == self.settings.mark_mask {
            return Ok(false);
        }
        let settings = Settings { mark_mask, ..self.settings.clone() };
        if !settings.mask_is_usable() {
            return Err(Error::Mask(mark_mask));
        }
        self.generation = settings.apart_from(&self.settings, self.generation);
        self.settings = settings;
        Ok(true)
    }

    /// Removes the table: nothing is enforced any more.
    pub fn remove(&mut self) -> Result<(), Error> {
        self.send(encode::encode_remove(&self.settings))
    }

    fn send(&mut self, mut batch: Batch) -> Result<(), Error> {
        // Begin and end alone are no transaction to the kernel.
        let is_one = batch.len() > 2;
        let report = self.socket.transact_atomic(&mut batch)?;
        refused(report)?;
        self.carried_out = self.carried_out.wrapping_add(u32::from(is_one));
        Ok(())
    }
}

/// What a look at the table needs. It may be taken on any thread in the network namespace.
#[derive(Debug)]
pub struct Look {
    want: Ruleset,
    settings: Settings,
    generation: u32,
    seen: (u32, u32),
}

/// What a [`Look`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// The table is as it should be, at these counts of transactions.
    Right((u32, u32)),
    /// It is not.
    Wrong(Vec<Difference>),
    /// Something was changed meanwhile, by us or by others: look again.
    Moved,
}

impl Look {
    /// Compares. Takes as long as the table is large.
    pub fn take(self, socket: &mut Socket) -> Result<Looked, Error> {
        let read = dump::read(socket, &self.settings, &self.want);
        if matches!(read, Err(NetlinkError::DumpInterrupted)) || transactions(socket)? != self.seen.0 {
            return Ok(Looked::Moved);
        }
        let differences = match read? {
            None => vec![Difference::NoTable],
            Some(actual) => actual.differences(&self.want, &self.settings, self.generation),
        };
        Ok(if differences.is_empty() { Looked::Right(self.seen) } else { Looked::Wrong(differences) })
    }

    /// Other people's chains that refuse our traffic.
    pub fn foreign_drops(settings: &Settings, socket: &mut Socket) -> Result<Vec<ForeignDrop>, Error> {
        Ok(foreign::drops(socket, settings)?)
    }
}

/// How many transactions nftables has carried out in this network namespace, of whomever.
fn transactions(socket: &mut Socket) -> Result<u32, NetlinkError> {
    const GETGEN: u16 = 16;
    let answer = socket.ask(
        SUBSYSTEM << 8 | GETGEN,
        |w| _ = w.raw(&[0; 4]),
        |message| message.attrs(INET.len()).find_kind(1)?.be32(), // NFTA_GEN_ID
    )?;
    answer.ok_or(NetlinkError::Timeout)
}

/// The first error that is about a message rather than about the transaction, as it says more.
fn refused(report: BatchReport) -> Result<(), Error> {
    let Some(error) = report.errors.iter().find(|e| e.index > 0).or_else(|| report.errors.first()) else {
        return Ok(());
    };
    let kind = (report.errors.len() > 1).then_some("the first of several errors");
    Err(Error::Refused { kind, source: NetlinkError::Kernel(error.clone()) })
}

fn stamp_chains<'a>(chains: impl IntoIterator<Item = (&'a Name, &'a Chain)>) -> BTreeMap<Name, Chain> {
    chains
        .into_iter()
        .filter(|(_, chain)| chain.rules.iter().any(encode::mentions_generation))
        .map(|(name, chain)| (name.clone(), chain.clone()))
        .collect()
}

/// The generation of the table in the kernel; none without a table of ours.
fn read_generation(socket: &mut Socket, settings: &Settings) -> Result<Option<u32>, NetlinkError> {
    const GETRULE: u16 = 7;
    let found = socket.dump(
        SUBSYSTEM << 8 | GETRULE,
        |w| _ = w.raw(&INET).attr_str(1, &settings.table),
        |message| {
            let attrs = message.attrs(INET.len());
            let ours = attrs.clone().find_kind(1).and_then(Attr::str) == Some(settings.table.as_str());
            let data = attrs.find_kind(7).map(|a| a.data).filter(|_| ours);
            Ok(data
                .and_then(|data| udata_entry(data, UDATA_GENERATION)?.try_into().ok())
                .map(u32::from_be_bytes))
        },
    );
    match found {
        Ok(list) => Ok(list.into_iter().max()),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The value of one entry of user data.
pub(super) fn udata_entry(mut data: &[u8], kind: u8) -> Option<&[u8]> {
    while let [found, len, rest @ ..] = data {
        let value = rest.get(..usize::from(*len))?;
        if *found == kind {
            return Some(value);
        }
        data = rest.get(usize::from(*len)..)?;
    }
    None
}
