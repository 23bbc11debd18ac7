//! Endpoints that live but are not all they were: what is missing, and what a person can do about it. Told until it is put
//! right.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::{Handler, Host};
use crate::{
    cni::{attachment::Attachment, types::CniError},
    model::{EndpointId, EndpointKey},
};

/// How many endpoints a line names.
const NAMED: usize = 8;

/// Something a person should know of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attention {
    /// What it is about.
    pub kind: AttentionKind,
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Its name.
    #[serde(skip)]
    pub key: EndpointKey,
    /// What is wrong, in words.
    pub text: String,
}

/// Kinds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// Its file was lost: known from the kernel alone.
    Rebuilt,
    /// And the kernel does not tell its labels.
    LabelsUnknown,
    /// A port mapping is not in force.
    HostPort,
    /// Another host announces one of its addresses.
    AddressMoved,
    /// One of its addresses is the host's own now, a neighbour's or a gateway's.
    AddressTaken,
    /// Policy or announcement has failed since the start.
    NotTakenUp,
}

impl AttentionKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Rebuilt,
        Self::LabelsUnknown,
        Self::HostPort,
        Self::AddressMoved,
        Self::AddressTaken,
        Self::NotTakenUp,
    ];

    /// As in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rebuilt => "rebuilt",
            Self::LabelsUnknown => "labels_unknown",
            Self::HostPort => "host_port",
            Self::AddressMoved => "address_moved",
            Self::AddressTaken => "address_taken",
            Self::NotTakenUp => "not_taken_up",
        }
    }

    /// What to do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Rebuilt => {
                "recreate the container if it had port mappings, rate limits or further source addresses; if it had none, \
                 `slash32 endpoints label ID KEY-` says that nothing is missing"
            }
            Self::LabelsUnknown => {
                "give each its labels again by `slash32 endpoints label ID KEY=VALUE` (`KEY-` if it had none), or recreate the \
                 container"
            }
            Self::AddressMoved => {
                "remove whichever of the two containers should not have it; this one gets it back when the other goes"
            }
            Self::AddressTaken => {
                "give it to one of the two only: take it from the host, or recreate the container with another"
            }
            Self::HostPort => "recreate the container with another host port, or free this one",
            Self::NotTakenUp => {
                "it is tried again every few seconds; if the reason stays, recreate the container"
            }
        }
    }
}

/// One line for each thing to do: endpoints with the same trouble share one.
pub fn lines(list: &[Attention]) -> Vec<String> {
    let mut groups: BTreeMap<(AttentionKind, &str), Vec<&Attention>> = BTreeMap::new();
    for item in list {
        groups.entry((item.kind, &item.text)).or_default().push(item);
    }
    let line = |((kind, text), of): ((AttentionKind, &str), Vec<&Attention>)| {
        let mut names: Vec<String> =
            of.iter().take(NAMED).map(|a| format!("{} ({})", a.endpoint, a.key)).collect();
        if of.len() > NAMED {
            names.push(format!("and {} more", of.len() - NAMED));
        }
        let plural = if of.len() == 1 { "" } else { "s" };
        format!("endpoint{plural} {}: {text}; {}", names.join(", "), kind.hint())
    };
    groups.into_iter().map(line).collect()
}

impl Handler {
    /// What a person should know of living endpoints.
    pub fn attention(&self) -> Vec<Attention> {
        let mut list = Vec::new();
        let mut note = |kind, attachment: &Attachment, text: String| {
            let (endpoint, key) = (attachment.endpoint.id.clone(), attachment.endpoint.key.clone());
            list.push(Attention { kind, endpoint, key, text });
        };
        for attachment in self.attachments.values() {
            let id = &attachment.endpoint.id;
            if attachment.rebuilt {
                let text =
                    "the file was lost, and with it port mappings and whatever else the kernel cannot tell";
                note(AttentionKind::Rebuilt, attachment, text.to_owned());
            }
            if attachment.lacks_labels() {
                let text = "the labels that policies select by are unknown, so while any policy selects by label it is cut off \
                            (unless `unknown_labels` of [policy] says otherwise)";
                note(AttentionKind::LabelsUnknown, attachment, text.to_owned());
            }
            for why in self.unmapped.get(id).into_iter().flatten() {
                note(AttentionKind::HostPort, attachment, format!("a port mapping is not in force: {why}"));
            }
            for addr in &attachment.given_up {
                let text = format!("{addr} is announced by another host, as the newer attachment of it");
                note(AttentionKind::AddressMoved, attachment, text);
            }
            for addr in attachment.endpoint.addresses() {
                if let Some(whose) = self.ipam.whose(addr) {
                    note(AttentionKind::AddressTaken, attachment, format!("{addr} is {whose}, too"));
                }
            }
            if let Some(why) = self.unfinished.get(id).filter(|why| !why.is_empty()) {
                note(AttentionKind::NotTakenUp, attachment, format!("not taken up after the start: {why}"));
            }
        }
        list
    }

