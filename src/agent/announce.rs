//! From endpoints to originated prefixes.

use std::{sync::Arc, time::Duration};

use crate::{
    bgp::{rib::LocalRoute, speaker::SpeakerHandle},
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
    runtime: tokio::runtime::Handle,
}

impl Announcer {
    /// Without a speaker for now; called inside the runtime that the speaker will run on.
    pub(super) fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { speaker: None, runtime }
    }

    /// From now on everything goes to this speaker.
    pub(super) fn set_speaker(&mut self, speaker: SpeakerHandle) {
        self.speaker = Some(speaker);
    }

    /// What the attachment's addresses are announced with.
    pub(super) fn routes(attachment: &Attachment) -> Vec<(Prefix, LocalRoute)> {
        let endpoint = &attachment.endpoint;
        let identity = Some(Arc::new(Identity::of_endpoint(&endpoint.labels)));
        let route = |addr| LocalRoute {
            identity: identity.clone(),
            sequence: attachment.number(addr),
            ..LocalRoute::default()
        };
        endpoint.addresses().map(|addr| (Prefix::host(addr), route(addr))).collect()
    }

    /// Announces the endpoint's addresses with its identity; returns when they are on their way to every neighbour.
    pub(super) fn announce(&self, attachment: &Attachment) {
        let Some(speaker) = &self.speaker else { return };
        match self.runtime.block_on(speaker.originate(Self::routes(attachment), WAIT)) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(endpoint = %attachment.endpoint.id, "a neighbour has not taken the announcement within {WAIT:?}");
            }
            Err(error) => tracing::error!(endpoint = %attachment.endpoint.id, "not announced: {error}"),
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
