//! Every match and every action of a rule, when routes come in and when they go out.

use std::sync::Arc;

use super::kit::*;
use crate::bgp::{
    rib::{PeerParams, RibConfig, filter::Rule},
    wire::{AsPath, Community, ExtCommunity, LargeCommunity, PathAttributes},
};

const P: &str = "10.1.2.0/24";
const SIX: &str = "fd01::/64";

fn rules(text: &str) -> Arc<[Rule]> {
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<Rule>,
    }
    toml::from_str::<File>(&format!("rule = [{text}]")).unwrap().rule.into()
}

/// What peer 1 (AS 65001, by eBGP) announces with every kind of community.
fn announced() -> PathAttributes {
    PathAttributes {
        as_path: AsPath::sequence([65001, 64999]),
        communities: vec![Community(65001 << 16 | 7), Community(65001 << 16 | 8)],
        large_communities: vec![LargeCommunity { global: 70_000, local1: 1, local2: 2 }],
        ext_communities: vec![ExtCommunity([0, 2, 0xFD, 0xE9, 0, 0, 0, 9])],
        ..from(1)
    }
}

/// What peers 2 (iBGP) and 3 (eBGP) get of it, with rules on the way in or on the way out to both.
fn passed(import: &str, export: &str, prefix: &str) -> [Option<PathAttributes>; 2] {
    let mut lab = Lab::new(RibConfig { transit: true, ..config() });
    lab.up(1, PeerParams { import: rules(import), ..ebgp(1) });
    lab.up(2, PeerParams { export: rules(export), ..ibgp(2) });
    lab.up(3, PeerParams { export: rules(export), ..ebgp(3) });
    lab.update(1, announce(1, announced(), &[prefix]));
    [2, 3].map(|n| lab.pull(n).route(prefix).map(|route| route.attributes.clone()))
}

#[test]
fn every_match() {
    for (condition, prefix, matches) in [
        (r#"prefix = "10.1.2.0/24""#, P, true),
        (r#"prefix = "10.1.0.0/16""#, P, false),
        (r#"prefix = "10.1.0.0/16", le = 24"#, P, true),
        (r#"prefix = "10.1.0.0/16", le = 23"#, P, false),
        (r#"prefix = "10.1.0.0/16", ge = 24"#, P, true),
        (r#"prefix = "10.1.0.0/16", ge = 25"#, P, false),
        (r#"prefix = ["192.0.2.0/24", "10.1.0.0/16"], ge = 20, le = 28"#, P, true),
        (r#"prefix = "0.0.0.0/0", le = 32"#, P, true),
        (r#"prefix = "0.0.0.0/0", le = 32"#, SIX, false),
        (r#"prefix = "::/0", le = 128"#, SIX, true),
        (r#"family = "ipv4""#, P, true),
        (r#"family = "ipv6""#, P, false),
        (r#"family = "ipv6""#, SIX, true),
        (r#"community = "65001:7""#, P, true),
        (r#"community = ["65001:7", "65001:8"]"#, P, true),
        (r#"community = ["65001:7", "65001:9"]"#, P, false),
        (r#"community = "65001:*""#, P, true),
        (r#"community = "*:8""#, P, true),
        (r#"community = "65002:*""#, P, false),
        (r#"community = "70000:1:2""#, P, true),
        (r#"community = "70000:*:*""#, P, true),
        (r#"community = "70000:1:3""#, P, false),
        (r#"community = "rt:65001:9""#, P, true),
        (r#"community = "rt:65001:8""#, P, false),
        (r#"as_path = "^65001""#, P, true),
        (r#"as_path = "64999$""#, P, true),
        (r#"as_path = "^65001 64999$""#, P, true),
        (r#"as_path = "^64999""#, P, false),
        (r#"next_hop = "192.0.2.0/24""#, P, true),
        (r#"next_hop = "192.0.2.1/32""#, P, true),
        (r#"next_hop = "192.0.2.2/32""#, P, false),
        (r#"next_hop = "2001:db8::/64""#, SIX, true),
        // All that is said must hold.
        (r#"family = "ipv4", community = "65001:7", as_path = "^65001""#, P, true),
        (r#"family = "ipv4", community = "65001:7", as_path = "^65002""#, P, false),
        ("", P, true),
    ] {
        let reject = match condition {
            "" => r#"{ action = "reject" }"#.to_owned(),
            some => format!(r#"{{ {some}, action = "reject" }}"#),
        };
        for (import, export) in [(reject.as_str(), ""), ("", reject.as_str())] {
            let seen = passed(import, export, prefix).map(|route| route.is_none());
            assert_eq!(seen, [matches; 2], "{condition} for {prefix}, {import:?} {export:?}");
        }
        // An acceptance ends the list.
        let accept = reject.replace("reject", "accept");
        let list = format!(r#"{accept}, {{ action = "reject" }}"#);
        let seen = passed(&list, "", prefix).map(|route| route.is_some());
        assert_eq!(seen, [matches; 2], "{condition} for {prefix}, accepted");
    }
}

#[test]
fn every_action() {
    type Check = fn(&PathAttributes, bool) -> bool;
    let table: [(&str, Check); 11] = [
        ("set_local_pref = 300", |a, internal| a.local_pref == internal.then_some(300)),
        ("set_med = 40", |a, _| a.med == Some(40)),
        (r#"add_community = "65010:1""#, |a, _| {
            a.communities.len() == 3 && a.communities.contains(&Community(65010 << 16 | 1))
        }),
        (r#"add_community = "no-export""#, |a, _| a.communities.contains(&Community::NO_EXPORT)),
        (r#"add_community = "65001:7""#, |a, _| a.communities.len() == 2),
        (r#"add_community = "70000:9:9""#, |a, _| a.large_communities.len() == 2),
        (r#"add_community = "rt:65001:10""#, |a, _| a.ext_communities.len() == 2),
        (r#"remove_community = "65001:*""#, |a, _| a.communities.is_empty()),
        (r#"remove_community = ["70000:1:2", "rt:65001:9"]"#, |a, _| {
            a.large_communities.is_empty() && a.ext_communities.is_empty() && a.communities.len() == 2
        }),
        ("prepend = 2", |a, internal| {
            let path = a.as_path.to_string();
            path == if internal { "64512 64512 65001 64999" } else { "64512 64512 64512 65001 64999" }
        }),
        (r#"set_med = 1, action = "next" }, { set_local_pref = 7"#, |a, internal| {
            a.med == Some(1) && a.local_pref == internal.then_some(7)
        }),
    ];
    for (change, check) in table {
        let rule = format!("{{ {change} }}");
        for (import, export) in [(rule.as_str(), ""), ("", rule.as_str())] {
            let [internal, external] = passed(import, export, P);
            let on_import = export.is_empty();
            if change.contains("no-export") && on_import {
                assert!(external.is_none(), "what is marked when it comes does not leave the AS");
            } else if change.contains("set_med") && on_import {
                // RFC 4271 section 5.1.4: a MED that was received goes no further than our own AS.
                let external = external.unwrap();
                assert_eq!(external.med, None, "{change}");
            } else {
                assert!(check(&external.unwrap(), false), "{change}, {import:?} {export:?}, eBGP");
            }
            let internal = internal.unwrap();
            assert!(check(&internal, true), "{change}, {import:?} {export:?}, iBGP: {internal:?}");
        }
    }
}