    /// Puts policy and port mappings of a living endpoint in force; mappings that cannot be are left out and told.
    pub(super) fn enforce_living(
        &mut self,
        host: &mut impl Host,
        attachment: &Attachment,
    ) -> Result<(), CniError> {
        let id = &attachment.endpoint.id;
        let unmapped = host.enforce_living(attachment)?;
        let before = self.unmapped.remove(id).unwrap_or_default();
        for why in unmapped.iter().filter(|why| !before.contains(why)) {
            tracing::warn!(endpoint = %attachment.endpoint.key, why, "a port mapping is left out");
        }
        if !unmapped.is_empty() {
            self.unmapped.insert(id.clone(), unmapped);
        }
        Ok(())
    }

    /// Says that other ports of the host may be reserved now than before.
    pub fn host_ports_changed(&mut self, host: &mut impl Host) {
        self.map_again(host, |attachment, _| !attachment.port_mappings.is_empty());
    }

    /// Tries the mappings that are left out again: whoever had the port may be gone.
    pub(super) fn retry_mappings(&mut self, host: &mut impl Host) {
        self.map_again(host, |_, left_out| left_out);
    }

    fn map_again(&mut self, host: &mut impl Host, which: impl Fn(&Attachment, bool) -> bool) {
        let again = |a: &&Attachment| which(a, self.unmapped.contains_key(&a.endpoint.id));
        let list: Vec<Attachment> = self.attachments.values().filter(again).cloned().collect();
        for attachment in list {
            if let Err(error) = self.enforce_living(host, &attachment) {
                tracing::warn!(endpoint = %attachment.endpoint.key, %error, "cannot renew port mappings");
            }
        }
    }

    /// Brings the copies of files up to date. Not at once, as ADD and DEL are waited for.
    pub(super) fn write_copies(&mut self) {
        for id in std::mem::take(&mut self.uncopied) {
            let done = match self.attachments.get(&id) {
                Some(attachment) => self.store.put_copy(attachment),
                None => self.store.drop_copy(&id),
            };
            if let Err(error) = done {
                // A full disk, of which `status` tells; again when it changes, or after a restart.
                tracing::debug!(%id, %error, "a copy is not up to date");
            }
        }
    }

    /// Writes everything into the run directory again.
    pub fn write_files(&mut self) {
        if let Err(error) = self.store.make_dirs() {
            tracing::warn!(%error, "the files of endpoints cannot be written");
            return;
        }
        self.write_missing_files();
        self.note_elsewhere();
        self.uncopied.extend(self.attachments.keys().cloned());
        self.write_copies();
    }

    /// Writes the files of living endpoints that somebody has removed, before a restart would miss them.
    pub(super) fn write_missing_files(&mut self) {
        let there: HashSet<EndpointId> = match self.store.ids() {
            Ok(ids) => ids.into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot look for files that are missing");
                return;
            }
        };
        for attachment in self.attachments.values().filter(|a| !there.contains(&a.endpoint.id)) {
            let endpoint = &attachment.endpoint.key;
            match self.store.put(attachment) {
                Ok(()) => tracing::warn!(%endpoint, "the file was missing, and has been written again"),
                Err(error) => {
                    tracing::warn!(%endpoint, %error, "the file is missing, and cannot be written");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_with_the_same_trouble_share_a_line() {
        let one = |kind, container: usize, text: &str| {
            let key = EndpointKey {
                network: "n".into(),
                container_id: format!("c{container}"),
                ifname: "eth0".into(),
            };
            Attention { kind, endpoint: EndpointId(format!("s32{container}")), key, text: text.into() }
        };
        let mut list: Vec<_> = (0..10).map(|n| one(AttentionKind::Rebuilt, n, "lost")).collect();
        list.push(one(AttentionKind::HostPort, 3, "no"));
        let lines = lines(&list);
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(
            lines[0].starts_with("endpoints s320 (n/c0/eth0), ") && lines[0].contains("and 2 more: lost; ")
        );
        assert!(lines[1].starts_with("endpoint s323 (n/c3/eth0): no; "), "{}", lines[1]);
    }
}
