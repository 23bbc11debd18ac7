//! What ADD answers, in the shape of every version, and what comes back as `prevResult`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    SpecVersion,
    error::CniError,
    json::{Node, Object},
};

/// The result of ADD, independent of the version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddResult {
    /// The interfaces made, host and container side.
    pub interfaces: Vec<Interface>,
    /// The addresses given.
    pub ips: Vec<IpConfig>,
    /// The routes made inside the container.
    pub routes: Vec<Route>,
    /// The name servers to write into the container.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address as text, or empty.
    pub mac: String,
    /// Its MTU (from 1.1.0), 0 if unknown.
    pub mtu: u32,
    /// The path of the namespace it is in; empty for the host's.
    pub sandbox: String,
}

/// An address of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Which of the interfaces has it.
    pub interface: Option<usize>,
    /// The address and the length of its prefix.
    pub address: (IpAddr, u8),
    /// The gateway for it.
    pub gateway: Option<IpAddr>,
}

/// A route inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: (IpAddr, u8),
    /// By which gateway; none means the address's.
    #[serde(default)]
    pub gw: Option<IpAddr>,
    /// Path MTU (from 1.1.0).
    #[serde(default)]
    pub mtu: Option<u32>,
    /// TCP maximum segment size (from 1.1.0).
    #[serde(default)]
    pub advmss: Option<u32>,
    /// Metric (from 1.1.0).
    #[serde(default)]
    pub priority: Option<u32>,
    /// Routing table (from 1.1.0).
    #[serde(default)]
    pub table: Option<u32>,
    /// How far the destination is (from 1.1.0): 0 global, 253 on the link, 254 the host; see [`Self::is_near`].
    #[serde(default)]
    pub scope: Option<u8>,
}

/// Name server settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default)]
    pub domain: String,
    /// Search list.
    #[serde(default)]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default)]
    pub options: Vec<String>,
}

impl AddResult {
    /// The result as `version` wants it.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        if version < SpecVersion::V0_3_0 { self.to_old_json(version) } else { self.to_new_json(version) }
    }

    /// Reads a result of any version: the shape tells which.
    pub fn from_json(value: &Value) -> Result<Self, CniError> {
        Self::read(&Node::root(value))
    }

    pub(super) fn read(node: &Node<'_>) -> Result<Self, CniError> {
        let object = node.object()?;
        let mut result = Self { dns: object.read("dns", Dns::read)?.unwrap_or_default(), ..Self::default() };
        for key in ["ip4", "ip6"] {
            if let Some(old) = object.get(key) {
                result.read_old(&old.object()?)?;
            }
        }
        for node in object.read("interfaces", Node::list)?.unwrap_or_default() {
            let object = node.object()?;
            result.interfaces.push(Interface {
                name: object.text("name")?,
                mac: object.text("mac")?,
                mtu: object.read("mtu", Node::u32)?.unwrap_or(0),
                sandbox: object.text("sandbox")?,
            });
        }
        for node in object.read("ips", Node::list)?.unwrap_or_default() {
            let object = node.object()?;
            let address = object
                .read("address", Node::address)?
                .ok_or_else(|| node.place.invalid("`address` is missing"))?;
            // -1 or a number beyond the list means none; some plugins write that.
            let interface = object.get("interface").and_then(|n| n.value.as_u64()).map(|i| i as usize);
            result.ips.push(IpConfig { interface, address, gateway: object.read("gateway", Node::ip)? });
        }
        for node in object.read("routes", Node::list)?.unwrap_or_default() {
            result.routes.push(Route::read(&node)?);
        }
        Ok(result)
    }

    fn read_old(&mut self, object: &Object<'_>) -> Result<(), CniError> {
        if let Some(address) = object.read("ip", Node::address)? {
            let gateway = object.read("gateway", Node::ip)?;
            self.ips.push(IpConfig { interface: None, address, gateway });
        }
        for node in object.read("routes", Node::list)?.unwrap_or_default() {
            self.routes.push(Route::read(&node)?);
        }
        Ok(())
    }

    /// 0.3.0 to 1.1.0.
    fn to_new_json(&self, version: SpecVersion) -> Value {
        let extended = version >= SpecVersion::V1_1_0;
        let mut object = Map::new();
        object.insert("cniVersion".into(), version.as_str().into());
        if !self.interfaces.is_empty() {
            let interfaces = self.interfaces.iter().map(|i| {
                let mut entry = Map::new();
                entry.insert("name".into(), i.name.clone().into());
                if !i.mac.is_empty() {
                    entry.insert("mac".into(), i.mac.clone().into());
                }
                if extended && i.mtu != 0 {
                    entry.insert("mtu".into(), i.mtu.into());
                }
                if !i.sandbox.is_empty() {
                    entry.insert("sandbox".into(), i.sandbox.clone().into());
                }
                Value::Object(entry)
            });
            object.insert("interfaces".into(), interfaces.collect());
        }
        let ips = self.ips.iter().map(|ip| {
            let mut entry = Map::new();
            if version < SpecVersion::V1_0_0 {
                entry.insert("version".into(), if ip.address.0.is_ipv4() { "4" } else { "6" }.into());
            }
            entry.insert("address".into(), cidr(ip.address).into());
            if let Some(gateway) = ip.gateway {
                entry.insert("gateway".into(), gateway.to_string().into());
            }
            if let Some(interface) = ip.interface {
                entry.insert("interface".into(), interface.into());
            }
            Value::Object(entry)
        });
        object.insert("ips".into(), ips.collect());
        if !self.routes.is_empty() {
            object
                .insert("routes".into(), self.routes.iter().map(|r| r.to_json(extended)).collect::<Value>());
        }
        object.insert("dns".into(), self.dns.to_json());
        Value::Object(object)
    }

    /// 0.1.0 and 0.2.0 have room for one address of each family.
    fn to_old_json(&self, version: SpecVersion) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".into(), version.as_str().into());
        for (key, is_v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.0.is_ipv4() == is_v4) else { continue };
            let mut entry = Map::new();
            entry.insert("ip".into(), cidr(ip.address).into());
            if let Some(gateway) = ip.gateway {
                entry.insert("gateway".into(), gateway.to_string().into());
            }
            let routes: Vec<_> =
                self.routes.iter().filter(|r| r.dst.0.is_ipv4() == is_v4).map(|r| r.to_json(false)).collect();
            if !routes.is_empty() {
                entry.insert("routes".into(), routes.into());
            }
            object.insert(key.into(), entry.into());
        }
        object.insert("dns".into(), self.dns.to_json());
        Value::Object(object)
    }
}

