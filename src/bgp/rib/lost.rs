//! What neighbours told of endpoints before their session was lost.
//!
//! A route dies with its session, but the endpoint behind it is as alive as it was, and where a default route leads to its
//! host it goes on sending. What it was known as is therefore kept here when a path with an identity goes for any other
//! reason than that somebody said so, until somebody says something: a new route for the prefix, a withdrawal, or
//! End-of-RIB of the neighbour without it. At most what was known is kept, and not longer than the configured time.

use std::{collections::HashMap, sync::Arc, time::Instant};

use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::{Rib, config::RibConfig, output::Told, table::node_flag};
use crate::{
    bgp::{PeerId, wire::PerFamily},
    model::{Family, Identity, Prefix},
};

/// What one neighbour told of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Word {
    /// The neighbour as configured: a dynamic one that comes back is another peer, with the same name.
    pub(super) teller: Arc<str>,
    pub(super) since: Instant,
    pub(super) sequence: Option<u32>,
    pub(super) identity: Arc<Identity>,
}

/// The words of neighbours whose sessions were lost. Of nearly all prefixes there is one, or none.
#[derive(Debug, Default)]
pub(super) struct Lost {
    words: PerFamily<HashMap<Prefix, SmallVec<[Word; 1]>, FxBuildHasher>>,
    /// No word is older.
    oldest: Option<Instant>,
}

impl Lost {
    fn is_empty(&self) -> bool {
        Family::ALL.into_iter().all(|family| self.words[family].is_empty())
    }

    /// Keeps a word. Of several paths of one neighbour, the newest attachment counts, and the best of equal ones, which
    /// goes first.
    pub(super) fn keep(&mut self, prefix: Prefix, word: Word) {
        self.oldest = Some(self.oldest.map_or(word.since, |oldest| oldest.min(word.since)));
        let words = self.words[prefix.family()].entry(prefix).or_default();
        match words.iter_mut().find(|known| known.teller == word.teller) {
            Some(known) if known.sequence < word.sequence => *known = word,
            Some(_) => {}
            None => words.push(word),
        }
    }

    /// What counts of a prefix: the newest attachment, and of equal ones what was lost last.
    pub(super) fn best(&self, prefix: Prefix) -> Option<&Word> {
        self.words[prefix.family()].get(&prefix)?.iter().max_by_key(|word| word.sequence)
    }

    /// A route has come, and what was known before counts no more. Whether anything was.
    fn forget(&mut self, prefix: Prefix) -> bool {
        self.words[prefix.family()].remove(&prefix).is_some()
    }

    /// Forgets words of a family for which `keep` says so, and names the prefixes that had them.
    fn retain(&mut self, family: Family, mut keep: impl FnMut(Prefix, &Word) -> bool) -> Vec<Prefix> {
        let mut changed = Vec::new();
        self.words[family].retain(|prefix, words| {
            let before = words.len();
            words.retain(|word| keep(*prefix, word));
            if words.len() < before {
                changed.push(*prefix);
            }
            !words.is_empty()
        });
        if self.words[family].is_empty() {
            // Many may have been lost at once: give the memory back.
            self.words[family] = HashMap::default();
        }
        changed
    }
}

impl Rib {
    /// A route for the prefix was accepted: it counts, whatever it says of an identity.
    pub(super) fn heard(&mut self, prefix: Prefix) {
        if self.store.lost.forget(prefix) {
            self.told_otherwise([prefix]);
        }
    }

    /// A neighbour has withdrawn the prefix, or what it said was refused: its earlier word does not count any more.
    pub(super) fn unsaid(&mut self, peer: PeerId, prefix: Prefix) {
        if self.store.lost.is_empty() {
            return;
        }
        let Some(name) = self.store.peers.get(&peer).map(|entry| entry.params.name.clone()) else { return };
        let words = &mut self.store.lost.words[prefix.family()];
        let Some(known) = words.get_mut(&prefix) else { return };
        let before = known.len();
        known.retain(|word| word.teller != name);
        let changed = known.len() < before;
        if known.is_empty() {
            words.remove(&prefix);
        }
        if changed {
            self.told_otherwise([prefix]);
        }
    }

