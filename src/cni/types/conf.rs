//! The network configuration a plugin reads from standard input.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AddResult, Dns, Mac, Route, SpecVersion,
    error::{CniError, code},
    json::{Node, Object},
    names,
};
use crate::model::{Family, Labels, Prefix};

/// The capability by which containerd and CRI-O pass a pod's annotations.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// The key under `args`, and the annotation, that carries labels.
pub(crate) const LABELS_KEY: &str = "slash32.io/labels";
/// The key under which our plugin hands a delegated IPAM plugin's result to the agent.
pub(crate) const IPAM_RESULT_KEY: &str = "slash32.io/ipam-result";
/// The key under which our plugin says, at DEL, that other IPAM plugins have been told of the attachment's end.
pub(crate) const DONE_KEY: &str = "slash32.io/ipam-done";
/// The key of the agent's answer to DEL and GC: the attachments that are gone and had addresses of another IPAM plugin.
pub(crate) const REMOVED_KEY: &str = "slash32.io/removed";
/// The smallest MTU with IPv6 (RFC 8200 section 5), and the largest of a veth.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=65535;
/// The most host bits a prefix of `allow_spoofing` may have: 256 addresses.
const SPOOFED_BITS: u8 = 8;

/// A parsed and checked network configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    /// The version results must have.
    pub version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// Where the agent's run directory is, if not at the usual place.
    pub run_dir: Option<PathBuf>,
    /// The MTU of the container's interface; none: the agent's default.
    pub mtu: Option<u32>,
    /// Labels of every endpoint of this network.
    pub labels: Labels,
    /// Address management.
    pub ipam: IpamConf,
    /// Routes inside the container; none: the default routes.
    pub routes: Option<Vec<Route>>,
    /// Kernel settings inside the container, by their path below `/proc/sys/net/` or with dots; `IFNAME` stands for
    /// the interface's name.
    pub sysctls: BTreeMap<String, String>,
    /// Source addresses the container may use besides its own.
    pub allow_spoofing: Vec<Prefix>,
    /// Whether the container forwards packets (a router or a VPN gateway).
    pub forwarding: bool,
    /// Whether the addresses may be announced by several hosts at once (and are never given up to another).
    pub anycast: bool,
    /// Name servers of the configuration, with those of the runtime laid on top.
    pub dns: Dns,
    /// What the caller asked of this one attachment in `args`.
    pub args: ArgsConf,
    /// What the runtime asked by capabilities.
    pub runtime: RuntimeConf,
    /// The result of the plugin before (ADD), or of ADD (DEL, CHECK).
    pub prev_result: Option<AddResult>,
    /// What a delegated IPAM plugin gave. The plugin runs it and adds this; no runtime sends it.
    pub ipam_result: Option<AddResult>,
    /// GC: the attachments that live, by container and interface. None when the key is absent, which is not the
    /// same as an empty list.
    pub valid_attachments: Option<Vec<(String, String)>>,
}

/// `ipam`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpamConf {
    /// The plugin that manages addresses instead of us (`host-local`, `static`, `dhcp`).
    pub delegate: Option<String>,
    /// The pools to take addresses from, in this order; empty: all, in the order of the agent's configuration.
    pub pools: Vec<String>,
    /// Which families to give; empty: every family that the pools have.
    pub families: Vec<Family>,
}

/// `args`, as in the CNI conventions: `args.cni.ips`, `args.cni.mac`, `args.cni.labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgsConf {
    /// Requested addresses.
    pub ips: Vec<IpAddr>,
    /// Requested hardware address.
    pub mac: Option<Mac>,
    /// Labels.
    pub labels: Labels,
}

/// `runtimeConfig`: what the runtime passes for declared capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConf {
    /// Ports of the host that lead into the container.
    pub port_mappings: Vec<PortMapping>,
    /// Rate limits.
    pub bandwidth: Option<Bandwidth>,
    /// Requested addresses.
    pub ips: Vec<IpAddr>,
    /// Requested hardware address.
    pub mac: Option<Mac>,
    /// Further names of the container.
    pub aliases: Vec<String>,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A port of the host that leads into a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The port on the host, never 0.
    pub host_port: u16,
    /// The port in the container, never 0.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: L4,
    /// Only connections to this address of the host; 0.0.0.0 stands for all its IPv4 addresses, `::` for all of IPv6.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Rate limits of a container, as the bandwidth plugin has them; 0 means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the container, bits per second.
    pub ingress_rate: u64,
    /// Burst towards the container, bits.
    pub ingress_burst: u64,
    /// From the container, bits per second.
    pub egress_rate: u64,
    /// Burst from the container, bits.
    pub egress_burst: u64,
}

