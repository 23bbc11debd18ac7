//! ADD.

use std::net::IpAddr;

use serde_json::Value;

use super::{Handler, Host, Now, labels, moves::is_recent};
use crate::{
    api::CniRequest,
    cni::{
        attach::{AttachError, Inside},
        attachment::Attachment,
        fault,
        ipam::{Grant, IpamError, Whose, Wish},
        types::{
            AddResult, CniArgs, CniError, Dns, IPAM_RESULT_KEY, Mac, NetConf, PortMapping, Route, code, names,
        },
    },
    model::{Endpoint, EndpointId, EndpointKey, Labels, Prefix},
    netlink::{
        ns::{Netns, NetnsId},
        sysctl,
    },
};

/// How many interface indices are tried before giving up.
const INDEX_ATTEMPTS: usize = 16;

/// What an ADD wants, read and found acceptable.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) request: &'a CniRequest,
    pub(super) conf: &'a NetConf,
    pub(super) args: &'a CniArgs,
    pub(super) key: EndpointKey,
    pub(super) id: &'a EndpointId,
    pub(super) labels: Labels,
    pub(super) mac: Option<Mac>,
}

impl Handler {
    pub(super) fn add(
        &mut self,
        host: &mut impl Host,
        request: &CniRequest,
        alive: &dyn Fn() -> bool,
        now: Now,
    ) -> Result<Value, CniError> {
        let conf = NetConf::parse(&request.stdin)?;
        let args = CniArgs::parse(&request.args)?;
        names::container_id(&request.container_id)?;
        names::ifname(&request.ifname)?;
        if request.netns.is_empty() {
            return Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is not set"));
        }
        if conf.prev_result.as_ref().is_some_and(|r| !r.ips.is_empty() || !r.interfaces.is_empty()) {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "slash32 makes the container's interface, so it must come first in the list of plugins",
            ));
        }
        let key = EndpointKey {
            network: conf.name.clone(),
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        };
        // Everything that may be refused is read before anything is taken.
        let mac = requested_mac(&conf, &args)?;
        let labels = labels::collect(&conf, &args, &key, &self.config.label_rules)?;
        let id = EndpointId::of(&key);
        let ns = self.attacher.open(&request.netns)?;
        if !alive() {
            return Err(CniError::new(code::TRY_AGAIN_LATER, "the caller has gone away"));
        }

        // Nomad repeats an ADD without a DEL between.
        self.locate(&id, &request.netns);
        let old = self.attachments.get(&id).cloned();
        if let Some(old) = &old
            && let Some(same) = self.as_asked_for(old, &ns, request, &conf, &args)?
        {
            return Ok(same.result().to_json(conf.version));
        }
        self.check_host_addresses(&conf.runtime.port_mappings)?;
        let wanted = Wanted { request, conf: &conf, args: &args, key, id: &id, labels, mac };
        let attachment = match old {
            Some(old) => self.make_instead_of(host, old, wanted, &ns, now)?,
            None => self.make_new(host, wanted, &ns, &[], now)?,
        };
        let result = attachment.result().to_json(conf.version);
        if attachment.takes_over(now.wall) {
            self.taking_over.push(id.clone());
        }
        self.keep(attachment);
        Ok(result)
    }

    /// Makes an endpoint that is not there. `earlier`: the addresses that it had.
    pub(super) fn make_new(
        &mut self,
        host: &mut impl Host,
        wanted: Wanted<'_>,
        ns: &Netns,
        earlier: &[IpAddr],
        now: Now,
    ) -> Result<Attachment, CniError> {
        let Wanted { request, conf, args, key, id, labels, mac } = wanted;
        let mut inside = self.attacher.enter(ns);
        let (grant, routes, dns) = match self.addresses(conf, args, id, earlier, now) {
            // Perhaps somebody holds what is wanted who is gone.
            Err(error) if matches!(error.code, code::ADDRESS_REFUSED | code::OUT_OF_ADDRESSES) => {
                self.release_gone(host, now);
                self.addresses(conf, args, id, earlier, now)?
            }
            other => other?,
        };
        fault::point("add:leased");
        let replaced = grant.moved.iter().filter_map(|addr| self.numbers.get(addr)).max().copied();
        let mut attachment = Attachment {
            endpoint: Endpoint {
                ipv4: grant.ipv4,
                ipv6: grant.ipv6,
                netns: request.netns.clone(),
                labels,
                id: id.clone(),
                key,
            },
            netns_id: ns.id(),
            ifindex: self.attacher.next_index(),
            mac: mac.unwrap_or_else(|| mac_of(id)),
            mtu: conf.mtu.or(self.config.mtu).unwrap_or_else(|| self.way_out()),
            gateway: self.free_gateway(ns.id()),
            routes,
            dns,
            sysctls: conf.sysctls.clone(),
            allow_spoofing: conf.allow_spoofing.clone(),
            forwarding: conf.forwarding,
            port_mappings: conf.runtime.port_mappings.clone(),
            spare_mappings: Vec::new(),
            bandwidth: conf.runtime.bandwidth,
            aliases: conf.runtime.aliases.clone(),
            number: replaced.map(|number| number.saturating_add(1)),
            moved_again: replaced.is_some_and(|number| is_recent(number, now)),
            moved: grant.moved,
            given_up: Vec::new(),
            anycast: conf.anycast,
            delegate_config: conf.ipam.delegate.as_ref().map(|_| for_the_giver(&request.stdin)),
            delegate: conf.ipam.delegate.clone(),
            rebuilt: false,
            labels_told: false,
            sequence: self.next_sequence(now),
        };
        self.leave_to_siblings(&mut attachment);
        self.make(host, attachment, ns, &mut inside, now)
    }

    /// Refuses port mappings of addresses that the host does not have. As with bind(2), they may come later where the
    /// administrator has said so.
    fn check_host_addresses(&mut self, mappings: &[PortMapping]) -> Result<(), CniError> {
        for mapping in mappings {
            let Some(host) = mapping.host_ip.filter(|ip| !ip.is_unspecified()) else { continue };
            let port = mapping.host_port;
            if host.is_multicast() || host == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
                let why = format!("hostIP {host} of host port {port} cannot be an address of a host");
                return Err(CniError::new(code::INVALID_CONFIG, why));
            }
            let family = if host.is_ipv4() { "ipv4" } else { "ipv6" };
            let setting = format!("net/{family}/ip_nonlocal_bind");
            if !self.attacher.is_local(host) && !sysctl::read(&setting).is_ok_and(|text| text.trim() == "1") {
                let why = format!("hostIP {host} of host port {port} is no address of this host");
                return Err(CniError::new(code::HOST_PORT_REFUSED, why).details(format!(
                    "leave hostIP out to mean all addresses; one that comes later needs {} = 1",
                    setting.replace('/', ".")
                )));
            }
        }
        Ok(())
    }

    /// Makes an attachment whose addresses are leased, or undoes everything, the leases included.
    pub(super) fn make(
        &mut self,
        host: &mut impl Host,
        mut attachment: Attachment,
        ns: &Netns,
        inside: &mut Inside,
        now: Now,
    ) -> Result<Attachment, CniError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            if let Err(error) = self.store.put(&attachment) {
                return Err(self.undo(host, &attachment, Undo::Enforced, error.into(), now));
            }
            fault::point("add:stored");
            if let Err(error) = host.enforce(&attachment) {
                return Err(self.undo(host, &attachment, Undo::Enforced, error, now));
            }
            fault::point("add:enforced");
            // While the kernel works, neighbours can be told. Not of an address that moves: its packets have a place to go
            // to until its new one is there.
            let mut begun = false;
            let created = || {
                begun = attachment.moved.is_empty();
                if begun {
                    host.begin_announcement(&attachment);
                }
            };
            match self.attacher.attach(&attachment, ns, inside, created) {
                Ok(()) => break,
                Err(AttachError::IndexTaken(_)) if attempts < INDEX_ATTEMPTS => {
                    attachment.ifindex = self.attacher.next_index();
                }
                Err(error) => {
                    let from = if begun { Undo::Begun } else { Undo::Enforced };
                    return Err(self.undo(host, &attachment, from, error.into(), now));
                }
            }
        }
        fault::point("add:attached");
        if let Err(error) = host.announce(&attachment) {
            return Err(self.undo(host, &attachment, Undo::Announced, error, now));
        }
        fault::point("add:announced");
        Ok(attachment)
    }

    /// Undoes a half-made attachment in the opposite order and goes on past failures, which end up in the error.
    fn undo(
        &mut self,
        host: &mut impl Host,
        attachment: &Attachment,
        from: Undo,
        error: CniError,
        now: Now,
    ) -> CniError {
        let id = &attachment.endpoint.id;
        let mut failures = Vec::new();
        let mut note = |what: &str, result: Result<(), CniError>| {
            if let Err(error) = result {
                failures.push(format!("{what}: {error}"));
            }
        };
        if !matches!(from, Undo::Enforced) {
            note("withdraw", host.withdraw(attachment));
        }
        if matches!(from, Undo::Announced) {
            note("detach", self.attacher.detach(id).map_err(Into::into));
            // At once, so that the container's interface name is free for another try.
            note("delete the interface", self.attacher.reap().map_err(Into::into));
        }
        note("lift the policy", host.unenforce(attachment));
        if matches!(from, Undo::Announced) {
            // Others may have seen it.
            self.ipam.release(id, now.mono);
            note("remove the file", self.store.release(attachment).map_err(Into::into));
        } else {
            self.ipam.give_back(id, now.mono);
            note("remove the file", self.store.forget(id).map_err(Into::into));
        }
        error.and_rollback(&failures)
    }

    /// Addresses, routes and name servers: ours, or what a delegated plugin gave.
    fn addresses(
        &mut self,
        conf: &NetConf,
        args: &CniArgs,
        id: &EndpointId,
        earlier: &[IpAddr],
        now: Now,
    ) -> Result<(Grant, Option<Vec<Route>>, Dns), CniError> {
        let mut dns = conf.dns.clone();
        if conf.ipam.delegate.is_some() {
            let result = conf.ipam_result.as_ref().ok_or_else(|| {
                CniError::new(code::DELEGATE_FAILED, "the delegated plugin has given no addresses")
            })?;
            let grant = self.adopt_delegated(conf, id, result, now)?;
            if dns.is_empty() {
                dns.extend(&result.dns);
            }
            // The other plugin's gateway does not exist here; only where its routes lead to matters.
            let theirs: Vec<_> = result.routes.iter().map(|r| Route { gw: None, ..r.clone() }).collect();
            let routes = conf.routes.clone().or(Some(theirs).filter(|r| !r.is_empty()));
            return Ok((grant, routes, dns));
        }
        let requested = requested_ips(conf, args)?;
        let wish =
            Wish { owner: id, pools: &conf.ipam.pools, families: &conf.ipam.families, requested: &requested };
        if requested.is_empty() && !earlier.is_empty() {
            // The addresses it had, if they are still to be had.
            if let Ok(grant) = self.allocate(Wish { requested: earlier, ..wish }, now) {
                return Ok((grant, conf.routes.clone(), dns));
            }
        }
        let grant = self.allocate(wish, now).map_err(ipam_error)?;
        Ok((grant, conf.routes.clone(), dns))
    }

    /// Gives addresses that are nobody's. The kernel knows of one of the host's before we have heard of it, and is asked
    /// for each that is to be given.
    fn allocate(&mut self, wish: Wish<'_>, now: Now) -> Result<Grant, IpamError> {
        loop {
            let grant = self.ipam.allocate(wish, now.mono)?;
            let Some(own) = grant.addresses().find(|addr| self.attacher.is_own(*addr)) else {
                return Ok(grant);
            };
            self.ipam.give_back(wish.owner, now.mono);
            self.ipam.reserve(own, Whose::Host);
        }
    }

    /// Whose an address is that no container can have, whoever gave it.
    fn whose(&mut self, addr: IpAddr) -> Option<Whose> {
        let Self { config, ipam, attacher, .. } = self;
        let listed = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.contains_addr(addr));
        // What is in a pool is a container's, although it may be listed with the switches around it.
        let in_pool = || config.ipam.pools.iter().any(|pool| pool.cidr.contains_addr(addr));
        ipam.whose(addr)
            .or_else(|| (listed(&config.infrastructure) && !in_pool()).then_some(Whose::Infrastructure))
            .or_else(|| attacher.is_own(addr).then_some(Whose::Host))
    }

    fn adopt_delegated(
        &mut self,
        conf: &NetConf,
        id: &EndpointId,
        result: &AddResult,
        now: Now,
    ) -> Result<Grant, CniError> {
        let mut grant = Grant::default();
        for ip in &result.ips {
            match ip.address.0 {
                IpAddr::V4(addr) if grant.ipv4.is_none() => grant.ipv4 = Some(addr),
                IpAddr::V6(addr) if grant.ipv6.is_none() => grant.ipv6 = Some(addr),
                IpAddr::V4(_) | IpAddr::V6(_) => {
                    let (kind, addr) = (conf.ipam.delegate.as_deref().unwrap_or_default(), ip.address.0);
                    return Err(CniError::new(
                        code::UNSUPPORTED_FIELD,
                        format!("ipam.type {kind:?} gave a second address of a family, {addr}"),
                    )
                    .details("an endpoint has one IPv4 and one IPv6 address"));
                }
            }
        }
        if grant.ipv4.is_none() && grant.ipv6.is_none() {
            return Err(CniError::new(code::DELEGATE_FAILED, "the delegated IPAM plugin gave no address"));
        }
        let addrs: Vec<_> = grant.addresses().collect();
        for addr in &addrs {
            let refused = |why: &str| CniError::new(code::ADDRESS_REFUSED, format!("{addr} {why}"));
            if Prefix::host(*addr).is_martian() {
                return Err(refused("cannot be a container's address"));
            }
            if let Some(whose) = self.whose(*addr) {
                return Err(refused(&format!("is {whose}")));
            }
        }
        if let Some(error) = addrs.iter().find_map(|addr| self.ipam.adopt(id, *addr).err()) {
            // Not to rest: the other plugin decides about its addresses.
            self.ipam.give_back(id, now.mono);
            return Err(ipam_error(error));
        }
        Ok(grant)
    }

    fn way_out(&mut self) -> u32 {
        if let Some(mtu) = self.uplink_mtu {
            return mtu;
        }
        let mtu = self.attacher.uplink_mtu();
        self.uplink_mtu = Some(mtu);
        mtu
    }

    /// The lowest gateway number that no other attachment of the same container uses.
    fn free_gateway(&self, ns: NetnsId) -> u8 {
        let from = (ns, 0, EndpointId(String::new()));
        let used: Vec<u8> = self
            .gateways
            .range(from..)
            .take_while(|(of, ..)| *of == ns)
            .map(|(_, number, _)| *number)
            .collect();
        (1..=254).find(|n| !used.contains(n)).unwrap_or(255)
    }
}

