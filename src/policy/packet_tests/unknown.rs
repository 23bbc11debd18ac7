//! Endpoints whose labels nobody knows, as their files were lost.

use super::{
    OTHER, WEB,
    lab::{
        Lab, V4, V6,
        Via::{Tcp, Udp},
        Who::{C, Host, Outside},
        config,
    },
};
use crate::{model::Identity, policy::engine::EngineConfig};

/// The one without known labels.
const LOST: usize = 1;

const LABELLED: &str = r#"[[policy]]
    name = "web"
    select = 'role == "web"'
    ingress = [{ action = "deny", from = { selector = 'role == "other"' }, protocol = "tcp", ports = 443 },
               { action = "allow" }]"#;

/// By addresses alone: known without labels.
const BY_ADDRESS: &str = r#"[[policy]]
    name = "all"
    select = "all()"
    ingress = [{ action = "deny", from = { cidr = ["203.0.113.0/24", "2001:db8:ffff::/48"] } }, { action = "allow" }]"#;

fn lab() -> Lab {
    let mut lab = Lab::new(3);
    lab.know(WEB, &[("role", "web")]);
    lab.know(LOST, &[(Identity::UNKNOWN, "")]);
    lab.know(OTHER, &[("role", "other")]);
    lab
}

/// Whether it talks with everybody or with nobody; the interpreter says the same.
fn expect_all(lab: &Lab, works: bool) {
    for peer in [C(WEB), C(OTHER), Outside] {
        for (from, to) in [(C(LOST), peer), (peer, C(LOST))] {
            assert_eq!(lab.told(from, to, Tcp, 80), works, "{from:?} {to:?}");
            lab.expect(from, to, Tcp, 80, works);
            lab.expect(from, to, Udp, 8080, works);
        }
    }
    // To the host, too. The host reaches its endpoints whatever policies say.
    assert_eq!(lab.told(C(LOST), Host, Udp, 53), works);
    lab.expect(C(LOST), Host, Udp, 53, works);
    lab.expect(Host, C(LOST), Tcp, 80, true);
    // Others do not notice.
    lab.expect(C(OTHER), C(WEB), Tcp, 80, true);
    lab.expect(Outside, C(WEB), Tcp, 80, true);
}

#[test]
fn whose_labels_are_lost_is_cut_off_while_policies_ask_for_labels() {
    let mut lab = lab();
    expect_all(&lab, true);
    lab.policies(BY_ADDRESS);
    expect_all(&lab, true);
    let mut talks = Vec::new();
    for v6 in [V4, V6] {
        for (from, to) in [(LOST, WEB), (WEB, LOST), (OTHER, WEB)] {
            talks.push((
                from == OTHER,
                lab.talk_to(C(from), C(to), v6, 80),
                lab.chat(C(from), C(to), v6, 8080),
            ));
        }
        talks.push((false, lab.talk_to(C(LOST), Outside, v6, 80), lab.chat(Outside, C(LOST), v6, 8080)));
    }
    let mut expect_talks = |works: bool| {
        for (others, talk, chat) in &mut talks {
            let works = works || *others;
            assert_eq!((talk.works(works), chat.works(works)), (works, works), "of others: {others}");
        }
    };
    expect_talks(true);
    lab.policies(LABELLED);
    // What is established, too, and in both directions.
    expect_talks(false);
    expect_all(&lab, false);
    let refused = lab.enforcer.driver().counters_of(&[crate::policy::engine::LABELS_UNKNOWN]).unwrap();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].comment == "labels of the endpoint unknown" && refused[0].packets > 20, "{refused:?}");
    // The administrator would have it otherwise: it is judged as one without labels.
    let set = |lab: &mut Lab, deny_unknown: bool| {
        lab.enforcer.engine_mut().set_config(EngineConfig { deny_unknown, ..config() });
        lab.enforcer.commit().unwrap();
    };
    set(&mut lab, false);
    expect_all(&lab, true);
    set(&mut lab, true);
    expect_all(&lab, false);
    // Somebody tells them.
    lab.know(LOST, &[("role", "lb")]);
    expect_all(&lab, true);
    lab.know(LOST, &[(Identity::UNKNOWN, "")]);
    expect_all(&lab, false);
    // The last policy that asks for labels goes.
    lab.policies(BY_ADDRESS);
    expect_all(&lab, true);
}