impl NetConf {
    /// Parses and checks a configuration. For what a runtime may have to do with a configuration that does not
    /// pass here (DEL of a container whose configuration has been edited), see [`NetConf::essentials`].
    pub fn parse(value: &Value) -> Result<Self, CniError> {
        let root = Node::root(value).object()?;
        let (version, name) = essentials(&root)?;
        let mut dns = root.read("dns", Dns::read)?.unwrap_or_default();
        let runtime_object = root.read("runtimeConfig", Node::object)?;
        if let Some(over) = runtime_object.as_ref().map(|o| o.read("dns", Dns::read)).transpose()?.flatten() {
            dns.extend(&over);
        }
        let ipam_object = root.read("ipam", Node::object)?;
        let mut routes = read_routes(&root)?;
        if let (None, Some(ipam)) = (&routes, &ipam_object) {
            routes = read_routes(ipam)?;
        }
        let mut runtime =
            runtime_object.map_or_else(|| Ok(RuntimeConf::default()), |o| RuntimeConf::read(&o))?;
        if runtime.bandwidth.is_none() {
            runtime.bandwidth = root.read("bandwidth", Bandwidth::read)?;
        }
        let ipam = ipam_object.map_or_else(|| Ok(IpamConf::default()), |o| IpamConf::read(&o))?;
        let sysctls = root.read("sysctls", read_sysctls)?.unwrap_or_default();
        let off = |(name, value): (&String, &String)| name.ends_with("disable_ipv6") && value.trim() != "0";
        if sysctls.iter().any(off) && ipam.families != [Family::Ipv4] {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "sysctls: disable_ipv6 in a network with IPv6 addresses",
            )
            .details("to have none, say `\"families\": [\"ipv4\"]` in `ipam`"));
        }
        Ok(Self {
            version,
            name,
            run_dir: root.read("run_dir", Node::str)?.filter(|d| !d.is_empty()).map(PathBuf::from),
            mtu: root.read("mtu", read_mtu)?.flatten(),
            labels: root.read("labels", read_labels)?.unwrap_or_default(),
            ipam,
            routes,
            sysctls,
            allow_spoofing: root.read("allow_spoofing", read_spoofed)?.unwrap_or_default(),
            forwarding: root.read("forwarding", Node::bool)?.unwrap_or(false),
            anycast: root.read("anycast", Node::bool)?.unwrap_or(false),
            dns,
            args: root.read("args", ArgsConf::read)?.unwrap_or_default(),
            runtime,
            prev_result: root.read("prevResult", AddResult::read)?,
            ipam_result: root.read(IPAM_RESULT_KEY, AddResult::read)?,
            valid_attachments: read_valid_attachments(&root)?,
        })
    }

    /// Only the version and the network's name: all that DEL needs.
    pub fn essentials(value: &Value) -> Result<(SpecVersion, String), CniError> {
        essentials(&Node::root(value).object()?)
    }
}

/// The version an answer should have, as far as the configuration can be understood at all.
pub fn answer_version(value: &Value) -> SpecVersion {
    Node::root(value)
        .object()
        .ok()
        .and_then(|o| o.get("cniVersion")?.value.as_str()?.parse().ok())
        .unwrap_or(SpecVersion::LATEST)
}

fn essentials(root: &Object<'_>) -> Result<(SpecVersion, String), CniError> {
    let version = root.text("cniVersion")?.parse()?;
    let name = root.text("name")?;
    names::network_name(&name)?;
    Ok((version, name))
}

