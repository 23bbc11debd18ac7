//! All update groups, and which peer is in which.

use bytes::Bytes;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::{
    Rib,
    export::ExportKey,
    group::Group,
    member::Member,
    monitor::Change,
    store::{Effect, Store},
    table::NodeId,
};
use crate::{bgp::PeerId, model::Family};

/// The update groups by number.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Option<Box<Group>>>,
    by_key: HashMap<ExportKey, usize, FxBuildHasher>,
}

impl Groups {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flatten().map(|group| &**group)
    }

    pub(super) fn get(&self, number: usize) -> Option<&Group> {
        self.groups.get(number)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Group> {
        self.groups.get_mut(number)?.as_deref_mut()
    }

    pub(super) fn mark(&mut self, family: Family, node: NodeId, effect: Effect) {
        for group in self.groups.iter_mut().flatten() {
            group.mark(family, node, effect);
        }
    }

    pub(super) fn refer_to(&self, family: Family, node: NodeId) -> bool {
        self.iter().any(|group| group.refers_to(family, node))
    }

    /// Whether nothing refers to a node but what is advertised.
    pub(super) fn are_idle(&self) -> bool {
        self.iter()
            .all(|group| !group.is_dirty() && group.members.values().all(|member| member.place().is_some()))
    }

    pub(super) fn pull(
        &mut self,
        store: &mut Store,
        number: usize,
        peer: PeerId,
        max: usize,
        converged: bool,
    ) -> Vec<Bytes> {
        match self.get_mut(number) {
            Some(group) => group.pull(store, peer, max, converged),
            None => Vec::new(),
        }
    }

    /// Members that may have something to pull.
    pub(super) fn with_output(&self, converged: bool) -> Vec<PeerId> {
        let mut peers = Vec::new();
        for group in self.iter() {
            let (dirty, end) = (group.is_dirty(), group.log_end());
            let converged = converged || !group.key.sends_learned();
            let has_output =
                |member: &Member| dirty || member.has_output(end) || converged && member.owes_end_of_rib();
            peers.extend(group.members.iter().filter(|(_, member)| has_output(member)).map(|(id, _)| *id));
        }
        peers
    }

    /// Whether every member has pulled the current state of a node.
    pub(super) fn settled(&self, family: Family, node: NodeId) -> bool {
        self.iter().all(|group| {
            let pulled =
                |member: &Member| !member.waits_for(family, node) && member.has_pulled(group.urgent_end());
            !group.is_node_dirty(family, node) && group.members.values().all(pulled)
        })
    }

    /// Whether every member has pulled all that went first.
    pub(super) fn all_urgent_pulled(&self) -> bool {
        self.iter().all(|group| group.members.values().all(|member| member.has_pulled(group.urgent_end())))
    }

    /// The number of the group with this key, made if there is none.
    fn find_or_make(&mut self, store: &mut Store, key: ExportKey) -> usize {
        if let Some(&number) = self.by_key.get(&key) {
            return number;
        }
        let group = Box::new(Group::new(key.clone(), store));
        let number = self.groups.iter().position(Option::is_none).unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        self.groups[number] = Some(group);
        self.by_key.insert(key, number);
        number
    }

    /// Takes a member out of its group; the last one takes the group along.
    fn remove(&mut self, store: &mut Store, number: usize, peer: PeerId) -> Option<Member> {
        let group = self.get_mut(number)?;
        let member = group.members.remove(&peer);
        if group.members.is_empty() {
            if let Some(group) = self.groups[number].take() {
                self.by_key.remove(&group.key);
                group.dissolve(store);
            }
        } else {
            group.trim();
        }
        member
    }
}

impl Rib {
    /// Makes an established peer a member of the group of its parameters.
    pub(super) fn join_group(&mut self, peer: PeerId) {
        let Some(entry) = self.store.peers.get(&peer) else { return };
        let key = ExportKey::new(&self.store.config, &entry.params, self.draining);
        // Changes that wait would count as differences from what is sent now.
        let number = self.groups.find_or_make(&mut self.store, key);
        if let Some(group) = self.groups.get_mut(number) {
            let member = Member::new(group, &self.store, peer);
            group.members.insert(peer, member);
        }
        if let Some(entry) = self.store.peers.get_mut(&peer) {
            entry.group = Some(number);
        }
    }

    pub(super) fn leave_group(&mut self, peer: PeerId) {
        if let Some(entry) = self.store.peers.get_mut(&peer)
            && let Some(number) = entry.group.take()
        {
            self.groups.remove(&mut self.store, number, peer);
        }
    }

    /// Moves a member to another group if its key has changed.
    pub(super) fn regroup(&mut self, peer: PeerId) {
        let Some(entry) = self.store.peers.get(&peer) else { return };
        let Some(number) = entry.group else { return };
        let key = ExportKey::new(&self.store.config, &entry.params, self.draining);
        let Some(group) = self.groups.get_mut(number).filter(|group| group.key != key) else { return };
        group.leave_log(&mut self.store, peer);
        // The new group first: sets that both refer to need not be freed and made again.
        let new = self.groups.find_or_make(&mut self.store, key);
        let Some(member) = self.groups.remove(&mut self.store, number, peer) else { return };
        if let Some(group) = self.groups.get_mut(new) {
            group.adopt(&self.store, peer, member);
        }
        if let Some(entry) = self.store.peers.get_mut(&peer) {
            entry.group = Some(new);
        }
        if let Some(journal) = &mut self.store.journal {
            journal.push(Change::Regrouped(peer));
        }
    }

    pub(super) fn regroup_all(&mut self) {
        let mut peers: Vec<PeerId> = self.store.peers.keys().copied().collect();
        peers.sort_unstable();
        for peer in peers {
            self.regroup(peer);
        }
    }

    pub(super) fn send_again(&mut self, peer: PeerId, family: Family) {
        let Some(entry) = self.store.peers.get(&peer) else { return };
        let marks = entry.params.enhanced_refresh;
        if let Some(group) = entry.group.and_then(|number| self.groups.get_mut(number)) {
            group.send_again(&mut self.store, peer, family, marks);
        }
    }
}
