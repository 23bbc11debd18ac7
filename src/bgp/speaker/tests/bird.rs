//! Against BIRD, another host's speaker. Run with `cargo test --lib bird -- --ignored` where `bird` is installed.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    harness::{Node, prefix},
    lab::{Lab, host_config, neighbour4, neighbour6, wait},
};
use crate::{
    bgp::{
        config::{AddPathConfig, Secret},
        rib::LocalRoute,
        session::State,
        speaker::{PeerAction, Shutdown, SpeakerEvent},
        wire::LargeCommunity,
    },
    model::{Identity, Labels},
};

/// BIRD on host 2 of a lab.
struct Bird {
    child: Child,
    folder: tempfile::TempDir,
}

impl Bird {
    /// `channels` and `options` go into its one BGP protocol.
    fn start(lab: &Lab, asn: u32, neighbour: &str, options: &str, statics: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "router id 10.0.0.2;
             protocol device {{}}
             protocol static s4 {{ ipv4; {statics} }}
             protocol static s6 {{ ipv6; route fd00:99::/48 unreachable; }}
             protocol bgp peer {{
                 local as {asn};
                 neighbor {neighbour};
                 connect retry time 1; connect delay time 1; error wait time 1,2;
                 {options}
                 ipv4 {{ import all; export where source = RTS_STATIC; extended next hop on; }};
                 ipv6 {{ import all; export where source = RTS_STATIC; }};
             }}"
        );
        let path = folder.path().join("bird.conf");
        std::fs::write(&path, config).unwrap();
        let child = Self::spawn(lab, folder.path(), &[]);
        Self { child, folder }
    }

    fn spawn(lab: &Lab, folder: &Path, options: &[&str]) -> Child {
        lab.host(2).run(|| {
            Command::new("bird")
                .arg("-f")
                .args(options)
                .arg("-c")
                .arg(folder.join("bird.conf"))
                .arg("-s")
                .arg(folder.join("bird.ctl"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("bird is installed")
        })
    }

    fn ask(&self, question: &str) -> String {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.folder.path().join("bird.ctl"))
            .args(question.split(' '))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until an answer has all of these in it.
    async fn says(&self, question: &str, parts: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.ask(question);
            if parts.iter().all(|part| answer.contains(part)) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{question}: not {parts:?} in {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const STATICS: &str = "route 10.99.1.0/24 unreachable { bgp_large_community.add((1,2,3)); };
                       route 10.99.2.0/24 unreachable;";

async fn originate(node: &Node) {
    let identity = std::sync::Arc::new(Identity::of(&Labels::try_from([("role", "web")]).unwrap()));
    let route = LocalRoute {
        identity: Some(identity),
        large_communities: vec![LargeCommunity { global: 7, local1: 8, local2: 9 }],
        ..LocalRoute::default()
    };
    let routes = vec![(prefix("10.32.4.7/32"), route), (prefix("fd00:32::7/128"), LocalRoute::default())];
    assert!(node.handle.originate(routes, Duration::from_secs(5)).await.unwrap());
}

#[test]
#[ignore = "needs bird"]
fn routes_of_both_families_both_ways() {
    for (ours, theirs) in [(64512, 65000), (64512, 64512)] {
        for v6 in [false, true] {
            let lab = Lab::new(2, &[(1, 2)]);
            let address = if v6 { "fd00:1:2::1" } else { "10.1.2.1" };
            let bird = Bird::start(
                &lab,
                theirs,
                &format!("{address} as {ours}"),
                "enable extended messages on;",
                STATICS,
            );
            wait(async {
                let mut config = host_config(1, ours);
                config.peers = vec![if v6 { neighbour6(1, 2, theirs) } else { neighbour4(1, 2, theirs) }];
                let mut node = lab.start(1, config);
                node.established().await;
                originate(&node).await;
                assert!(node.best("10.99.1.0/24").await.is_some());
                node.until("all of BIRD's", |p| p.prefixes_accepted == 3).await;
                bird.says("show route 10.32.4.7/32 all", &["10.32.4.7/32", "(7, 8, 9)", "BGP.next_hop"])
                    .await;
                bird.says("show route fd00:32::7/128 all", &["fd00:32::7/128", "BGP.next_hop: fd00:1:2::1"])
                    .await;
                node.handle.withdraw(vec![prefix("10.32.4.7/32")], Duration::from_secs(5)).await.unwrap();
                let gone = Instant::now() + Duration::from_secs(10);
                while bird.ask("show route 10.32.4.7/32").contains("10.32.4.7") {
                    assert!(Instant::now() < gone);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                // Both sides can ask again.
                node.handle.act(&node.only().await.peer, PeerAction::RefreshIn).await.unwrap();
                bird.ask("reload in peer");
                bird.ask("disable s4");
                while node.best("10.99.2.0/24").await.is_some() {}
                // What is said at the end arrives on both sides.
                node.handle.shutdown(Shutdown::Cease("to the cellar".into())).await.unwrap();
                bird.says("show protocols all peer", &["to the cellar"]).await;
            });
        }
    }
}

#[test]
#[ignore = "needs bird"]
fn md5_and_ttl_security() {
    let lab = Lab::new(2, &[(1, 2)]);
    let options = "password \"opensesame\"; ttl security on;";
    let bird = Bird::start(&lab, 65000, "10.1.2.1 as 64512", options, STATICS);
    wait(async {
        let mut config = host_config(1, 64512);
        config.peers = vec![neighbour4(1, 2, 65000)];
        config.peers[0].settings.password = Some(Secret("opensesame".into()));
        config.peers[0].settings.ttl_security = Some(1);
        let node = lab.start(1, config);
        node.established().await;
        bird.says("show protocols all peer", &["Established"]).await;
    });
}

#[test]
#[ignore = "needs bird"]
fn errors_are_understood() {
    let lab = Lab::new(2, &[(1, 2)]);
    let bird = Bird::start(&lab, 65000, "10.1.2.1 as 64999", "", STATICS);
    wait(async {
        let mut config = host_config(1, 64512);
        config.peers = vec![neighbour4(1, 2, 65000)];
        let node = lab.start(1, config);
        node.until("refused", |p| {
            p.last_error.as_deref().is_some_and(|e| e.contains("received OPEN Message Error/Bad Peer AS"))
        })
        .await;
        bird.says("show protocols all peer", &["Bad peer AS"]).await;
    });
}

/// BIRD restarts gracefully, and dies; we restart: nobody loses what it need not.
#[test]
#[ignore = "needs bird"]
fn graceful_restart_of_either_side() {
    let lab = Lab::new(2, &[(1, 2)]);
    let options = "graceful restart on; graceful restart time 30; hold time 30;";
    let mut bird = Bird::start(&lab, 65000, "10.1.2.1 as 64512", options, STATICS);
    wait(async {
        let mut config = host_config(1, 64512);
        config.peers = vec![neighbour4(1, 2, 65000)];
        let mut node = lab.start(1, config.clone());
        assert!(node.established().await.graceful_restart);
        originate(&node).await;
        assert!(node.best("10.99.1.0/24").await.is_some());
        assert!(node.best("10.99.2.0/24").await.is_some());
        bird.says("show route 10.32.4.7/32", &["10.32.4.7/32"]).await;

        // It is killed, and comes back (`-R`: its forwarding went on) without one of its routes.
        bird.child.kill().unwrap();
        bird.child.wait().unwrap();
        node.event("down", |e| matches!(e, SpeakerEvent::PeerDown { .. }).then_some(())).await;
        let path = bird.folder.path().join("bird.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("route 10.99.2.0/24 unreachable;", "")).unwrap();
        bird.child = Bird::spawn(&lab, bird.folder.path(), &["-R"]);
        node.event("up", |e| matches!(e, SpeakerEvent::PeerUp { .. }).then_some(())).await;
        while node.best("10.99.2.0/24").await.is_some() {}
        assert!(node.log.iter().all(|c| c.prefix != prefix("10.99.1.0/24") || c.best.is_some()));

        // We go and come back: BIRD keeps our route meanwhile.
        node.handle.shutdown(Shutdown::Restart).await.unwrap();
        drop(node);
        let kept = bird.ask("show route 10.32.4.7/32");
        assert!(kept.contains("10.32.4.7/32"), "{kept}");
        config.restarting = true;
        config.originate = vec![prefix("10.32.4.7/32")];
        let mut node = lab.start(1, config);
        node.event("converged", |e| matches!(e, SpeakerEvent::Converged).then_some(())).await;
        // The one that was not originated again is gone.
        let deadline = Instant::now() + Duration::from_secs(10);
        while bird.ask("show route fd00:32::7/128").contains("fd00:32::7") {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(bird.ask("show route 10.32.4.7/32").contains("10.32.4.7/32"));
        assert_eq!(node.only().await.state, State::Established);
    });
}

#[test]
#[ignore = "needs bird"]
fn additional_paths() {
    let lab = Lab::new(2, &[(1, 2)]);
    let bird = Bird::start(&lab, 64512, "10.1.2.1 as 64512", "", STATICS);
    let path = bird.folder.path().join("bird.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("extended next hop on;", "extended next hop on; add paths on;"))
        .unwrap();
    wait(async {
        bird.says("configure", &["Reconfigured"]).await;
        let mut config = host_config(1, 64512);
        config.peers = vec![neighbour4(1, 2, 64512)];
        config.peers[0].settings.add_path = AddPathConfig { receive: true, send: 4 };
        let mut node = lab.start(1, config);
        originate(&node).await;
        node.established().await;
        assert!(node.best("10.99.1.0/24").await.is_some());
        bird.says("show route 10.32.4.7/32 all", &["10.32.4.7/32"]).await;
        bird.says("show protocols all peer", &["ADD-PATH"]).await;
    });
}