impl IpamConf {
    fn read(object: &Object<'_>) -> Result<Self, CniError> {
        let mut pools = object.read("pools", Node::texts)?.unwrap_or_default();
        pools.extend(object.read("pool", Node::texts)?.unwrap_or_default());
        let families = object.read("families", |node| {
            node.texts()?
                .iter()
                .map(|family| match family.as_str() {
                    "ipv4" => Ok(Family::Ipv4),
                    "ipv6" => Ok(Family::Ipv6),
                    other => {
                        Err(node.place.invalid(format!("unknown family {other:?} (expected ipv4 or ipv6)")))
                    }
                })
                .collect::<Result<Vec<_>, _>>()
        })?;
        let kind = object.text("type")?;
        if kind.contains('/') || kind == "." || kind == ".." {
            return Err(CniError::new(code::INVALID_CONFIG, format!("ipam.type: {kind:?} is not a plugin")));
        }
        Ok(Self {
            delegate: Some(kind).filter(|kind| !kind.is_empty() && kind != "slash32"),
            pools,
            families: families.unwrap_or_default(),
        })
    }
}

impl ArgsConf {
    fn read(node: &Node<'_>) -> Result<Self, CniError> {
        let object = node.object()?;
        let mut args = Self::default();
        if let Some(cni) = object.read("cni", Node::object)? {
            args.ips = cni.read("ips", read_ips)?.unwrap_or_default();
            args.mac = cni.read("mac", read_mac)?.flatten();
            args.labels = cni.read("labels", read_labels)?.unwrap_or_default();
        }
        if let Some(more) = object.read(LABELS_KEY, read_labels)? {
            args.labels.extend(&more);
        }
        Ok(args)
    }
}

impl RuntimeConf {
    fn read(object: &Object<'_>) -> Result<Self, CniError> {
        let mut port_mappings = Vec::new();
        for node in object.read("portMappings", Node::list)?.unwrap_or_default() {
            port_mappings.extend(PortMapping::read(&node)?);
        }
        Ok(Self {
            port_mappings,
            bandwidth: object.read("bandwidth", Bandwidth::read)?,
            ips: object.read("ips", read_ips)?.unwrap_or_default(),
            mac: object.read("mac", read_mac)?.flatten(),
            aliases: object.read("aliases", read_aliases)?.unwrap_or_default(),
            annotations: object.read(POD_ANNOTATIONS, Node::text_map)?.unwrap_or_default(),
        })
    }
}

impl PortMapping {
    /// `None` for a host port of 0: runtimes send entries for ports that are only exposed, not published.
    fn read(node: &Node<'_>) -> Result<Option<Self>, CniError> {
        let object = node.object()?;
        let port = |key: &str| {
            object.read(key, |node| {
                node.u64()?.try_into().map_err(|_| node.place.expected("a port number", node.value))
            })
        };
        let host_port: u16 = port("hostPort")?.unwrap_or(0);
        if host_port == 0 {
            return Ok(None);
        }
        let container_port = port("containerPort")?
            .filter(|p| *p != 0)
            .ok_or_else(|| node.place.invalid("no containerPort"))?;
        let protocol = match object.text("protocol")?.to_ascii_lowercase().as_str() {
            "" | "tcp" => L4::Tcp,
            "udp" => L4::Udp,
            "sctp" => L4::Sctp,
            other => return Err(node.place.invalid(format!("unknown protocol {other:?}"))),
        };
        let host_ip = match object.get("hostIP") {
            Some(ip) if ip.value.as_str() == Some("") => None,
            Some(ip) => Some(ip.ip()?),
            None => None,
        };
        Ok(Some(Self { host_port, container_port, protocol, host_ip }))
    }
}

impl Bandwidth {
    fn read(node: &Node<'_>) -> Result<Self, CniError> {
        let object = node.object()?;
        let number = |key| Ok::<_, CniError>(object.read(key, Node::u64)?.unwrap_or(0));
        Ok(Self {
            ingress_rate: number("ingressRate")?,
            ingress_burst: number("ingressBurst")?,
            egress_rate: number("egressRate")?,
            egress_burst: number("egressBurst")?,
        })
    }
}

fn read_routes(object: &Object<'_>) -> Result<Option<Vec<Route>>, CniError> {
    object.read("routes", |node| {
        let mut routes: Vec<Route> = Vec::new();
        for node in node.list()? {
            let route = Route::read(&node)?;
            let (dst, len) = route.dst;
            if route.table == Some(255) {
                return Err(node.place.invalid(format!("table 255 is the kernel's own ({dst}/{len})")));
            }
            if let Some(gw) = route.gw.filter(|gw| gw.is_ipv4() != dst.is_ipv4()) {
                return Err(node
                    .place
                    .invalid(format!("{gw} cannot be the gateway to {dst}/{len}: another family")));
            }
            let place = |r: &Route| (r.dst, r.table, r.priority);
            if routes.iter().any(|other| place(other) == place(&route)) {
                return Err(node.place.invalid(format!("the route to {dst}/{len} is there twice")));
            }
            routes.push(route);
        }
        Ok(routes)
    })
}

