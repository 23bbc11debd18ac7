//! ADD of what is attached already: it is as asked for, or it is made anew, or it stays as it is.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Handler, Host, Now,
    add::{Wanted, ipam_error, requested_ips, requested_mac},
};
use crate::{
    api::CniRequest,
    cni::{
        attachment::Attachment,
        ipam::{IpamError, Whose, Wish},
        types::{CniArgs, CniError, NetConf},
    },
    netlink::ns::Netns,
};

impl Handler {
    /// The endpoint, if an ADD that is repeated finds it as it should be and would have it: in this namespace, with the MAC
    /// and the addresses that are asked for or that another plugin gives.
    pub(super) fn as_asked_for(
        &mut self,
        old: &Attachment,
        ns: &Netns,
        request: &CniRequest,
        conf: &NetConf,
        args: &CniArgs,
    ) -> Result<Option<Attachment>, CniError> {
        if old.rebuilt || !old.given_up.is_empty() || old.netns_id != ns.id() {
            return Ok(None);
        }
        let held: Vec<IpAddr> = old.endpoint.addresses().collect();
        let addresses = match (&conf.ipam.delegate, &conf.ipam_result) {
            // Another plugin that refuses to give a second time has been asked already.
            (Some(_), None) => conf.ipam.delegate == old.delegate,
            (Some(_), Some(_)) => has_what_was_given(old, conf),
            (None, _) => {
                old.delegate.is_none() && requested_ips(conf, args)?.iter().all(|addr| held.contains(addr))
            }
        };
        if !addresses || requested_mac(conf, args)?.is_some_and(|mac| mac != old.mac) {
            return Ok(None);
        }
        // The same namespace may have another path by now.
        let mut same = old.clone();
        same.endpoint.netns.clone_from(&request.netns);
        if !self.attacher.check(&same)?.is_empty() {
            return Ok(None);
        }
        if same != *old {
            self.store.put(&same)?;
            self.keep(same.clone());
        }
        Ok(Some(same))
    }

    /// Makes an endpoint anew that is not intact, or not as asked for. If that is not possible, the one that is there stays,
    /// or is made once more as it was: a runtime that asks for too much does not take a living container from the network.
    pub(super) fn make_instead_of(
        &mut self,
        host: &mut impl Host,
        old: Attachment,
        wanted: Wanted<'_>,
        ns: &Netns,
        now: Now,
    ) -> Result<Attachment, CniError> {
        // Another IPAM plugin has its addresses given back when ADD fails, so nobody may keep them.
        let keeps = old.delegate.is_none();
        if keeps {
            self.could_have(host, &wanted, now)?;
        }
        tracing::info!(
            endpoint = %old.endpoint.key,
            "ADD of an endpoint that is not intact, or not as asked for: making it anew"
        );
        let (elsewhere, free): (Vec<IpAddr>, Vec<IpAddr>) =
            old.given_up.iter().partition(|addr| self.held_elsewhere.contains(*addr));
        let earlier: Vec<IpAddr> = old.endpoint.addresses().chain(free).collect();
        self.remove(host, &old, now)?;
        match self.make_new(host, wanted, ns, &earlier, now) {
            // A container that was there before and is gone has nothing to get back.
            Err(error) if keeps && self.is_there(&old) => {
                let key = old.endpoint.key.clone();
                self.held_elsewhere.extend(elsewhere);
                match self.make_again(host, old, now) {
                    Ok(()) => {
                        tracing::warn!(endpoint = %key, %error, "not possible: the endpoint is as it was");
                        Err(error)
                    }
                    Err(lost) => Err(error.and_rollback(&[format!("make the endpoint as it was: {lost}")])),
                }
            }
            made => made,
        }
    }

    /// Whether the addresses that an ADD names could be given, so that nothing is touched if not.
    fn could_have(&mut self, host: &mut impl Host, wanted: &Wanted<'_>, now: Now) -> Result<(), CniError> {
        if wanted.conf.ipam.delegate.is_some() {
            return Ok(());
        }
        let requested = requested_ips(wanted.conf, wanted.args)?;
        let possible = |handler: &mut Self| {
            if let Some(addr) = requested.iter().copied().find(|addr| handler.attacher.is_own(*addr)) {
                return Err(IpamError::Reserved { addr, whose: Whose::Host });
            }
            let ipam = &wanted.conf.ipam;
            let (pools, families) = (&ipam.pools[..], &ipam.families[..]);
            handler.ipam.possible(Wish { owner: wanted.id, pools, families, requested: &requested })
        };
        if possible(self).is_err() {
            // Perhaps somebody holds what is wanted who is gone.
            self.release_gone(host, now);
        }
        possible(self).map_err(ipam_error)
    }

    fn is_there(&self, old: &Attachment) -> bool {
        self.attacher.open(&old.endpoint.netns).is_ok_and(|ns| ns.id() == old.netns_id)
    }

    /// Makes once more what was removed a moment ago.
    fn make_again(&mut self, host: &mut impl Host, mut old: Attachment, now: Now) -> Result<(), CniError> {
        let ns = self.attacher.open(&old.endpoint.netns)?;
        // The index, which the IPv6 gateway's address is made of, is free when the interface is gone.
        self.attacher.reap()?;
        let id = old.endpoint.id.clone();
        if let Some(error) = old.endpoint.addresses().find_map(|addr| self.ipam.adopt(&id, addr).err()) {
            self.ipam.give_back(&id, now.mono);
            return Err(ipam_error(error));
        }
        let spare = std::mem::take(&mut old.spare_mappings);
        old.port_mappings.extend(spare);
        self.leave_to_siblings(&mut old);
        let mut inside = self.attacher.enter(&ns);
        let made = self.make(host, old, &ns, &mut inside, now)?;
        self.keep(made);
        Ok(())
    }
}

/// Whether the addresses that another IPAM plugin has given for this call, if it has, are those that the endpoint has.
/// They are not when the answer to the ADD before was lost, as of an agent that died: its plugin has given the addresses
/// back, so that they are anybody's.
fn has_what_was_given(old: &Attachment, conf: &NetConf) -> bool {
    let Some(given) = &conf.ipam_result else { return true };
    let given: BTreeSet<IpAddr> = given.ips.iter().map(|ip| ip.address.0).collect();
    given == old.endpoint.addresses().collect()
}
