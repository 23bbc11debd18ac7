//! The agent's side of the plugin's short way: what the plugin would have done with the answer is done here.

use super::{Output, answer_version, check_environment, delegate::Delegate, outcome};
use crate::{
    api::{CniAnswer, CniRequest, DEFAULT_RUN_DIR},
    cni::types::{NetConf, REMOVED_KEY, SpecVersion},
    netlink::entry::{FAILURE, LONG_WAY, PARTS, SUCCESS},
};

/// A call that came by the short way.
#[derive(Debug)]
pub struct ShortCall {
    /// What to do.
    pub request: CniRequest,
    version: SpecVersion,
}

impl ShortCall {
    /// None when the plugin has to go the long way: what is wrong is told there, and other IPAM plugins are run there,
    /// in the runtime's surroundings.
    pub fn new(parts: [&[u8]; PARTS]) -> Option<Self> {
        let [command, container_id, netns, ifname, args, path, stdin] = parts;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let request = CniRequest {
            command: text(command)?,
            container_id: text(container_id)?,
            netns: text(netns)?,
            ifname: text(ifname)?,
            args: text(args)?,
            path: text(path)?,
            stdin: serde_json::from_slice(stdin).ok()?,
        };
        let short = matches!(request.command.as_str(), "ADD" | "DEL" | "CHECK")
            && request.stdin.get("run_dir").is_none_or(|dir| dir == DEFAULT_RUN_DIR)
            && check_environment(&request).is_ok()
            && NetConf::essentials(&request.stdin).is_ok()
            && matches!(Delegate::of(&request, std::time::Duration::ZERO), Ok(None));
        short.then(|| Self { version: answer_version(&request.stdin), request })
    }

    /// The answer as it travels. What another IPAM plugin is to be told of, the plugin tells it on its long way.
    pub fn encode(&self, answer: CniAnswer) -> Vec<u8> {
        if matches!(&answer, CniAnswer::Success(value) if value.get(REMOVED_KEY).is_some()) {
            return REFUSAL.to_vec();
        }
        let output = Output::of(outcome(answer), self.version);
        let mut bytes = vec![if output.success { SUCCESS } else { FAILURE }];
        bytes.extend(output.text.into_bytes());
        bytes
    }
}

/// The answer that sends the plugin its long way.
pub const REFUSAL: [u8; 1] = [LONG_WAY];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::{CniFailure, PLUGIN_SOCKET_NAME},
        netlink::entry::SOCKET,
    };

    fn parts<'a>(command: &'a str, id: &'a str, stdin: &'a str) -> [&'a [u8]; PARTS] {
        [command, id, "/run/netns/x", "eth0", "", "/opt/cni/bin", stdin].map(str::as_bytes)
    }

    const CONF: &str = r#"{"cniVersion":"1.0.0","name":"n","type":"slash32"}"#;

    #[test]
    fn both_ends_mean_the_same_socket() {
        assert_eq!(Path::new(DEFAULT_RUN_DIR).join(PLUGIN_SOCKET_NAME), Path::new(SOCKET));
    }

    #[test]
    fn only_what_needs_nothing_of_the_plugin_is_short() {
        for command in ["ADD", "DEL", "CHECK"] {
            assert!(ShortCall::new(parts(command, "c1", CONF)).is_some(), "{command}");
        }
        assert!(ShortCall::new(parts("VERSION", "c1", CONF)).is_none());
        assert!(ShortCall::new(parts("ADD", "", CONF)).is_none());
        assert!(ShortCall::new(parts("ADD", "../x", CONF)).is_none());
        for stdin in [
            "",
            "{",
            "[]",
            r#"{"cniVersion":"1.0.0","type":"slash32"}"#,
            r#"{"cniVersion":"1.0.0","name":"n","type":"slash32","ipam":{"type":"host-local"}}"#,
            r#"{"cniVersion":"1.0.0","name":"n","type":"slash32","run\u005fdir":"/tmp/x"}"#,
        ] {
            assert!(ShortCall::new(parts("ADD", "c1", stdin)).is_none(), "{stdin}");
        }
        let mut bad = parts("ADD", "c1", CONF);
        bad[4] = b"\xff";
        assert!(ShortCall::new(bad).is_none());
    }

    #[test]
    fn answers_are_what_the_plugin_prints() {
        let call = ShortCall::new(parts("ADD", "c1", CONF)).unwrap();
        let text = |answer| String::from_utf8(call.encode(answer)).unwrap();
        assert_eq!(text(CniAnswer::Success(Value::Null)), "0");
        assert_eq!(text(CniAnswer::Success(json!({REMOVED_KEY: []}))).into_bytes(), REFUSAL);
        assert_eq!(text(CniAnswer::Success(json!({"ips": []}))), "0{\"ips\":[]}\n");
        let failure = CniFailure { code: 11, msg: "no".into(), details: String::new() };
        let said = text(CniAnswer::Failure(failure));
        assert!(said.starts_with('1') && said.ends_with("}\n"), "{said}");
        let error: Value = serde_json::from_str(&said[1..]).unwrap();
        assert_eq!((&error["cniVersion"], &error["code"]), (&json!("1.0.0"), &json!(11)));
    }
}