fn read_mtu(node: &Node<'_>) -> Result<Option<u32>, CniError> {
    match node.u32()? {
        0 => Ok(None),
        mtu if MTU_RANGE.contains(&mtu) => Ok(Some(mtu)),
        mtu => Err(node.place.invalid(format!("{mtu} is not a usable MTU (1280 to 65535, or 0 for auto)"))),
    }
}

fn read_mac(node: &Node<'_>) -> Result<Option<Mac>, CniError> {
    let text = node.str()?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|e| node.place.invalid(e))
}

fn read_ips(node: &Node<'_>) -> Result<Vec<IpAddr>, CniError> {
    node.list()?.iter().map(|n| n.address().map(|(ip, _)| ip)).collect()
}

/// Prefixes of a few addresses: each becomes an element of the table that checks sources.
fn read_spoofed(node: &Node<'_>) -> Result<Vec<Prefix>, CniError> {
    let read = |n: &Node<'_>| {
        let prefix: Prefix = n.str()?.parse().map_err(|e| n.place.invalid(e))?;
        if prefix.family().bits() - prefix.len() > SPOOFED_BITS {
            let (four, six) = (32 - SPOOFED_BITS, 128 - SPOOFED_BITS);
            return Err(n.place.invalid(format!("{prefix} is too large (at most a /{four} or a /{six})")));
        }
        Ok(prefix)
    };
    node.list()?.iter().map(read).collect()
}

/// Settings of the container's network namespace and nothing else: whatever is not below `net` belongs to the whole
/// host, or to a namespace that we are not in.
fn read_sysctls(node: &Node<'_>) -> Result<BTreeMap<String, String>, CniError> {
    let settings = node.text_map()?;
    for name in settings.keys() {
        let parts: Vec<&str> = name.split(if name.contains('/') { '/' } else { '.' }).collect();
        let whole = parts.len() > 1 && parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
        if !whole || parts[0] != "net" || name.contains('\0') {
            return Err(node
                .place
                .invalid(format!("{name:?} is not a setting of a network namespace (net.…)")));
        }
    }
    Ok(settings)
}

/// Labels as an object, as text `a=b,c=d`, or as the list of `{key, value}` of the CNI conventions.
fn read_labels(node: &Node<'_>) -> Result<Labels, CniError> {
    match node.value {
        Value::String(text) => parse_labels(text).map_err(|e| node.place.invalid(e)),
        Value::Array(_) => {
            let mut labels = Labels::new();
            for node in node.list()? {
                let object = node.object()?;
                labels
                    .insert(object.text("key")?, object.text("value")?)
                    .map_err(|e| node.place.invalid(e))?;
            }
            Ok(labels)
        }
        _ => Labels::try_from(node.text_map()?).map_err(|e| node.place.invalid(e)),
    }
}

/// Parses `role=web,env=prod`; a JSON object is accepted too.
pub(crate) fn parse_labels(text: &str) -> Result<Labels, crate::model::LabelError> {
    if let Ok(map) = serde_json::from_str::<BTreeMap<String, String>>(text) {
        return Labels::try_from(map);
    }
    let mut labels = Labels::new();
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        labels.insert(key.trim(), value.trim())?;
    }
    Ok(labels)
}

/// A list, or podman's object of a list a network.
fn read_aliases(node: &Node<'_>) -> Result<Vec<String>, CniError> {
    let checked = |node: &Node<'_>| {
        let aliases = node.texts()?;
        match aliases.iter().find_map(|alias| names::alias(alias).err().map(|why| format!("{alias:?} {why}")))
        {
            Some(why) => Err(node.place.invalid(why)),
            None => Ok(aliases),
        }
    };
    if !node.value.is_object() {
        return checked(node);
    }
    let mut aliases = Vec::new();
    for (_, list) in node.object()?.entries() {
        aliases.extend(checked(&list)?);
    }
    Ok(aliases)
}

