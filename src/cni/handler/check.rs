//! CHECK and STATUS.

use super::{Handler, Host, Now, add::ipam_error, needs};
use crate::{
    api::CniRequest,
    cni::types::{AddResult, CniError, Interface, NetConf, SpecVersion, code, names},
    model::{EndpointId, EndpointKey},
};

impl Handler {
    pub(super) fn check(&mut self, host: &mut impl Host, request: &CniRequest) -> Result<(), CniError> {
        let conf = NetConf::parse(&request.stdin)?;
        needs(conf.version, SpecVersion::V0_4_0, "CHECK")?;
        names::container_id(&request.container_id)?;
        names::ifname(&request.ifname)?;
        let key = EndpointKey {
            network: conf.name,
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        };
        let previous = conf
            .prev_result
            .ok_or_else(|| CniError::new(code::INVALID_CONFIG, "CHECK needs `prevResult`"))?;
        let attachment = self
            .attachments
            .get(&EndpointId::of(&key))
            .ok_or_else(|| CniError::new(code::UNKNOWN_CONTAINER, format!("{key} is not attached")))?;
        let failed = |details: String| {
            CniError::new(code::CHECK_FAILED, format!("{key} is not as ADD made it")).details(details)
        };
        for addr in attachment.endpoint.addresses() {
            if !previous.ips.iter().any(|ip| ip.address.0 == addr) {
                return Err(failed(format!("prevResult lacks the address {addr}")));
            }
        }
        if attachment.endpoint.netns.is_empty() {
            return self.learn(host, request, &previous, &EndpointId::of(&key));
        }
        let is_ours = |i: &Interface| i.name == request.ifname && !i.sandbox.is_empty();
        // A result before 0.3.0 has no interfaces.
        if !previous.interfaces.is_empty() && !previous.interfaces.iter().any(is_ours) {
            return Err(failed(format!("prevResult lacks the interface {}", request.ifname)));
        }
        if !request.netns.is_empty() && self.attacher.open(&request.netns)?.id() != attachment.netns_id {
            return Err(failed(format!("{} is another namespace than at ADD", request.netns)));
        }
        let mac = previous.interfaces.iter().find(|i| is_ours(i)).and_then(|i| i.mac.parse().ok());
        let findings = self.attacher.check_against(attachment, mac)?;
        if !findings.is_empty() {
            let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
            return Err(failed(texts.join("; ")));
        }
        for addr in attachment.endpoint.addresses() {
            if self.ipam.owner(addr) != Some(&attachment.endpoint.id) {
                return Err(failed(format!("the address {addr} is not reserved for it")));
            }
        }
        host.check(attachment)
    }

    /// CHECK of an endpoint that is known from the kernel alone, because its file was lost. If what the runtime says fits
    /// to what is there, it is known again: where its namespace is, its routes, MAC and name servers.
    fn learn(
        &mut self,
        host: &mut impl Host,
        request: &CniRequest,
        previous: &AddResult,
        id: &EndpointId,
    ) -> Result<(), CniError> {
        let ns = self.attacher.open(&request.netns)?;
        let unknown = || CniError::new(code::UNKNOWN_CONTAINER, format!("{id} is not attached"));
        let mut known = self.attachments.get(id).cloned().ok_or_else(unknown)?;
        known.endpoint.netns.clone_from(&request.netns);
        known.netns_id = ns.id();
        known.routes = Some(previous.routes.clone());
        known.dns = previous.dns.clone();
        let inside = previous.interfaces.iter().find(|i| i.name == request.ifname && !i.sandbox.is_empty());
        let mac = inside.and_then(|i| i.mac.parse().ok());
        known.mac = mac.unwrap_or(known.mac);
        let findings = self.attacher.check_against(&known, mac)?;
        if !findings.is_empty() {
            let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
            return Err(CniError::new(
                code::CHECK_FAILED,
                format!("{} is not as ADD made it", known.endpoint.key),
            )
            .details(format!("its file was lost; {}", texts.join("; "))));
        }
        host.check(&known)?;
        self.store.put(&known)?;
        self.keep(known);
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
        host.ready()
    }
}
