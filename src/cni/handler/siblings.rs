//! Port mappings of a container with several networks. Runtimes give all of its mappings to each of them; the first serves
//! them, and the next one when that is gone.

use super::{Handler, Host};
use crate::cni::{attachment::Attachment, types::PortMapping};

/// Whether `one` has every family that `other` has.
fn covers(one: &Attachment, other: &Attachment) -> bool {
    let (one, other) = (&one.endpoint, &other.endpoint);
    (one.ipv4.is_some() || other.ipv4.is_none()) && (one.ipv6.is_some() || other.ipv6.is_none())
}

fn are_siblings(one: &Attachment, other: &Attachment) -> bool {
    one.endpoint.id != other.endpoint.id && one.endpoint.key.container_id == other.endpoint.key.container_id
}

impl Handler {
    /// Puts aside the mappings that another network of the same container serves.
    pub(super) fn leave_to_siblings(&self, attachment: &mut Attachment) {
        if attachment.port_mappings.is_empty() {
            return;
        }
        let all = std::mem::take(&mut attachment.port_mappings);
        let siblings: Vec<&Attachment> = self
            .attachments
            .values()
            .filter(|other| are_siblings(other, attachment) && covers(other, attachment))
            .collect();
        let served = |mapping: &PortMapping| siblings.iter().any(|s| s.port_mappings.contains(mapping));
        (attachment.spare_mappings, attachment.port_mappings) = all.into_iter().partition(served);
    }

    /// Has another network of the same container serve what one that is gone has served.
    pub(super) fn serve_instead_of(&mut self, host: &mut impl Host, gone: &Attachment) {
        if gone.port_mappings.is_empty() {
            return;
        }
        let takes_over = |other: &&Attachment| are_siblings(other, gone) && !other.spare_mappings.is_empty();
        let Some(mut heir) = self.attachments.values().find(takes_over).cloned() else { return };
        let mappings = std::mem::take(&mut heir.spare_mappings);
        let (now, later): (Vec<_>, Vec<_>) =
            mappings.into_iter().partition(|mapping| gone.port_mappings.contains(mapping));
        heir.port_mappings.extend(now);
        heir.spare_mappings = later;
        let key = heir.endpoint.key.clone();
        if let Err(error) = self.store.put(&heir) {
            tracing::warn!(endpoint = %key, %error, "cannot note that it serves port mappings now");
        }
        // What the host end needs for them.
        if let Err(error) = self.attacher.repair_host_side(&heir) {
            tracing::warn!(endpoint = %key, %error, "cannot prepare the interface for port mappings");
        }
        if let Err(error) = self.enforce_living(host, &heir) {
            tracing::warn!(endpoint = %key, %error, "cannot take port mappings over");
        }
        self.keep(heir);
    }
}
