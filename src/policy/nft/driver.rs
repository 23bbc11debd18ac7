//! Loads compiled forms into the kernel.

use std::collections::{BTreeMap, HashMap};

use super::{
    Difference, ForeignDrop, RuleCounter, Settings, dump,
    encode::{self, INET, SUBSYSTEM, UDATA_GENERATION},
    foreign,
};
use crate::{
    netlink::{Attr, Batch, BatchReport, Error as NetlinkError, Socket},
    policy::ir::{Chain, Delta, Name, Ruleset, SetKind},
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
    /// The kinds of the sets in the kernel, to encode elements with.
    kinds: HashMap<Name, SetKind>,
    /// The chains that stamp.
    stamps: BTreeMap<Name, Chain>,
}

impl Driver {
    /// A driver for the calling thread's network namespace. Goes on from the generation that the kernel's table has,
    /// if there is one: the stamps of connections outlive us.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        Self::with_socket(Socket::netfilter()?, settings)
    }

    /// A driver with a netfilter socket of any namespace.
    pub fn with_socket(mut socket: Socket, settings: Settings) -> Result<Self, Error> {
        if !settings.mask_is_usable() {
            return Err(Error::Mask(settings.mark_mask));
        }
        let generation = read_generation(&mut socket, &settings)?.unwrap_or(0);
        Ok(Self { socket, settings, generation, kinds: HashMap::new(), stamps: BTreeMap::new() })
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

    /// Goes on with the table of the process before us if it is as it should be, and replaces it otherwise; whether it
    /// was kept. A packet that the kernel judges at the very moment of a replacement can miss a set of either table,
    /// so a restart that changes nothing must not replace anything.
    pub fn take_over(&mut self, rules: &Ruleset) -> Result<bool, Error> {
        if self.generation != 0 && self.differences(rules).is_ok_and(|list| list.is_empty()) {
            self.loaded(rules);
            return Ok(true);
        }
        self.replace(rules).map(|()| false)
    }

    /// Replaces the whole table in one transaction, with a new generation: every connection is judged anew at its
    /// next packet. No packet passes unjudged or is lost in between.
    pub fn replace(&mut self, rules: &Ruleset) -> Result<(), Error> {
        let generation = self.settings.next_generation(self.generation);
        self.load(rules, generation)
    }

    /// The same with the present generation, for when the table was damaged but the rules have not changed:
    /// connections with a stamp do not notice.
    pub fn restore(&mut self, rules: &Ruleset) -> Result<(), Error> {
        self.load(rules, self.generation)
    }

    fn load(&mut self, rules: &Ruleset, generation: u32) -> Result<(), Error> {
        self.send(encode::encode_replace(rules, &self.settings, generation))?;
        self.generation = generation;
        self.loaded(rules);
        Ok(())
    }

    /// Notes what the kernel has now.
    fn loaded(&mut self, rules: &Ruleset) {
        self.kinds = rules.sets.iter().map(|(n, s)| (n.clone(), s.kind.clone())).collect();
        self.stamps = stamp_chains(&rules.chains);
    }

    /// Makes a change in one transaction. After an error that [`Error::is_out_of_step`], load the whole.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Error> {
        if delta.is_empty() {
            return Ok(());
        }
        let generation =
            if delta.revokes { self.settings.next_generation(self.generation) } else { self.generation };
        let changed = |name: &Name| delta.changed_chains.iter().any(|(n, _)| n == name);
        let stamps: Vec<(Name, Chain)> = if delta.revokes {
            self.stamps.iter().filter(|(n, _)| !changed(n)).map(|(n, c)| (n.clone(), c.clone())).collect()
        } else {
            Vec::new()
        };
        let kinds = |name: &Name| {
            let fresh = delta.new_sets.iter().find(|(n, _)| n == name).map(|(_, s)| s.kind.clone());
            fresh.or_else(|| self.kinds.get(name).cloned())
        };
        let previous = delta.revokes.then_some(self.generation);
        let batch = encode::encode_delta(delta, &self.settings, generation, kinds, previous, &stamps);
        self.send(batch)?;
        self.generation = generation;
        for (name, set) in &delta.new_sets {
            self.kinds.insert(name.clone(), set.kind.clone());
        }
        for name in &delta.old_sets {
            self.kinds.remove(name);
        }
        let fresh = delta.new_chains.iter().chain(&delta.changed_chains);
        self.stamps.extend(stamp_chains(fresh.map(|(n, c)| (n, c))));
        self.stamps.retain(|name, _| !delta.old_chains.contains(name));
        Ok(())
    }

    /// How the kernel's table differs from what it should be; empty if it does not.
    pub fn differences(&mut self, want: &Ruleset) -> Result<Vec<Difference>, Error> {
        // A change by somebody else in the middle of the listing shows up as an interruption: look again.
        for _ in 0..4 {
            match dump::differences(&mut self.socket, &self.settings, self.generation, want) {
                Err(NetlinkError::DumpInterrupted) => {}
                other => return Ok(other?),
            }
        }
        Err(NetlinkError::DumpInterrupted.into())
    }

    /// The live counters of all rules that count.
    pub fn counters(&mut self) -> Result<Vec<RuleCounter>, Error> {
        Ok(dump::counters(&mut self.socket, &self.settings)?)
    }

    /// Other people's chains that refuse our traffic.
    pub fn foreign_drops(&mut self) -> Result<Vec<ForeignDrop>, Error> {
        Ok(foreign::drops(&mut self.socket, &self.settings)?)
    }

    /// Removes the table: nothing is enforced any more.
    pub fn remove(&mut self) -> Result<(), Error> {
        self.send(encode::encode_remove(&self.settings))
    }

    fn send(&mut self, mut batch: Batch) -> Result<(), Error> {
        let report = self.socket.transact_atomic(&mut batch)?;
        refused(report)
    }
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
