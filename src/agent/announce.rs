//! From endpoints to originated prefixes.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    bgp::{rib::LocalRoute, speaker::SpeakerHandle, wire::Origin},
    cni::attachment::Attachment,
    model::{Identity, Prefix},
};

/// How long an ADD waits for its prefix to reach the established neighbours' transmit queues. A neighbour that takes
/// nothing for so long is stuck, and must not hold up containers.
const WAIT: Duration = Duration::from_secs(2);

/// Hands prefixes to the speaker, if there is one.
#[derive(Debug)]
pub(super) struct Announcer {
    speaker: Option<SpeakerHandle>,
    /// The labels that travel in full.
    expand: BTreeSet<String>,
    runtime: tokio::runtime::Handle,
}

impl Announcer {
    /// Without a speaker for now; called inside the runtime that the speaker will run on.
    pub(super) fn new(runtime: tokio::runtime::Handle, expand: BTreeSet<String>) -> Self {
        Self { speaker: None, expand, runtime }
    }

    /// Changes which labels travel in full; true if that is a change, so that everything must be announced again.
    pub(super) fn set_expand(&mut self, expand: &BTreeSet<String>) -> bool {
        let changed = self.expand != *expand;
        self.expand.clone_from(expand);
        changed
    }

    /// From now on everything goes to this speaker.
    pub(super) fn set_speaker(&mut self, speaker: SpeakerHandle) {
        self.speaker = Some(speaker);
    }

    /// What the attachment's addresses are announced with.
    pub(super) fn routes(&self, attachment: &Attachment) -> Vec<(Prefix, LocalRoute)> {
        let endpoint = &attachment.endpoint;
        let full = endpoint.labels.iter().filter(|(key, _)| self.expand.contains(*key));
        let identity = Some(Arc::new(Identity::of_endpoint(&endpoint.labels).with_full(full)));
        // As other routers announce what they have from the kernel; what has just moved here is better.
        let taken_over = match (attachment.takes_over(SystemTime::now()), attachment.moved_again) {
            (false, _) => Origin::Incomplete,
            (true, false) => Origin::Egp,
            (true, true) => Origin::Igp,
        };
        let route = |addr| LocalRoute {
            identity: identity.clone(),
            sequence: attachment.number(addr),
            origin: Some(attachment.number(addr).map_or(Origin::Incomplete, |_| taken_over)),
            ..LocalRoute::default()
        };
        endpoint.addresses().map(|addr| (Prefix::host(addr), route(addr))).collect()
    }

    /// Announces the endpoint's addresses with its identity; returns when they are on their way to every neighbour.
    pub(super) fn announce(&self, attachment: &Attachment) {
        self.originate(attachment.endpoint.id.as_str(), self.routes(attachment));
    }

    /// Announces what is announced already, with what has changed.
    pub(super) fn announce_again<'a>(&self, attachments: impl Iterator<Item = &'a Attachment>) {
        self.originate("all", attachments.flat_map(|a| self.routes(a)).collect());
    }

    fn originate(&self, endpoint: &str, routes: Vec<(Prefix, LocalRoute)>) {
        let Some(speaker) = &self.speaker else { return };
        match self.runtime.block_on(speaker.originate(routes, WAIT)) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(endpoint, "a neighbour has not taken the announcement within {WAIT:?}");
            }
            Err(error) => tracing::error!(endpoint, "not announced: {error}"),
        }
    }

    /// Takes the announcement back.
    pub(super) fn withdraw(&self, attachment: &Attachment) {
        let Some(speaker) = &self.speaker else { return };
        let prefixes = attachment.endpoint.addresses().map(Prefix::host).collect();
        match self.runtime.block_on(speaker.withdraw(prefixes, WAIT)) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(endpoint = %attachment.endpoint.id, "a neighbour has not taken the withdrawal within {WAIT:?}");
            }
            Err(error) => tracing::error!(endpoint = %attachment.endpoint.id, "not withdrawn: {error}"),
        }
    }
}
