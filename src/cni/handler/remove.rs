//! DEL and GC.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Handler, Host, Now, needs};
use crate::{
    api::CniRequest,
    cni::{
        attachment::Attachment,
        fault,
        types::{CniError, DONE_KEY, NetConf, REMOVED_KEY, SpecVersion, code, names},
    },
    model::{EndpointId, EndpointKey},
};

impl Handler {
    /// DEL: by network, container and interface, never by address. Needs no namespace, no previous result and no
    /// configuration that ADD would accept; nothing to do is success.
    pub(super) fn del(
        &mut self,
        host: &mut impl Host,
        request: &CniRequest,
        now: Now,
    ) -> Result<Value, CniError> {
        let (_, network) = NetConf::essentials(&request.stdin)?;
        names::container_id(&request.container_id)?;
        names::ifname(&request.ifname)?;
        let key = EndpointKey {
            network,
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        };
        let id = EndpointId::of(&key);
        self.locate(&id, &request.netns);
        self.remove_key(host, &key, now)?;
        if request.stdin.get(DONE_KEY).is_some() {
            if let Err(error) = self.store.forget_owed(&id) {
                tracing::warn!(endpoint = %key, %error, "cannot remove the file of a released endpoint");
            }
            return Ok(Value::Null);
        }
        // Our plugin runs the other plugin's DEL now, and tells when that is done.
        Ok(Attachment::owed_answer(&self.store.owed_of(&id)?))
    }

    /// Of what is known from the kernel alone nobody has told where its namespace is. A DEL or another ADD may tell, and what ADD has left
    /// there besides the interface can be removed.
    pub(super) fn locate(&mut self, id: &EndpointId, path: &str) {
        let lost = self.attachments.get(id).filter(|a| a.endpoint.netns.is_empty() && !path.is_empty());
        let Some(mut attachment) = lost.cloned() else { return };
        if let Ok(ns) = self.attacher.open(path)
            && self.attacher.is_inside(&attachment, &ns)
        {
            path.clone_into(&mut attachment.endpoint.netns);
            attachment.netns_id = ns.id();
            self.keep(attachment);
        }
    }

    pub(super) fn remove_key(
        &mut self,
        host: &mut impl Host,
        key: &EndpointKey,
        now: Now,
    ) -> Result<(), CniError> {
        let id = EndpointId::of(key);
        match self.attachments.get(&id).cloned() {
            Some(attachment) => self.remove(host, &attachment, now),
            // What an attachment that we know nothing of has left in the kernel.
            None if self.attacher.has_end(&id)? => Ok(self.attacher.detach(&id)?),
            None => Ok(()),
        }
    }

    /// Takes an endpoint out of the world. Failures of the agent's side do not stop it: policy and BGP hold what
    /// should be against what is and will catch up. A link that cannot be taken down does: its address must not be
    /// given to another, so the attachment stays and DEL must come again.
    pub(super) fn remove(
        &mut self,
        host: &mut impl Host,
        attachment: &Attachment,
        now: Now,
    ) -> Result<(), CniError> {
        let id = &attachment.endpoint.id;
        let inside = self.attacher.enter_again(attachment);
        if let Err(error) = host.begin_withdrawal(attachment) {
            tracing::warn!(endpoint = %attachment.endpoint.key, %error, "cannot withdraw the addresses");
        }
        fault::point("del:withdrawn");
        if let Err(error) = self.attacher.detach_end(attachment) {
            host.end_withdrawal(attachment);
            return Err(error.into());
        }
        fault::point("del:detached");
        if let Some(mut inside) = inside
            && let Err(error) = self.attacher.hide(attachment, &mut inside)
        {
            tracing::debug!(endpoint = %attachment.endpoint.key, %error, "the container's interface stays in sight");
        }
        fault::point("del:hidden");
        if let Err(error) = host.unenforce(attachment) {
            tracing::warn!(endpoint = %attachment.endpoint.key, %error, "cannot lift the policy");
        }
        fault::point("del:unenforced");
        host.end_withdrawal(attachment);
        if attachment.delegate.is_some() {
            // The plugin that manages them decides when they are given again.
            self.ipam.give_back(id, now.mono);
        } else {
            self.ipam.release(id, now.mono);
        }
        // A file that stays (a read-only file system) does no harm: without its link it is dropped at the next start.
        if let Err(error) = self.store.release(attachment) {
            tracing::warn!(endpoint = %attachment.endpoint.key, %error, "the endpoint's file stays for now");
            self.left_over.push(attachment.clone());
        }
        fault::point("del:released");
        self.forget(id);
        self.unfinished.remove(id);
        self.unmapped.remove(id);
        for addr in &attachment.given_up {
            self.held_elsewhere.remove(addr);
        }
        self.serve_instead_of(host, attachment);
        Ok(())
    }