/// `RT_SCOPE_LINK` of linux/rtnetlink.h.
const SCOPE_LINK: u8 = 253;

impl Route {
    /// A route with nothing but its destination and gateway.
    pub const fn new(dst: (IpAddr, u8), gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }

    /// Whether its scope says that there is no gateway on the way.
    pub fn is_near(&self) -> bool {
        self.scope.is_some_and(|scope| scope >= SCOPE_LINK)
    }

    pub(super) fn read(node: &Node<'_>) -> Result<Self, CniError> {
        // A bare text is a destination: `"routes": ["10.0.0.0/8"]`.
        if node.value.is_string() {
            return Ok(Self::new(node.address()?, None));
        }
        let object = node.object()?;
        let dst = object.read("dst", Node::address)?.ok_or_else(|| node.place.invalid("`dst` is missing"))?;
        let gw = match object.get("gw") {
            Some(gw) if gw.value.as_str() == Some("") => None,
            Some(gw) => Some(gw.ip()?),
            None => None,
        };
        Ok(Self {
            dst,
            gw,
            mtu: object.read("mtu", Node::u32)?.filter(|m| *m != 0),
            advmss: object.read("advmss", Node::u32)?.filter(|m| *m != 0),
            priority: object.read("priority", Node::u32)?,
            table: object.read("table", Node::u32)?,
            scope: object.read("scope", |node| {
                node.u64()?.try_into().map_err(|_| node.place.expected("a scope from 0 to 255", node.value))
            })?,
        })
    }

    fn to_json(&self, extended: bool) -> Value {
        let mut entry = Map::new();
        entry.insert("dst".into(), cidr(self.dst).into());
        if let Some(gw) = self.gw {
            entry.insert("gw".into(), gw.to_string().into());
        }
        if extended {
            let numbers = [
                ("mtu", self.mtu),
                ("advmss", self.advmss),
                ("priority", self.priority),
                ("table", self.table),
                ("scope", self.scope.map(u32::from)),
            ];
            for (key, number) in numbers {
                if let Some(number) = number {
                    entry.insert(key.into(), number.into());
                }
            }
        }
        Value::Object(entry)
    }
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Lays `over` on top: each of its fields that is set replaces ours.
    pub fn extend(&mut self, over: &Self) {
        let lists = [
            (&mut self.nameservers, &over.nameservers),
            (&mut self.search, &over.search),
            (&mut self.options, &over.options),
        ];
        for (ours, theirs) in lists {
            if !theirs.is_empty() {
                ours.clone_from(theirs);
            }
        }
        if !over.domain.is_empty() {
            self.domain.clone_from(&over.domain);
        }
    }

