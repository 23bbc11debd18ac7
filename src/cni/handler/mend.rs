//! Host ends that somebody has changed are put right: at once where the kernel tells of it, and whatever it does not tell
//! of every `[ipam] audit_seconds`.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::{Handler, Now};
use crate::{
    cni::{
        attach::{AttachError, Difference},
        attachment::Attachment,
    },
    model::EndpointId,
};

/// Whoever changes a host end more often than this within [`AGAIN`] does it on purpose, or is a program: it is not raced
/// with, but put right at every audit only.
const AT_ONCE: u32 = 5;
const AGAIN: Duration = Duration::from_secs(60);

/// What is known of changed host ends.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// The interfaces that the kernel has told something of.
    told: BTreeSet<u32>,
    /// How often each endpoint was mended at once since when.
    lately: HashMap<EndpointId, (Instant, u32)>,
    /// Mended since the start.
    count: u64,
}

impl Mending {
    /// Whether an endpoint may be mended at once, once more.
    fn allows(&mut self, id: &EndpointId, now: Instant) -> bool {
        self.lately.retain(|_, (since, _)| now.saturating_duration_since(*since) < AGAIN);
        let (_, count) = self.lately.entry(id.clone()).or_insert((now, 0));
        *count += 1;
        if *count == AT_ONCE + 1 {
            tracing::warn!(
                endpoint = %id,
                "somebody changes its host end again and again: from now on it is put right every audit_seconds only"
            );
        }
        *count <= AT_ONCE
    }
}

impl Handler {
    /// Says that an interface with this index has changed. It is looked at by [`Handler::look_at_told`].
    pub fn end_changed(&mut self, ifindex: u32) {
        self.mending.told.insert(ifindex);
    }

    /// How often a host end was put right since the start.
    pub fn mended(&self) -> u64 {
        self.mending.count
    }

    /// Looks at the host ends that the kernel has told of, and puts them right.
    pub fn look_at_told(&mut self, now: Now) {
        let told = std::mem::take(&mut self.mending.told);
        if told.is_empty() {
            return;
        }
        let attachments: Vec<Attachment> =
            self.attachments.values().filter(|a| told.contains(&a.ifindex)).cloned().collect();
        for attachment in attachments {
            let differences = self.attacher.differences_now(&attachment);
            let found = differences.as_ref().is_ok_and(|list| !list.is_empty());
            if !found || self.mending.allows(&attachment.endpoint.id, now.mono) {
                self.mend(&attachment, differences);
            }
        }
    }

    /// Looks at all host ends, and puts them right.
    pub fn mend_all(&mut self) {
        self.mending.told.clear();
        let ends = match self.attacher.ends() {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(%error, "cannot look at the host ends");
                return;
            }
        };
        for attachment in self.attachments.values().cloned().collect::<Vec<_>>() {
            let differences = self.attacher.end_differences(&attachment, &ends);
            self.mend(&attachment, Ok(differences));
        }
    }

    /// Puts right whatever of an endpoint's host side is not as it was made, its routes included.
    pub(super) fn put_right(&mut self, attachment: &Attachment) -> Result<(), AttachError> {
        let differences = self.attacher.differences_now(attachment)?;
        self.attacher.mend_end(attachment, &differences)?;
        self.tell_mended(attachment, &differences);
        Ok(())
    }

    fn mend(&mut self, attachment: &Attachment, found: Result<Vec<Difference>, AttachError>) {
        let mended = found.and_then(|differences| {
            if !differences.is_empty() {
                self.attacher.mend_end(attachment, &differences)?;
            }
            Ok(differences)
        });
        match mended {
            Ok(differences) => self.tell_mended(attachment, &differences),
            Err(error) => {
                tracing::warn!(endpoint = %attachment.endpoint.key, %error, "the host end is not put right");
            }
        }
    }

    fn tell_mended(&mut self, attachment: &Attachment, differences: &[Difference]) {
        if differences.is_empty() {
            return;
        }
        self.mending.count += 1;
        let what: Vec<String> = differences.iter().map(ToString::to_string).collect();
        let endpoint = &attachment.endpoint;
        tracing::warn!(endpoint = %endpoint.key, interface = %endpoint.id, "the host end {}: put right", what.join(", "));
    }
}