enum Undo {
    /// Policy was put in force, or that failed; the kernel's side does not exist.
    Enforced,
    /// Announcing it has begun as well; no packet has come yet.
    Begun,
    /// Everything was made, and announcing it failed.
    Announced,
}

/// What another IPAM plugin needs to know at DEL of the configuration that it had at ADD.
fn for_the_giver(config: &Value) -> Value {
    let mut config = config.clone();
    if let Value::Object(config) = &mut config {
        for key in [IPAM_RESULT_KEY, "prevResult", "runtimeConfig"] {
            config.remove(key);
        }
    }
    config
}

/// The addresses asked for. `CNI_ARGS` outranks `args`, which outranks `runtimeConfig`.
pub(super) fn requested_ips(conf: &NetConf, args: &CniArgs) -> Result<Vec<IpAddr>, CniError> {
    let from_args = args.ips()?;
    Ok([from_args, conf.args.ips.clone(), conf.runtime.ips.clone()]
        .into_iter()
        .find(|ips| !ips.is_empty())
        .unwrap_or_default())
}

/// The MAC asked for, by the same precedence.
pub(super) fn requested_mac(conf: &NetConf, args: &CniArgs) -> Result<Option<Mac>, CniError> {
    match args.get("MAC").filter(|m| !m.is_empty()) {
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|e| CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_ARGS: MAC: {e}"))),
        None => Ok(conf.args.mac.or(conf.runtime.mac)),
    }
}

/// A MAC that stays the same for an endpoint that is made again, so that neighbours need not learn a new one.
pub(super) fn mac_of(id: &EndpointId) -> Mac {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(id.as_str().as_bytes());
    let mut first = [0; 6];
    first.copy_from_slice(&digest[..6]);
    Mac::from_hash(first)
}

pub(super) fn ipam_error(error: IpamError) -> CniError {
    let number = match &error {
        IpamError::Exhausted { retry: Some(_), .. } => code::TRY_AGAIN_LATER,
        IpamError::Exhausted { retry: None, .. } | IpamError::NoBlock { .. } => code::OUT_OF_ADDRESSES,
        IpamError::NoSuchPool(_) => code::INVALID_CONFIG,
        IpamError::Outside(_)
        | IpamError::Excluded(_)
        | IpamError::Reserved { .. }
        | IpamError::InUse { .. }
        | IpamError::TooMany(_) => code::ADDRESS_REFUSED,
    };
    CniError::new(number, error.to_string())
}
