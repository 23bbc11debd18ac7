//! Which labels an endpoint gets.

use serde::{Deserialize, Serialize};

use crate::{
    cni::types::{CniArgs, CniError, LABELS_KEY, NetConf, code, parse_labels},
    model::{EndpointKey, LabelError, Labels},
};

/// `[[label_rule]]`: labels for endpoints by the patterns of their names. A pattern that is absent matches all; `*`
/// stands for any text and `?` for one character.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRule {
    /// For the pod's name (`K8S_POD_NAME`), or the container's identifier where there is none.
    pub match_name: Option<String>,
    /// For the network's name.
    pub match_network: Option<String>,
    /// What such endpoints get.
    pub labels: Labels,
}

/// Collects the labels of an endpoint.
///
/// Policies trust labels, so what the host's administrator says outranks what whoever starts the container says. From
/// weakest to strongest: the pod's annotation, `args`, `S32_LABELS` of `CNI_ARGS`; `labels` of the network's
/// configuration; label rules, later ones winning; and the pod's namespace and name as the runtime states them.
pub(super) fn collect(
    conf: &NetConf,
    args: &CniArgs,
    key: &EndpointKey,
    rules: &[LabelRule],
) -> Result<Labels, CniError> {
    let invalid = |place: &str, e: LabelError| CniError::new(code::INVALID_CONFIG, format!("{place}: {e}"));
    let mut labels = Labels::new();
    if let Some(text) = conf.runtime.annotations.get(LABELS_KEY) {
        labels.extend(&parse_labels(text).map_err(|e| invalid("annotation slash32.io/labels", e))?);
    }
    labels.extend(&conf.args.labels);
    if let Some(text) = args.get("S32_LABELS") {
        labels.extend(&parse_labels(text).map_err(|e| invalid("CNI_ARGS S32_LABELS", e))?);
    }
    labels.extend(&conf.labels);
    let pod = args.get("K8S_POD_NAME").filter(|n| !n.is_empty());
    let name = pod.unwrap_or(&key.container_id);
    for rule in rules {
        let matches = |pattern: &Option<String>, text| pattern.as_ref().is_none_or(|p| glob(p, text));
        if matches(&rule.match_name, name) && matches(&rule.match_network, &key.network) {
            labels.extend(&rule.labels);
        }
    }
    for (label, variable) in [("namespace", "K8S_POD_NAMESPACE"), ("pod", "K8S_POD_NAME")] {
        if let Some(value) = args.get(variable).filter(|v| !v.is_empty()) {
            labels.insert(label, value).map_err(|e| invalid(variable, e))?;
        }
    }
    labels.check_count().map_err(|e| invalid("labels", e))?;
    Ok(labels)
}

/// Whether a text matches a pattern of `*`, `?` and literal characters.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on if the last `*` has to take one character more.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(q) if *q == '?' || q == c => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else { return false };
                retry = Some((after_star, taken + 1));
                p = after_star;
                t = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text) in [
            ("*", ""),
            ("web-*", "web-"),
            ("web-*", "web-1"),
            ("*a*b", "xaxaxb"),
            ("?", "ü"),
            ("a**", "a"),
            ("", ""),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("web-*", "web"), ("?", ""), ("a", "ab"), ("*a*b", "ba"), ("", "x"), ("*b", "ab ")]
        {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
        // Not exponential.
        assert!(!glob(&"*a".repeat(50), &"a".repeat(49)));
    }

    #[test]
    fn the_administrator_outranks_the_user() {
        let conf = NetConf::parse(&serde_json::json!({
            "cniVersion": "1.0.0", "name": "prod", "type": "slash32",
            "labels": {"tier": "conf", "role": "conf"},
            "args": {"cni": {"labels": {"a": "args", "b": "args", "tier": "args"}}},
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"slash32.io/labels": "a=annotation,c=annotation,namespace=forged"}},
        }))
        .unwrap();
        let args =
            CniArgs::parse("S32_LABELS=b=variable,role=variable;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-7")
                .unwrap();
        let key = EndpointKey { network: "prod".into(), container_id: "c1".into(), ifname: "eth0".into() };
        let rule = |name: &str, network: &str, labels: &str| LabelRule {
            match_name: Some(name.into()),
            match_network: Some(network.into()),
            labels: parse_labels(labels).unwrap(),
        };
        let rules = [
            rule("web-*", "*", "role=rule,x=1"),
            rule("web-*", "test", "role=no"),
            rule("c1", "prod", "role=no"),
            rule("*", "prod", "x=2"),
        ];
        let labels = collect(&conf, &args, &key, &rules).unwrap();
        assert_eq!(
            labels.to_string(),
            "a=args,b=variable,c=annotation,namespace=shop,pod=web-7,role=rule,tier=conf,x=2"
        );
        let args = CniArgs::parse("S32_LABELS=a b=c").unwrap();
        assert_eq!(collect(&conf, &args, &key, &[]).unwrap_err().code, 7);
        let many: Vec<String> = (0..=Labels::MOST).map(|n| format!("k{n}=v")).collect();
        let of = |list: &[String]| CniArgs::parse(&format!("S32_LABELS={}", list.join(","))).unwrap();
        let bare =
            NetConf::parse(&serde_json::json!({"cniVersion": "1.0.0", "name": "n", "type": "slash32"}))
                .unwrap();
        assert_eq!(collect(&bare, &of(&many[1..]), &key, &[]).unwrap().len(), Labels::MOST);
        let error = collect(&bare, &of(&many), &key, &[]).unwrap_err();
        assert!(error.code == 7 && error.msg.contains("129"), "{error}");
    }
}