    /// A neighbour has told all it knows of a family.
    pub(super) fn complete(&mut self, peer: PeerId, family: Family) {
        let Some(entry) = self.store.peers.get_mut(&peer) else { return };
        if std::mem::replace(&mut entry.families[family].complete, true) {
            return;
        }
        let name = entry.params.name.clone();
        let changed = self.store.lost.retain(family, |_, word| word.teller != name);
        self.told_otherwise(changed);
        self.completed.push((name, family));
    }

    /// Neighbours that promise no End-of-RIB have told all they know after a while.
    pub(super) fn complete_unpromised(&mut self, now: Instant) {
        if self.next_complete().is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<_> = self.silent().filter(|(_, _, at)| *at <= now).map(|(p, f, _)| (p, f)).collect();
        for (peer, family) in due {
            self.complete(peer, family);
        }
    }

    /// When the next of them has.
    pub(super) fn next_complete(&self) -> Option<Instant> {
        self.silent().map(|(_, _, at)| at).min()
    }

    fn silent(&self) -> impl Iterator<Item = (PeerId, Family, Instant)> + '_ {
        let wait = self.store.config.unpromised;
        self.store.peers.iter().filter(|(_, entry)| entry.up).flat_map(move |(peer, entry)| {
            Family::ALL.into_iter().filter_map(move |family| {
                let promises = entry.params.families[family]?.sends_end_of_rib;
                let waits = !promises && !entry.families[family].complete;
                waits.then_some(()).and(entry.up_since).map(|since| (*peer, family, since + wait))
            })
        })
    }

    /// The neighbours, by name, that have told all they know of a family since the last call, each once a session.
    /// Nothing while best paths wait: whoever hears of it knows all that they told.
    pub fn poll_complete(&mut self) -> Vec<(Arc<str>, Family)> {
        if self.has_best_changes() || self.is_gathering() {
            return Vec::new();
        }
        std::mem::take(&mut self.completed)
    }

    /// Forgets what has been kept for as long as the configuration allows.
    pub(super) fn expire_lost(&mut self, now: Instant) {
        if self.next_lost().is_some_and(|at| at <= now) {
            self.forget_unless(|_, _| true, now);
        }
    }

    /// When the next identity has been kept for long enough.
    pub(super) fn next_lost(&self) -> Option<Instant> {
        self.store.lost.oldest?.checked_add(self.store.config.identity_hold)
    }

    /// Another configuration: neighbours that are no longer believed have never told anything.
    pub(super) fn lost_reconfigured(&mut self, before: &RibConfig, now: Instant) {
        let config = Arc::clone(&self.store.config);
        let same_domain = before.identity_domain == config.identity_domain;
        self.forget_unless(
            |prefix, word| {
                same_domain
                    && config.may_tell(&word.teller)
                    && config.identity_pools.iter().any(|pool| pool.covers(prefix))
            },
            now,
        );
    }

    fn forget_unless(&mut self, keep: impl Fn(Prefix, &Word) -> bool, now: Instant) {
        let hold = self.store.config.identity_hold;
        let mut oldest: Option<Instant> = None;
        for family in Family::ALL {
            let changed = self.store.lost.retain(family, |prefix, word| {
                let kept = now.saturating_duration_since(word.since) < hold && keep(prefix, word);
                if kept {
                    oldest = Some(oldest.map_or(word.since, |oldest| oldest.min(word.since)));
                }
                kept
            });
            self.told_otherwise(changed);
        }
        self.store.lost.oldest = oldest;
    }

    /// What is known of these prefixes is to be told anew.
    fn told_otherwise(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        for prefix in prefixes {
            let family = prefix.family();
            let table = &mut self.store.tables[family];
            let node = table.find_or_insert(prefix);
            table.node_mut(node).flags |= node_flag::REPORTED;
            table.list_if_empty(node);
            self.best.mark(family, node);
        }
    }
}

impl From<&Word> for Told {
    fn from(word: &Word) -> Self {
        Self { identity: word.identity.clone(), lost: Some(word.since) }
    }
}
