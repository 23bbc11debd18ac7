//! From endpoints to originated prefixes.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::config::PolicyConfig;
use crate::{
    bgp::{
        rib::LocalRoute,
        speaker::{HandingOver, SpeakerError, SpeakerHandle},
        wire::Origin,
    },
    cni::attachment::Attachment,
    model::{EndpointId, Identity, Prefix},
};

/// How long an ADD waits for its prefix to reach the established neighbours' transmit queues. A neighbour that takes
/// nothing for so long is stuck, and must not hold up containers.
const WAIT: Duration = Duration::from_secs(2);

/// Hands prefixes to the speaker, if there is one.
#[derive(Debug)]
pub(super) struct Announcer {
    speaker: Option<SpeakerHandle>,
    telling: Telling,
    runtime: tokio::runtime::Handle,
    /// What has been begun and not been waited for.
    begun: Option<(EndpointId, Begun)>,
}

/// What neighbours are told of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Telling {
    /// The labels that travel in full.
    expand: BTreeSet<String>,
    /// Of an endpoint whose labels nobody knows nothing is told; else that it has none.
    deny_unknown: bool,
}

impl Telling {
    pub(super) fn of(config: &PolicyConfig) -> Self {
        Self { expand: config.expand.clone(), deny_unknown: config.deny_unknown }
    }
}

/// On its way to the neighbours, or why not.
type Begun = Result<HandingOver, SpeakerError>;

impl Announcer {
    /// Without a speaker for now; called inside the runtime that the speaker will run on.
    pub(super) fn new(runtime: tokio::runtime::Handle, telling: Telling) -> Self {
        Self { speaker: None, telling, runtime, begun: None }
    }

    /// Changes what is told; true if that is a change, so that everything must be announced again.
    pub(super) fn set_telling(&mut self, telling: Telling) -> bool {
        let changed = self.telling != telling;
        self.telling = telling;
        changed
    }

    /// From now on everything goes to this speaker.
    pub(super) fn set_speaker(&mut self, speaker: SpeakerHandle) {
        self.speaker = Some(speaker);
    }

    /// What the attachment's addresses are announced with.
    pub(super) fn routes(&self, attachment: &Attachment) -> Vec<(Prefix, LocalRoute)> {
        let endpoint = &attachment.endpoint;
        let full = endpoint.labels.iter().filter(|(key, _)| self.telling.expand.contains(*key));
        // As if there were no labels would be a lie: negative selectors elsewhere would allow it.
        let is_known = !(attachment.lacks_labels() && self.telling.deny_unknown);
        let identity = is_known.then(|| Arc::new(Identity::of_endpoint(&endpoint.labels).with_full(full)));
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

    /// Begins to announce the endpoint's addresses; [`Self::announce`] waits for it.
    pub(super) fn begin(&mut self, attachment: &Attachment) {
        if let Some(speaker) = &self.speaker {
            let handing = speaker.begin_originate(self.routes(attachment), WAIT);
            self.begun = Some((attachment.endpoint.id.clone(), handing));
        }
    }

    /// Announces the endpoint's addresses with its identity; returns when they are on their way to every neighbour.
    pub(super) fn announce(&mut self, attachment: &Attachment) {
        let id = &attachment.endpoint.id;
        let handing = if let Some((_, handing)) = self.begun.take_if(|(of, _)| of == id) {
            handing
        } else {
            let Some(speaker) = &self.speaker else { return };
            speaker.begin_originate(self.routes(attachment), WAIT)
        };
        self.wait(id.as_str(), "announcement", handing);
    }

    /// Announces what is announced already, with what has changed.
    pub(super) fn announce_again<'a>(&self, attachments: impl Iterator<Item = &'a Attachment>) {
        let Some(speaker) = &self.speaker else { return };
        let routes = attachments.flat_map(|a| self.routes(a)).collect();
        self.wait("all", "announcement", speaker.begin_originate(routes, WAIT));
    }

    /// Begins to take the announcement back; [`Self::end_withdrawal`] waits for it.
    pub(super) fn begin_withdrawal(&mut self, attachment: &Attachment) {
        if let Some(speaker) = &self.speaker {
            let prefixes = attachment.endpoint.addresses().map(Prefix::host).collect();
            let handing = speaker.begin_withdraw(prefixes, WAIT);
            self.begun = Some((attachment.endpoint.id.clone(), handing));
        }
    }

    /// Waits for a withdrawal that has been begun.
    pub(super) fn end_withdrawal(&mut self, attachment: &Attachment) {
        let id = &attachment.endpoint.id;
        if let Some((_, handing)) = self.begun.take_if(|(of, _)| of == id) {
            self.wait(id.as_str(), "withdrawal", handing);
        }
    }

    fn wait(&self, endpoint: &str, what: &str, handing: Begun) {
        let done = handing.and_then(|handing| self.runtime.block_on(handing.done()));
        match done {
            Ok(true) => {}
            Ok(false) => tracing::warn!(endpoint, "a neighbour has not taken the {what} within {WAIT:?}"),
            Err(error) => tracing::error!(endpoint, "no {what}: {error}"),
        }
    }
}
