//! `CNI_ARGS`: `KEY=VALUE` pairs with semicolons between them.

use std::net::IpAddr;

use super::{
    error::{CniError, code},
    json::parse_address,
};

/// The parsed pairs. The order means nothing (runtimes send them from a hash map) and unknown keys are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs(Vec<(String, String)>);

impl CniArgs {
    /// Parses the variable's text.
    ///
    /// Nomad puts JSON into a value, and JSON may contain semicolons: a value that starts with `{`, `[` or `"` is
    /// taken up to the semicolon after which it is complete.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut pairs = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (pair, after) = rest.split_once(';').unwrap_or((rest, ""));
            if pair.trim().is_empty() {
                rest = after;
                continue;
            }
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::new(
                    code::INVALID_ENVIRONMENT,
                    format!("CNI_ARGS: {pair:?} is not KEY=VALUE"),
                ));
            };
            let value_at = key.len() + 1;
            let length = if value.starts_with(['{', '[', '"']) {
                json_length(&rest[value_at..]).unwrap_or(value.len())
            } else {
                value.len()
            };
            let end = value_at + length;
            pairs.push((key.trim().to_owned(), rest[value_at..end].to_owned()));
            rest = rest[end..].strip_prefix(';').unwrap_or_default();
        }
        Ok(Self(pairs))
    }

    /// The value of a key; keys are compared without regard to case, as libcni's loader does. The last wins.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }

    /// The pairs in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The addresses of `IP=`: one or several with commas, each with or without a prefix length.
    pub fn ips(&self) -> Result<Vec<IpAddr>, CniError> {
        let Some(text) = self.get("IP").filter(|t| !t.is_empty()) else { return Ok(Vec::new()) };
        text.split(',')
            .map(|one| {
                parse_address(one.trim()).map(|(ip, _)| ip).ok_or_else(|| {
                    CniError::new(
                        code::INVALID_ENVIRONMENT,
                        format!("CNI_ARGS: IP: {one:?} is not an IP address"),
                    )
                })
            })
            .collect()
    }
}

/// How long the JSON value at the start of `text` is, provided that a semicolon or the end follows it.
fn json_length(text: &str) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    let length = values.byte_offset();
    let after = text.get(length..)?;
    (after.is_empty() || after.starts_with(';')).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_unknown_keys_and_json() {
        let text =
            r#"IgnoreUnknown=1;;NOMAD={"a":"x;y=z","b":[1;broken;IP=10.0.0.1,fd00::1/128;K8S_POD_NAME=web"#;
        // The broken JSON ends at its first semicolon; what follows it is not a pair.
        assert_eq!(CniArgs::parse(text).unwrap_err().code, 4);
        let text = r#";IgnoreUnknown=1;NOMAD={"a":"x;y=z","b":[1]};EMPTY=;IP=10.0.0.1,fd00::1/128;k8s_pod_name=web;"#;
        let args = CniArgs::parse(text).unwrap();
        assert_eq!(args.get("NOMAD"), Some(r#"{"a":"x;y=z","b":[1]}"#));
        assert_eq!(args.get("EMPTY"), Some(""));
        assert_eq!(args.get("K8S_POD_NAME"), Some("web"));
        assert_eq!(args.ips().unwrap(), ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(CniArgs::parse("IP=x").unwrap().ips().unwrap_err().code, 4);
        assert_eq!(CniArgs::parse("").unwrap(), CniArgs::default());
        assert_eq!(CniArgs::parse("A=ü{;B={ü").unwrap().get("B"), Some("{ü"));
    }
}
