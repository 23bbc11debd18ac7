//! CHECK and STATUS.

use std::net::IpAddr;

use super::{Handler, Host, Now, add::ipam_error, labels, needs};
use crate::{
    api::CniRequest,
    cni::{
        attachment::Attachment,
        types::{AddResult, CniArgs, CniError, Mac, NetConf, SpecVersion, code, names},
    },
    model::{EndpointId, EndpointKey},
    netlink::ns::NetnsId,
};

impl Handler {
    pub(super) fn check(&mut self, host: &mut impl Host, request: &CniRequest) -> Result<(), CniError> {
        let conf = NetConf::parse(&request.stdin)?;
        needs(conf.version, SpecVersion::V0_4_0, "CHECK")?;
        names::container_id(&request.container_id)?;
        names::ifname(&request.ifname)?;
        let key = EndpointKey {
            network: conf.name.clone(),
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        };
        let previous = conf
            .prev_result
            .as_ref()
            .ok_or_else(|| CniError::new(code::INVALID_CONFIG, "CHECK needs `prevResult`"))?;
        let id = EndpointId::of(&key);
        let unknown = || CniError::new(code::UNKNOWN_CONTAINER, format!("{key} is not attached"));
        let attachment = &self.attachments.get(&id).cloned().ok_or_else(unknown)?;
        let failed = |details: String| {
            CniError::new(code::CHECK_FAILED, format!("{key} is not as ADD made it")).details(details)
        };
        for addr in attachment.endpoint.addresses() {
            if !previous.ips.iter().any(|ip| ip.address.0 == addr) {
                return Err(failed(format!("prevResult lacks the address {addr}")));
            }
        }
        let inside = previous.interfaces.iter().find(|i| i.name == request.ifname && !i.sandbox.is_empty());
        // A result before 0.3.0 has no interfaces.
        if !previous.interfaces.is_empty() && inside.is_none() {
            return Err(failed(format!("prevResult lacks the interface {}", request.ifname)));
        }
        let mac = inside.and_then(|i| i.mac.parse().ok());
        if let Some(addr) = attachment.given_up.first() {
            return Err(failed(format!("{addr} is announced by another host, and was given up here")));
        }
        let learned = if attachment.rebuilt || attachment.endpoint.netns.is_empty() {
            let ns = self.attacher.open(&request.netns)?.id();
            let mut known = learned(attachment, &request.netns, ns, mac, previous);
            known.endpoint.key = key.clone();
            if known.rebuilt {
                // What the kernel has told may be newer than what ADD was called with.
                if !known.labels_told {
                    let args = CniArgs::parse(&request.args)?;
                    known.endpoint.labels = labels::collect(&conf, &args, &key, &self.config.label_rules)?;
                }
                // Somebody who leaves them out at CHECK does not say that there were none.
                known.rebuilt = !known.labels_told && known.endpoint.labels.is_empty();
                known.labels_told &= known.rebuilt;
                known.port_mappings.clone_from(&conf.runtime.port_mappings);
                known.bandwidth = conf.runtime.bandwidth;
                known.aliases.clone_from(&conf.runtime.aliases);
                known.allow_spoofing.clone_from(&conf.allow_spoofing);
                (known.forwarding, known.anycast) = (conf.forwarding, conf.anycast);
                self.leave_to_siblings(&mut known);
            }
            Some(known)
        } else {
            None
        };
        let attachment = learned.as_ref().unwrap_or(attachment);
        if !request.netns.is_empty() && self.attacher.open(&request.netns)?.id() != attachment.netns_id {
            return Err(failed(format!("{} is another namespace than at ADD", request.netns)));
        }
        // Where the namespace is now; the path of ADD may be gone.
        let mut as_called = attachment.clone();
        if !request.netns.is_empty() {
            as_called.endpoint.netns.clone_from(&request.netns);
        }
        let findings = self.attacher.check_against(&as_called, mac)?;
        if !findings.is_empty() {
            let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
            let lost = if learned.is_some() { "its file was lost; " } else { "" };
            return Err(failed(format!("{lost}{}", texts.join("; "))));
        }
        for addr in attachment.endpoint.addresses() {
            if self.ipam.owner(addr) != Some(&attachment.endpoint.id) {
                return Err(failed(format!("the address {addr} is not reserved for it")));
            }
        }
        if let Some(known) = &learned {
            self.attacher.repair_host_side(known)?;
            self.enforce_living(host, known)?;
            host.announce(known)?;
        }
        let attachment = learned.as_ref().unwrap_or(attachment);
        if let Some(unmapped) = self.unmapped.get(&attachment.endpoint.id) {
            return Err(failed(format!("a port mapping is not in force: {}", unmapped.join("; "))));
        }
        host.check(attachment)?;
        if let Some(known) = learned {
            self.store.put(&known)?;
            self.keep(known);
        }
        Ok(())
    }

    pub(super) fn status(
        &mut self,
        host: &mut impl Host,
        request: &CniRequest,
        now: Now,
    ) -> Result<(), CniError> {
        let conf = NetConf::parse(&request.stdin)?;
        needs(conf.version, SpecVersion::V1_1_0, "STATUS")?;
        if conf.ipam.delegate.is_none() {
            self.ipam.available(&conf.ipam.pools, &conf.ipam.families, now.mono).map_err(|error| {
                let error = ipam_error(error);
                CniError::new(code::NOT_AVAILABLE, error.msg)
            })?;
        }
        self.store.check_room().map_err(|error| {
            let error = CniError::from(error);
            CniError::new(code::NOT_AVAILABLE, error.msg).details(error.details)
        })?;
        host.ready()
    }

    /// Why no file can be written, if so.
    pub fn storage_problem(&self) -> Option<String> {
        let error = CniError::from(self.store.check_room().err()?);
        let hint = if error.details.is_empty() { String::new() } else { format!(": {}", error.details) };
        Some(format!("no container can be attached: {}{hint}", error.msg))
    }

    /// Why the state directory does not have what it should.
    pub fn state_trouble(&self) -> Option<String> {
        self.store.state_trouble()
    }
}

/// An endpoint that is known from the kernel alone, because its file was lost, with what the runtime says of it: where its
/// namespace is, its routes, gateway, MAC and name servers. Believed if it fits to what is there.
fn learned(
    rebuilt: &Attachment,
    netns: &str,
    netns_id: NetnsId,
    mac: Option<Mac>,
    previous: &AddResult,
) -> Attachment {
    let mut known = rebuilt.clone();
    netns.clone_into(&mut known.endpoint.netns);
    known.netns_id = netns_id;
    known.routes = Some(previous.routes.clone());
    known.dns = previous.dns.clone();
    known.mac = mac.unwrap_or(known.mac);
    let number = previous.ips.iter().find_map(|ip| match ip.gateway {
        Some(IpAddr::V4(addr)) => Some(addr.octets()[3]),
        _ => None,
    });
    known.gateway = number.unwrap_or(known.gateway);
    known
}
