use std::net::Ipv4Addr;

use super::*;
use crate::bgp::config::{PeerAddress, RemoteAs};

fn read(source: &str) -> Result<Config, String> {
    let surroundings = Surroundings { hostname: "host1".into(), router_id: Some(Ipv4Addr::new(10, 0, 0, 1)) };
    parse(Path::new("test.toml"), source, &surroundings).map_err(|e| e.to_string())
}

#[test]
fn an_empty_file_is_a_host_without_bgp() {
    let config = read("").unwrap();
    assert_eq!((config.bgp, config.hostname.as_str(), config.routes.protocol), (None, "host1", 32));
}

#[test]
fn a_peer_takes_from_its_group_what_it_does_not_say() {
    let config = read(
        "[bgp]\nasn = 64512\n[bgp.group.tor]\nasn = 65000\nhold_time = 9\nkeepalive = 3\n\
         [[bgp.peer]]\naddress = \"192.0.2.1\"\ngroup = \"tor\"\nhold_time = 30\n\
         [[bgp.peer]]\ninterface = \"eth1\"\nasn = \"external\"\n\
         [[bgp.listen_range]]\nprefix = \"198.51.100.0/24\"\nasn = [1, \"1.10\"]\n",
    )
    .unwrap();
    let bgp = config.bgp.unwrap();
    assert_eq!(bgp.router_id.to_string(), "10.0.0.1");
    assert_eq!(bgp.peers[0].settings.asn, RemoteAs::Is(crate::model::Asn::new(65000).unwrap()));
    assert_eq!(bgp.peers[0].settings.timers.hold_time.as_secs(), 30);
    assert_eq!(bgp.peers[0].settings.timers.keepalive.unwrap().as_secs(), 3);
    assert_eq!(bgp.peers[1].address, PeerAddress::Interface("eth1".into()));
    assert!(matches!(&bgp.listen_ranges[0].settings.asn, RemoteAs::OneOf(list) if list.len() == 2));
}

#[test]
fn bits_of_the_connection_mark() {
    let mask = |text: &str| read(&format!("[policy]\n{text}\n")).unwrap().policy.ct_mark_mask;
    assert_eq!(mask(""), 0xffff_ff00);
    assert_eq!(mask("ct_mark_mask = 0x00ffff00"), 0x00ff_ff00);
    assert_eq!(mask("ct_mark_mask = 0xffffffff"), u32::MAX);
}

/// Two agents on one machine have run directories of their own, and so what they keep stays apart.
#[test]
fn where_state_is_kept() {
    let dir = |text: &str| read(&format!("[agent]\n{text}\n")).unwrap().state_dir();
    assert_eq!(dir(""), Some("/var/lib/slash32".into()));
    assert_eq!(dir("run_dir = \"/run/slash32\""), Some("/var/lib/slash32".into()));
    assert_eq!(dir("run_dir = \"/run/other\""), Some("/run/other/state".into()));
    assert_eq!(dir("run_dir = \"/run/other\"\nstate_dir = \"/srv/x\""), Some("/srv/x".into()));
    assert_eq!(dir("state_dir = \"\""), None);
    let wait = |text: &str| read(&format!("[ipam]\n{text}\n")).unwrap().neighbours_wait.as_secs();
    assert_eq!((wait(""), wait("neighbours_wait_seconds = 0")), (10, 0));
}

#[test]
fn pools_by_host_index() {
    let config = read(
        "[[ipam.pool]]\ncidr = \"10.32.0.0/16\"\nhost_index = 4\nblock_len = 24\n\
         [[ipam.pool]]\ncidr = \"fd00:32::/48\"\nblock = \"fd00:32:0:4::/64\"\n",
    )
    .unwrap();
    assert_eq!(config.pools[0].blocks[0].to_string(), "10.32.4.0/24");
    assert_eq!(config.pools[1].blocks[0].to_string(), "fd00:32:0:4::/64");
}

