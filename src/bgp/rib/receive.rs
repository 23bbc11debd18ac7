//! What an UPDATE does.

use std::{sync::Arc, time::Instant};

use super::{
    Rib,
    attrs::AttrId,
    config::PeerParams,
    import::{self, Announcement},
    limit::Verdict,
    output::{Rejection, RibEvent},
};
use crate::{
    bgp::{
        PeerId,
        wire::{Nlri, PathAttributes, Reach, Update},
    },
    model::Family,
};

impl Rib {
    /// An UPDATE of an established peer. RFC 4271 section 9: withdrawals first, then announcements.
    pub fn update(&mut self, peer: PeerId, update: Update, now: Instant) {
        self.tick(now);
        // Also what others have lost: what comes after it counts more.
        self.settle();
        if !self.store.peers.get(&peer).is_some_and(|entry| entry.up) {
            return;
        }
        if let Some(family) = update.end_of_rib() {
            self.end_of_rib(peer, family);
            self.check_convergence(now);
            return;
        }
        for unreach in &update.unreach {
            for nlri in &unreach.nlri {
                self.withdraw_path(peer, nlri);
            }
        }
        let Update { reach, attributes, .. } = update;
        let mut attributes = Some(attributes);
        let last = reach.len().saturating_sub(1);
        for (i, reach) in reach.iter().enumerate() {
            // Two in one UPDATE are rare; the last one takes the attributes without a copy.
            let attributes = if i == last { attributes.take() } else { attributes.clone() };
            self.reach(peer, reach, attributes.unwrap_or_default(), now);
        }
    }

    fn reach(&mut self, peer: PeerId, reach: &Reach, attributes: PathAttributes, now: Instant) {
        let seconds = self.seconds(now);
        let family = reach.family;
        // Shared, so that they can be read while the store changes.
        let config = Arc::clone(&self.store.config);
        let Some(entry) = self.store.peers.get_mut(&peer) else { return };
        let params = Arc::clone(&entry.params);
        let checked = if params.families[family].is_none() {
            Err(Rejection::Family)
        } else {
            import::check(&config, &params, &attributes, reach.next_hop)
        };
        if let Err(reason) = checked {
            for nlri in &reach.nlri {
                self.reject(peer, nlri, reason);
            }
            return;
        }
        let mut announcement = Announcement::received(&config, &params, peer, attributes, reach.next_hop);
        for nlri in &reach.nlri {
            match announcement.import(&mut self.store.attrs, nlri.prefix) {
                Err(reason) => self.reject(peer, nlri, reason),
                Ok(imported) => {
                    self.count_stripped(peer, family, imported.stripped);
                    self.announce_path(peer, nlri, imported.set, seconds);
                }
            }
        }
        announcement.finish(&mut self.store.attrs);
    }

    /// Keeps an announced path, unless the peer has too many. The announcement has a reference to the set of its own.
    fn announce_path(&mut self, peer: PeerId, nlri: &Nlri, set: AttrId, seconds: u32) {
        let family = nlri.prefix.family();
        let node = self.store.tables[family].find_or_insert(nlri.prefix);
        let known = self.store.path_of(family, node, peer, nlri.path_id);
        let Some(entry) = self.store.peers.get_mut(&peer) else { return };
        let state = &mut entry.families[family];
        state.counters.announced += 1;
        if known.is_none() {
            let limit = entry.params.families[family].and_then(|f| f.max_prefixes);
            let verdict = state.limit.one_more(limit, state.paths);
            let (count, limit) = (state.paths + 1, limit.map_or(u32::MAX, |limit| limit.limit));
            match verdict {
                Verdict::Fine => {}
                Verdict::Warn => {
                    self.events.push_back(RibEvent::MaxPrefixWarning { peer, family, count, limit });
                }
                Verdict::Exceeded | Verdict::Drop => {
                    state.counters.reject(Rejection::MaxPrefix);
                    if verdict == Verdict::Exceeded {
                        self.events.push_back(RibEvent::MaxPrefixExceeded { peer, family, limit });
                    }
                    self.store.tables[family].list_if_empty(node);
                    self.unsaid(peer, nlri.prefix);
                    return;
                }
            }
        }
        self.store.attrs.retain(set);
        let effect = self.store.announce(family, node, known, peer, nlri.path_id, set, seconds);
        self.mark(family, node, effect);
        self.heard(nlri.prefix);
    }

    /// Another limit of an established peer counts at once.
    pub(super) fn limit_changed(&mut self, peer: PeerId, family: Family, before: &PeerParams) {
        let limit_of = |params: &PeerParams| params.families[family].and_then(|f| f.max_prefixes);
        let Some(entry) = self.store.peers.get_mut(&peer) else { return };
        let now = limit_of(&entry.params);
        if limit_of(before) == now {
            return;
        }
        let state = &mut entry.families[family];
        let (count, limit) = (state.paths, now.map_or(u32::MAX, |now| now.limit));
        match state.limit.changed(now, count) {
            Verdict::Fine | Verdict::Drop => {}
            Verdict::Warn => self.events.push_back(RibEvent::MaxPrefixWarning { peer, family, count, limit }),
            Verdict::Exceeded => self.events.push_back(RibEvent::MaxPrefixExceeded { peer, family, limit }),
        }
    }

    /// RFC 7606 section 2 (treat-as-withdraw): what is not accepted replaces what was.
    fn reject(&mut self, peer: PeerId, nlri: &Nlri, reason: Rejection) {
        if let Some(entry) = self.store.peers.get_mut(&peer) {
            let state = &mut entry.families[nlri.prefix.family()];
            state.counters.announced += 1;
            state.counters.reject(reason);
            state.rejected_by_rules |= reason == Rejection::Policy;
            state.rejected = true;
        }
        self.remove_path(peer, nlri);
    }

    /// Counts the prefixes of an UPDATE that the decoder made a withdrawal for its errors (RFC 7606 section 2); call it
    /// before [`Rib::update`].
    pub fn count_malformed(&mut self, peer: PeerId, update: &Update) {
        let Some(entry) = self.store.peers.get_mut(&peer) else { return };
        for unreach in &update.unreach {
            let state = &mut entry.families[unreach.family];
            state.counters.rejected[Rejection::Malformed as usize] += unreach.nlri.len() as u64;
        }
    }

    fn withdraw_path(&mut self, peer: PeerId, nlri: &Nlri) {
        if let Some(entry) = self.store.peers.get_mut(&peer) {
            entry.families[nlri.prefix.family()].counters.withdrawn += 1;
        }
        self.remove_path(peer, nlri);
    }

    fn remove_path(&mut self, peer: PeerId, nlri: &Nlri) {
        let family = nlri.prefix.family();
        if let Some((node, effect)) = self.store.withdraw(peer, nlri.prefix, nlri.path_id) {
            self.mark(family, node, effect);
        }
        self.unsaid(peer, nlri.prefix);
    }

    fn count_stripped(&mut self, peer: PeerId, family: Family, stripped: usize) {
        if stripped > 0
            && let Some(entry) = self.store.peers.get_mut(&peer)
        {
            let state = &mut entry.families[family];
            state.counters.identities_stripped += stripped as u64;
            state.stripped = true;
        }
    }
}