    /// Reads `dns` of a configuration or result, or `runtimeConfig.dns`, which says `servers` and `searches`.
    pub(super) fn read(node: &Node<'_>) -> Result<Self, CniError> {
        let object = node.object()?;
        let texts = |a: &str, b: &str| {
            Ok::<_, CniError>(match object.read(a, Node::texts)? {
                Some(texts) => texts,
                None => object.read(b, Node::texts)?.unwrap_or_default(),
            })
        };
        Ok(Self {
            nameservers: texts("nameservers", "servers")?,
            domain: object.text("domain")?,
            search: texts("search", "searches")?,
            options: texts("options", "options")?,
        })
    }

    fn to_json(&self) -> Value {
        let mut object = Map::new();
        for (key, list) in
            [("nameservers", &self.nameservers), ("search", &self.search), ("options", &self.options)]
        {
            if !list.is_empty() {
                object.insert(key.into(), json!(list));
            }
        }
        if !self.domain.is_empty() {
            object.insert("domain".into(), self.domain.clone().into());
        }
        Value::Object(object)
    }
}

fn cidr((addr, len): (IpAddr, u8)) -> String {
    format!("{addr}/{len}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> AddResult {
        let v4 = ("10.32.4.7".parse().unwrap(), 32);
        let v6 = ("fd00:32::7".parse().unwrap(), 128);
        let gw4: IpAddr = "169.254.1.1".parse().unwrap();
        let gw6: IpAddr = "fe80::1".parse().unwrap();
        AddResult {
            interfaces: vec![
                Interface {
                    name: "s32x".into(),
                    mac: "ee:ee:ee:ee:ee:ee".into(),
                    mtu: 1500,
                    sandbox: String::new(),
                },
                Interface {
                    name: "eth0".into(),
                    mac: "02:00:00:00:00:07".into(),
                    mtu: 1500,
                    sandbox: "/run/netns/c".into(),
                },
            ],
            ips: vec![
                IpConfig { interface: Some(1), address: v4, gateway: Some(gw4) },
                IpConfig { interface: Some(1), address: v6, gateway: Some(gw6) },
            ],
            routes: vec![
                Route::new(("0.0.0.0".parse().unwrap(), 0), Some(gw4)),
                Route { mtu: Some(1400), ..Route::new(("::".parse().unwrap(), 0), Some(gw6)) },
            ],
            dns: Dns { nameservers: vec!["10.32.0.53".into()], ..Dns::default() },
        }
    }

    #[test]
    fn shapes_of_all_versions() {
        let shapes: Vec<_> = SpecVersion::ALL.map(|v| sample().to_json(v)).to_vec();
        insta::assert_snapshot!(serde_json::to_string_pretty(&shapes).unwrap());
    }

    #[test]
    fn comes_back_from_every_version() {
        for version in SpecVersion::ALL {
            let back = AddResult::from_json(&sample().to_json(version)).unwrap();
            let mut expected = sample();
            if version < SpecVersion::V1_1_0 {
                expected.interfaces.iter_mut().for_each(|i| i.mtu = 0);
                expected.routes.iter_mut().for_each(|r| r.mtu = None);
            }
            if version < SpecVersion::V0_3_0 {
                expected.interfaces.clear();
                expected.ips.iter_mut().for_each(|i| i.interface = None);
            }
            assert_eq!(back, expected, "{version}");
        }
    }

    #[test]
    fn other_plugins_results_are_read() {
        let value = json!({"CNIVersion": "0.3.1", "ips": [{"Address": "10.0.0.2/24", "interface": -1}], "dns": {}, "x": 1});
        let result = AddResult::from_json(&value).unwrap();
        assert_eq!((result.ips[0].interface, result.ips[0].address.1), (None, 24));
        assert_eq!(AddResult::from_json(&json!({"ips": [{}]})).unwrap_err().code, 7);
    }
}