/// Every refusal says what and where; the second column must be in the message, the third is the place.
#[test]
fn refusals_name_the_place() {
    let cases = [
        ("[agent]\nhostnam = \"x\"\n", "unknown field `hostnam`", "2:1"),
        ("[bgp]\nasn = 0\n", "AS 0 is reserved", "2:7"),
        ("[bgp]\nasn = \"x\"\n", "not an AS number", "2:7"),
        ("[bgp]\n", "the AS number of this host, is missing", "1:1"),
        ("[[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 1\n", "`[bgp] asn`", "1:3"),
        ("[bgp]\nasn = 23456\n", "nobody's own", "2:7"),
        ("[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 23456\n", "nobody's own", "5:7"),
        ("[bgp]\nasn = 1\nmultipath = 65\n", "1 to 64", "3:13"),
        ("[bgp]\nasn = 1\n[[bgp.peer]]\nasn = 2\n", "neither `address` nor `interface`", "3:1"),
        ("[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"192.0.2.1\"\n", "no AS number", "3:1"),
        (
            "[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 2\ngroup = \"x\"\n",
            "no group `x`",
            "6:9",
        ),
        (
            "[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 2\nhold_time = 2\n",
            "at least 3 seconds",
            "6:13",
        ),
        ("[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"fe80::1\"\nasn = 2\n", "link-local", "4:11"),
        ("[[ipam.pool]]\ncidr = \"10.0.0.1/8\"\n", "did you mean 10.0.0.0/8", "2:8"),
        ("[[ipam.pool]]\ncidr = \"10.0.0.0/8\"\nblock = \"11.0.0.0/24\"\n", "not inside the pool", "3:9"),
        (
            "[[ipam.pool]]\ncidr = \"10.0.0.0/8\"\nblock = [\"10.0.1.0/24\", \"10.0.2.0/24\", \"10.0.1.0/25\"]\n",
            "block 10.0.1.0/25 overlaps block 10.0.1.0/24",
            "3:9",
        ),
        ("[ipam]\naudit_seconds = 0\n", "at least one second", "2:17"),
        ("[ipam]\nquarantine_seconds = 9223372036854775807\n", "9223372036854775807", "2:22"),
        (
            "[[ipam.pool]]\ncidr = \"10.0.0.0/16\"\nblock = \"10.0.1.0/24\"\nnat_outgoing = true\n[policy]\nenabled = false\n",
            "needs `enabled = true`",
            "4:16",
        ),
        ("[[ipam.pool]]\ncidr = \"240.0.0.0/16\"\nblock = \"240.0.1.0/24\"\n", "is never routed", "2:8"),
        ("[routes]\nprotocol = 2\n", "belong to the kernel", "2:12"),
        ("[network]\nmtu = 100\n", "1280", "2:7"),
        ("[policy]\ninfrastructure = [\"10.0.0.1\", \"10.0.0.300\"]\n", "10.0.0.300", "2:31"),
        ("[policy]\nendpoint_to_host = [\"icmp\", \"tcp/0\"]\n", "`tcp/0` is not a service", "2:29"),
        ("[ipam]\nneighbours_wait_seconds = 13\n", "12 seconds at most", "2:27"),
        ("[agent]\nstate_dir = \"state\"\n", "an absolute path", "2:13"),
        ("[policy]\nidentity_hold_seconds = 99999999\n", "for a year", "2:25"),
        ("[policy]\nct_mark_mask = 0xff00\n", "at least 16", "2:16"),
        ("[policy]\nct_mark_mask = 0xffff00ff\n", "at least 16", "2:16"),
        ("[policy]\nct_mark_mask = 0xffffffff00\n", "at least 16", "2:16"),
        ("[policy]\nct_mark_mask = -1\n", "at least 16", "2:16"),
        ("[policy]\nunknown_labels = \"allow\"\n", "expected `deny` or `unlabelled`", "2:18"),
        ("[policy]\nidentity_hold_seconds = -1\n", "invalid value", "2:25"),
        ("[policy]\nidentity_hold_seconds = \"1d\"\n", "invalid type", "2:25"),
        ("[bgp\n", "", "1:5"),
    ];
    for (source, message, place) in cases {
        let error = read(source).unwrap_err();
        assert!(error.contains(message), "{source}\n{error}");
        assert!(error.starts_with(&format!("test.toml:{place}: ")), "{source}\n{error}");
        assert!(error.contains('^'), "{error}");
    }
}

#[test]
fn two_of_the_same_peer_and_several_errors_at_once() {
    let error = read(
        "[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 2\n\
         [[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 3\nhold_time = 1\n",
    )
    .unwrap_err();
    assert!(error.contains("configured twice") && error.contains("at least 3 seconds"), "{error}");
}

/// The shipped file is valid as it is, and every commented option in it is a real one.
#[test]
fn the_shipped_file_and_each_of_its_options() {
    let source = include_str!("../../../config/slash32.toml");
    read(source).unwrap();
    let lines: Vec<&str> = source.lines().collect();
    let commented = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let (mut options, mut at) = (0, 0);
    while at < lines.len() {
        let option = lines[at].strip_prefix('#').unwrap_or_default();
        // A table or a list stands over several lines; anything else is one option.
        let end = match option {
            _ if option.starts_with("[[") || option.starts_with("[bgp.mrt") => {
                (at..lines.len()).find(|&i| !commented(lines[i])).unwrap_or(lines.len())
            }
            _ if option.ends_with('[') => (at..lines.len()).find(|&i| lines[i] == "#]").unwrap() + 1,
            _ => at + 1,
        };
        if option.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') {
            options += end - at;
            let uncomment = |(i, line): (usize, &&'static str)| match line.strip_prefix('#') {
                Some(bare) if (at..end).contains(&i) => bare.trim_start_matches('#'),
                _ => line,
            };
            let text: Vec<&str> = lines.iter().enumerate().map(uncomment).collect();
            if let Err(error) = read(&text.join("\n")) {
                // Contradictions with the rest of the example are fine; unknown keys and bad values are not.
                let fine =
                    ["needs `route_reflector", "no meaning without", "cannot read", "exclude each other"];
                assert!(fine.iter().any(|c| error.contains(c)), "{option}\n{error}");
            }
        }
        at = end;
    }
    assert!(options > 60, "{options}");
}