/// GC's list of what lives. The specification of 1.1.0 spells its key in two ways, and libcni sends both; what stands
/// in either lives. An entry that does not name an attachment is an error: with it ignored, a living container would be
/// taken for a stale one.
fn read_valid_attachments(root: &Object<'_>) -> Result<Option<Vec<(String, String)>>, CniError> {
    let mut valid = None;
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let Some(list) = root.read(key, Node::list)? else { continue };
        let valid = valid.get_or_insert_with(Vec::new);
        for node in list {
            let object = node.object()?;
            let (container, ifname) = (object.text("containerID")?, object.text("ifname")?);
            for (key, value) in [("containerID", &container), ("ifname", &ifname)] {
                if value.is_empty() {
                    return Err(node.place.invalid(format!("`{key}` is missing")));
                }
            }
            valid.push((container, ifname));
        }
    }
    Ok(valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<NetConf, CniError> {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "slash32"});
        for (key, value) in value.as_object().unwrap() {
            conf[key] = value.clone();
        }
        NetConf::parse(&conf)
    }

    #[test]
    fn minimal() {
        let conf = parse(json!({})).unwrap();
        assert_eq!((conf.version, conf.name.as_str()), (SpecVersion::V1_0_0, "n"));
        assert_eq!((conf.routes, conf.mtu, conf.valid_attachments), (None, None, None));
        assert_eq!(parse(json!({"cniVersion": null})).unwrap().version, SpecVersion::V0_1_0);
        assert_eq!(parse(json!({"cniVersion": "0.9.0"})).unwrap_err().code, 1);
        assert_eq!(parse(json!({"name": ""})).unwrap_err().code, 7);
        assert_eq!(parse(json!({"name": "../x"})).unwrap_err().code, 7);
        assert_eq!(NetConf::parse(&json!([])).unwrap_err().code, 7);
    }

    #[test]
    fn runtimes_write_camel_case_both_ways() {
        for conf in [
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "192.0.2.1"}],
                "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000}, "dns": {"servers": ["192.0.2.53"], "searches": ["a"]}}}),
            json!({"RuntimeConfig": {"PortMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "UDP", "HostIP": "192.0.2.1"}, {"HostPort": 0}],
                "Bandwidth": {"IngressRate": 1000, "IngressBurst": 2000}, "DNS": {"Servers": ["192.0.2.53"], "Searches": ["a"]}}}),
        ] {
            let conf = parse(conf).unwrap();
            let expected = PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: L4::Udp,
                host_ip: Some("192.0.2.1".parse().unwrap()),
            };
            assert_eq!(conf.runtime.port_mappings, [expected]);
            assert_eq!(conf.runtime.bandwidth.unwrap().ingress_burst, 2000);
            assert_eq!((&conf.dns.nameservers[0][..], &conf.dns.search[0][..]), ("192.0.2.53", "a"));
        }
    }

    #[test]
    fn labels_in_every_spelling() {
        let conf = parse(json!({
            "labels": "a=1, b=2",
            "args": {"cni": {"labels": [{"key": "c", "value": "3"}], "ips": ["10.0.0.1/24", "fd00::1"], "mac": "02:00:00:00:00:01"},
                     "slash32.io/labels": {"d": 4}},
        }))
        .unwrap();
        assert_eq!(conf.labels.to_string(), "a=1,b=2");
        assert_eq!(conf.args.labels.to_string(), "c=3,d=4");
        assert_eq!(conf.args.ips.len(), 2);
        assert!(conf.args.mac.is_some());
        assert_eq!(parse_labels(r#"{"a":"b"}"#).unwrap().to_string(), "a=b");
        assert_eq!(parse(json!({"labels": {"a b": "c"}})).unwrap_err().code, 7);
    }

    #[test]
    fn errors_name_the_place() {
        let message = |value| parse(value).unwrap_err().msg;
        assert_eq!(
            message(json!({"runtimeConfig": {"portMappings": [{"hostPort": "80"}]}})),
            "runtimeConfig.portMappings[0].hostPort: expected a number from 0, found \"80\""
        );
        assert_eq!(
            message(json!({"runtimeConfig": {"portMappings": [{"hostPort": 70000}]}})),
            "runtimeConfig.portMappings[0].hostPort: expected a port number, found 70000"
        );
        for aliases in [json!(["ok", "a b"]), json!({"net": ["a b"]})] {
            let said = message(json!({"runtimeConfig": {"aliases": aliases}}));
            assert!(
                said.starts_with("runtimeConfig.aliases") && said.contains("\"a b\" is not a name"),
                "{said}"
            );
        }
        assert!(message(json!({"mtu": 100})).starts_with("mtu: 100 is not a usable MTU"));
        assert!(message(json!({"ipam": {"type": "../evil"}})).contains("ipam.type"));
        assert!(message(json!({"ipam": {"families": "ipv5"}})).contains("ipv5"));
        assert!(message(json!({"allow_spoofing": ["10.0.0.1/8"]})).contains("did you mean 10.0.0.0/8"));
        assert!(message(json!({"allow_spoofing": ["10.0.0.0/23"]})).contains("too large"));
        for (routes, why) in [
            (json!([{"dst": "10.0.0.0/8", "table": 255}]), "table 255"),
            (json!([{"dst": "10.0.0.0/8", "gw": "fd00::1"}]), "gateway to 10.0.0.0/8"),
            (json!([{"dst": "10.0.0.0/8"}, {"dst": "10.0.0.0/8"}]), "10.0.0.0/8 is there twice"),
        ] {
            assert!(
                message(json!({"routes": routes})).contains(why),
                "{}",
                message(json!({"routes": routes}))
            );
        }
        assert!(message(json!({"allow_spoofing": ["fd00::/119"]})).contains("too large"));
        assert_eq!(
            parse(json!({"allow_spoofing": ["10.0.0.0/24", "fd00::/120"]})).unwrap().allow_spoofing.len(),
            2
        );
        let off = json!({"net.ipv6.conf.IFNAME.disable_ipv6": 1});
        assert!(message(json!({"sysctls": off})).contains("disable_ipv6"));
        assert!(parse(json!({"sysctls": off, "ipam": {"families": ["ipv4"]}})).is_ok());
        // Only what belongs to the container's own namespace, however it is written.
        for bad in [
            "kernel.hostname",
            "vm/overcommit_memory",
            "net",
            "net/../kernel/hostname",
            "net//x",
            "",
            "/net/x",
        ] {
            assert!(
                message(json!({"sysctls": {bad: "1"}})).contains("not a setting of a network namespace"),
                "{bad}"
            );
        }
        assert!(
            parse(json!({"sysctls": {"net.core.somaxconn": 1, "net/ipv4/conf/a.b/rp_filter": "2"}})).is_ok()
        );
    }

    #[test]
    fn absent_and_empty_are_different() {
        assert_eq!(parse(json!({"cni.dev/valid-attachments": []})).unwrap().valid_attachments, Some(vec![]));
        let conf =
            parse(json!({"cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}]})).unwrap();
        assert_eq!(conf.valid_attachments, Some(vec![("c".into(), "eth0".into())]));
        assert_eq!(parse(json!({"cni.dev/valid-attachments": null})).unwrap().valid_attachments, None);
        // Both spellings of the key, alone and together.
        let entry = |id: &str| json!([{"containerID": id, "ifname": "eth0"}]);
        let conf = parse(json!({"cni.dev/attachments": entry("a")})).unwrap();
        assert_eq!(conf.valid_attachments, Some(vec![("a".into(), "eth0".into())]));
        let both = json!({"cni.dev/attachments": entry("a"), "cni.dev/valid-attachments": entry("b")});
        assert_eq!(parse(both).unwrap().valid_attachments.unwrap().len(), 2);
        // Half an entry is no reason to delete what it may mean.
        for bad in [json!([{}]), json!([{"containerID": "a"}]), json!([{"ifname": "eth0"}]), json!(["a"])] {
            assert_eq!(parse(json!({"cni.dev/valid-attachments": bad})).unwrap_err().code, 7);
        }
        assert_eq!(parse(json!({"routes": []})).unwrap().routes, Some(vec![]));
        assert_eq!(
            parse(json!({"ipam": {"routes": [{"dst": "10.0.0.0/8"}]}})).unwrap().routes.unwrap().len(),
            1
        );
        assert_eq!(parse(json!({"ipam": {"type": "slash32"}})).unwrap().ipam.delegate, None);
        assert_eq!(parse(json!({"ipam": {"type": "dhcp"}})).unwrap().ipam.delegate.as_deref(), Some("dhcp"));
    }
}