    /// GC: removes the network's attachments that the runtime does not list. Without the list, only those whose
    /// interface is gone. The answer lists those whose addresses another IPAM plugin has to be told of
    /// ([`REMOVED_KEY`]); it is for our plugin, and no result.
    pub(super) fn gc(
        &mut self,
        host: &mut impl Host,
        request: &CniRequest,
        now: Now,
    ) -> Result<Value, CniError> {
        let conf = NetConf::parse(&request.stdin)?;
        needs(conf.version, SpecVersion::V1_1_0, "GC")?;
        let ours: Vec<Attachment> =
            self.attachments.values().filter(|a| a.endpoint.key.network == conf.name).cloned().collect();
        let mut doomed = Vec::new();
        for attachment in ours {
            let key = &attachment.endpoint.key;
            let valid = match &conf.valid_attachments {
                Some(valid) => valid.iter().any(|(c, i)| *c == key.container_id && *i == key.ifname),
                None => self.attacher.is_alive(&attachment)?,
            };
            if !valid {
                doomed.push(attachment);
            }
        }
        let (mut failures, mut removed) = (Vec::new(), Vec::new());
        for attachment in doomed {
            let key = &attachment.endpoint.key;
            tracing::info!(endpoint = %key, "removed by GC");
            if let Err(error) = self.remove(host, &attachment, now) {
                failures.push(format!("{key}: {error}"));
            }
        }
        // Also those that went without a DEL some time ago. One that is there again has its address again.
        for owed in self.store.owed()?.into_iter().filter(|a| a.endpoint.key.network == conf.name) {
            let id = &owed.endpoint.id;
            let again = self.attachments.get(id).is_some_and(|living| living.has_giver_of(&owed));
            if !again {
                removed.push(owed.entry());
            }
            self.store.forget_owed(id)?;
        }
        if failures.is_empty() {
            return Ok(if removed.is_empty() { Value::Null } else { json!({ REMOVED_KEY: removed }) });
        }
        Err(CniError::new(code::ATTACH_FAILED, "some stale attachments could not be removed")
            .details(failures.join("; ")))
    }

    /// Says that a host end has disappeared without a DEL: its container's namespace is gone, and the kernel has
    /// taken the link along. The address is released, as nobody can use it any more.
    pub fn link_gone(&mut self, host: &mut impl Host, id: &EndpointId, now: Now) {
        let Some(attachment) = self.attachments.get(id).cloned() else { return };
        // The notification may be about an earlier link of the same name.
        if self.attacher.is_alive(&attachment).unwrap_or(true) {
            return;
        }
        tracing::info!(endpoint = %attachment.endpoint.key, "the container's namespace is gone: released");
        if let Err(error) = self.remove(host, &attachment, now) {
            tracing::warn!(endpoint = %attachment.endpoint.key, %error, "cannot release");
        }
    }

    /// Releases what containers held whose namespace is gone, and with it the interface.
    pub(super) fn release_gone(&mut self, host: &mut impl Host, now: Now) {
        let ends = match self.attacher.list_ours_and(self.attachments.values()) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(%error, "cannot look for containers that are gone");
                return;
            }
        };
        let living: HashSet<EndpointId> = ends.into_iter().map(|end| end.id).collect();
        let gone: Vec<EndpointId> =
            self.attachments.keys().filter(|id| !living.contains(*id)).cloned().collect();
        for id in gone {
            self.link_gone(host, &id, now);
        }
    }

    /// Removes the files that could not be removed with their endpoints.
    pub(super) fn remove_left_over(&mut self) {
        let (store, attachments) = (&self.store, &self.attachments);
        // A new attachment of the same name has written its own over it.
        self.left_over.retain(|a| !attachments.contains_key(&a.endpoint.id) && store.release(a).is_err());
    }

    /// Does what plugins asked for while the agent did not answer.
    pub(super) fn honour_tombstones(&mut self, host: &mut impl Host, now: Now) {
        let tombstones = match self.store.tombstones() {
            Ok(tombstones) => tombstones,
            Err(error) => {
                tracing::warn!(%error, "cannot read tombstones");
                return;
            }
        };
        for tombstone in tombstones {
            let id = EndpointId::of(&tombstone.key);
            let meant = self.attachments.get(&id).filter(|a| tombstone.means(a)).cloned();
            let done = meant.map_or(Ok(()), |attachment| self.remove(host, &attachment, now));
            match done {
                Ok(()) => {
                    if let Err(error) = self.store.bury(&tombstone) {
                        tracing::warn!(%error, "a tombstone stays");
                    }
                }
                Err(error) => tracing::warn!(endpoint = %tombstone.key, %error, "cannot honour a tombstone"),
            }
        }
    }
}