#[test]
fn the_examples_load() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut read_files = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_dir()) {
        for file in std::fs::read_dir(entry.path()).unwrap().flatten().map(|e| e.path()) {
            // gobgpd.toml is GoBGP's own; policies are no configuration.
            let other = file.ends_with("gobgpd.toml") || entry.path().ends_with("policy");
            if file.extension().is_some_and(|e| e == "toml") && !other {
                read(&std::fs::read_to_string(&file).unwrap())
                    .unwrap_or_else(|e| panic!("{}\n{e}", file.display()));
                read_files += 1;
            }
        }
    }
    assert!(read_files >= 12, "{read_files}");
}

#[test]
fn tcp_ao_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "from a file\n").unwrap();
    let source = |group: &str, peer: &str| {
        format!(
            "[bgp]\nasn = 1\n[bgp.group.tor]\nasn = 2\n{group}\n\
             [[bgp.peer]]\naddress = \"192.0.2.1\"\ngroup = \"tor\"\n{peer}\n"
        )
    };
    let keys = format!(
        "tcp_ao = [{{ id = 1, secret = \"x\" }},
         {{ send_id = 2, receive_id = 3, algorithm = \"aes-128-cmac-96\", secret_file = {file:?} }}]"
    );
    let settings = |group: &str, peer: &str| {
        read(&source(group, peer)).map(|config| config.bgp.unwrap().peers[0].settings.clone())
    };
    let ids = |s: &crate::bgp::config::PeerSettings| -> Vec<_> {
        s.tcp_ao.iter().map(|k| (k.send_id, k.receive_id, k.algorithm, k.secret.0.clone())).collect()
    };
    use crate::netlink::tcp_ao::Algorithm::{Aes128Cmac, HmacSha1};
    let expected = [(1, 1, HmacSha1, "x".to_owned()), (2, 3, Aes128Cmac, "from a file".to_owned())];
    assert_eq!(ids(&settings(&keys, "").unwrap()), expected);
    // A peer's own way to authenticate replaces its group's, whichever it is.
    let own = settings(&keys, "password = \"md5\"").unwrap();
    assert!(own.tcp_ao.is_empty() && own.password.is_some());
    let own = settings("password = \"md5\"", &keys).unwrap();
    assert!(own.tcp_ao.len() == 2 && own.password.is_none());
    for (peer, message) in [
        ("tcp_ao = []", "has no key"),
        ("tcp_ao = [{ secret = \"x\" }]", "has no id"),
        ("tcp_ao = [{ id = 1 }]", "neither `secret` nor `secret_file`"),
        ("tcp_ao = [{ id = 1, secret = \"\" }]", "1 to 80 bytes"),
        ("tcp_ao = [{ id = 256, secret = \"x\" }]", "256"),
        ("tcp_ao = [{ id = 1, secret = \"x\", algorithm = \"md5\" }]", "hmac-sha-1-96"),
        ("tcp_ao = [{ id = 1, secret = \"x\" }, { id = 1, secret = \"y\" }]", "another key"),
        ("tcp_ao = [{ id = 1, secret = \"x\", secret_file = \"y\" }]", "not both"),
        ("tcp_ao = [{ id = 1, secret_file = \"/nowhere\" }]", "cannot read /nowhere"),
        ("tcp_ao = [{ id = 1, secret = \"x\" }]\npassword = \"y\"", "exclude each other"),
    ] {
        let error = settings("", peer).unwrap_err();
        assert!(error.contains(message) && error.starts_with("test.toml:"), "{peer}\n{error}");
    }
    let range = "[bgp]\nasn = 1\n[bgp.group.r]\nasn = 2\ntcp_ao = [{ id = 1, secret = \"x\" }]\n\
                 [[bgp.listen_range]]\nprefix = \"192.0.2.0/24\"\ngroup = \"r\"\n\
                 [[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 2\npassword = \"y\"\n";
    let error = read(range).unwrap_err();
    assert!(error.contains("the other TCP-AO"), "{error}");
}

#[test]
fn a_block_that_is_no_prefix_says_why() {
    for (block, why) in [
        ("\"10.32.4.5/24\"", "did you mean 10.32"),
        ("[\"10.32.4.0/24\", \"10.32.5.1/24\"]", "did you mean 10.32"),
        ("4", "a prefix or a list of prefixes"),
    ] {
        let text = format!("[[ipam.pool]]\ncidr = \"10.32.0.0/16\"\nblock = {block}\n");
        let error = parse(Path::new("x.toml"), &text, &Surroundings::default()).unwrap_err().to_string();
        assert!(error.contains(why) && error.starts_with("x.toml:3:"), "{error}");
    }
}
