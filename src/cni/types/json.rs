//! Reading JSON as Go does: keys match without regard to case, unknown keys do not matter, null is absent.
//!
//! containerd and Nomad send `runtimeConfig` in CamelCase (`HostPort`), podman and CRI-O in camelCase.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde_json::{Map, Value};

use super::error::{CniError, code};

/// A place in the configuration, for messages: `runtimeConfig.portMappings[0].hostPort`.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(String);

impl Place {
    pub(super) fn key(&self, key: &str) -> Self {
        if self.0.is_empty() { Self(key.to_owned()) } else { Self(format!("{}.{key}", self.0)) }
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The error that says what was expected here.
    pub(super) fn expected(&self, what: &str, found: &Value) -> CniError {
        let found = match found {
            Value::Object(_) => "an object".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            other => other.to_string().chars().take(80).collect(),
        };
        CniError::new(code::INVALID_CONFIG, format!("{self}: expected {what}, found {found}"))
    }

    /// An error about the value here.
    pub(super) fn invalid(&self, why: impl fmt::Display) -> CniError {
        CniError::new(code::INVALID_CONFIG, format!("{self}: {why}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "network configuration" } else { &self.0 })
    }
}

/// A value together with its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) place: Place,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, place: Place::default() }
    }

    /// The value as an object.
    pub(super) fn object(&self) -> Result<Object<'a>, CniError> {
        match self.value {
            Value::Object(map) => Ok(Object { map, place: self.place.clone() }),
            other => Err(self.place.expected("an object", other)),
        }
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Result<Vec<Self>, CniError> {
        match self.value {
            Value::Array(list) => Ok(list
                .iter()
                .enumerate()
                .map(|(i, value)| Self { value, place: self.place.index(i) })
                .collect()),
            other => Err(self.place.expected("a list", other)),
        }
    }

    pub(super) fn str(&self) -> Result<&'a str, CniError> {
        self.value.as_str().ok_or_else(|| self.place.expected("a text", self.value))
    }

    pub(super) fn bool(&self) -> Result<bool, CniError> {
        self.value.as_bool().ok_or_else(|| self.place.expected("true or false", self.value))
    }

    pub(super) fn u64(&self) -> Result<u64, CniError> {
        self.value.as_u64().ok_or_else(|| self.place.expected("a number from 0", self.value))
    }

    pub(super) fn u32(&self) -> Result<u32, CniError> {
        self.u64()?.try_into().map_err(|_| self.place.expected("a number below 2^32", self.value))
    }

    /// A list of texts, as a list or as one text.
    pub(super) fn texts(&self) -> Result<Vec<String>, CniError> {
        if let Value::String(one) = self.value {
            return Ok(vec![one.clone()]);
        }
        self.list()?.iter().map(|n| n.str().map(str::to_owned)).collect()
    }

    /// An object of texts. Numbers and booleans are read as they are written, since people write `"sysctls": {"x": 1}`.
    pub(super) fn text_map(&self) -> Result<BTreeMap<String, String>, CniError> {
        let mut map = BTreeMap::new();
        for (key, node) in self.object()?.entries() {
            let text = match node.value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(yes) => yes.to_string(),
                other => return Err(node.place.expected("a text", other)),
            };
            map.insert(key.to_owned(), text);
        }
        Ok(map)
    }

    /// An address with or without a prefix length.
    pub(super) fn address(&self) -> Result<(IpAddr, u8), CniError> {
        parse_address(self.str()?).ok_or_else(|| self.place.expected("an IP address", self.value))
    }

    /// An address and nothing else.
    pub(super) fn ip(&self) -> Result<IpAddr, CniError> {
        self.str()?.parse().map_err(|_| self.place.expected("an IP address", self.value))
    }
}

/// An object together with its place.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    place: Place,
}

impl<'a> Object<'a> {
    /// The value of a key that is present and not null: the exact key first, else one that differs in case only.
    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self
            .map
            .get(key)
            .or_else(|| self.map.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v))?;
        (!value.is_null()).then(|| Node { value, place: self.place.key(key) })
    }

    /// Reads the value of a key with `read`, if the key is present.
    pub(super) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Node<'a>) -> Result<T, CniError>,
    ) -> Result<Option<T>, CniError> {
        self.get(key).map(|node| read(&node)).transpose()
    }

    /// The text of a key; empty when absent.
    pub(super) fn text(&self, key: &str) -> Result<String, CniError> {
        Ok(self.read(key, Node::str)?.unwrap_or_default().to_owned())
    }

    /// Every key with its value.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> + '_ {
        self.map.iter().map(|(k, value)| (k.as_str(), Node { value, place: self.place.key(k) }))
    }
}

/// Parses `10.0.0.1`, `10.0.0.1/24`, `fd00::1` or `fd00::1/64`; without a length it is the host's.
pub(super) fn parse_address(text: &str) -> Option<(IpAddr, u8)> {
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) => (addr, Some(len)),
        None => (text, None),
    };
    let addr: IpAddr = addr.parse().ok()?;
    let max = if addr.is_ipv4() { 32 } else { 128 };
    let len = match len {
        None => max,
        Some(len) if !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit()) => len.parse().ok()?,
        Some(_) => return None,
    };
    (len <= max).then_some((addr, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fold_case_and_exact_wins() {
        let value = serde_json::json!({"HostPort": 1, "hostport": 2, "hostPort": 3, "gone": null});
        let object = Node::root(&value).object().unwrap();
        assert_eq!(object.get("hostPort").unwrap().u64().unwrap(), 3);
        assert!(object.get("HOSTPORT").is_some());
        assert!(object.get("gone").is_none());
        let error = object.get("HostPort").unwrap().str().unwrap_err();
        assert_eq!(error.msg, "HostPort: expected a text, found 1");
    }

    #[test]
    fn addresses() {
        for (text, len) in [("10.0.0.1", 32), ("10.0.0.1/24", 24), ("fd00::1", 128), ("fd00::1/0", 0)] {
            assert_eq!(parse_address(text).unwrap().1, len);
        }
        for bad in ["", "x", "10.0.0.1/", "10.0.0.1/33", "fd00::/129", "10.0.0.1/+8", "10.0.0.1/8/8", "1.2.3"]
        {
            assert!(parse_address(bad).is_none(), "{bad}");
        }
    }
}
