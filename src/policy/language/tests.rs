use super::*;
use crate::policy::{Action, Entity, Ports, Protocol, Service};

fn one(text: &str) -> PolicySet {
    parse(&[("a.toml", text)])
        .unwrap_or_else(|e| panic!("{}", e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

#[test]
fn a_whole_policy() {
    let set = one(r#"
        [[tier]]
        name = "security"
        order = 10
        default = "pass"
        [[network_set]]
        name = "partners"
        cidr = ["192.0.2.0/24", "2001:db8::/32"]
        except = ["192.0.2.128/25"]
        [[named_port]]
        name = "http"
        select = 'role == "web"'
        port = 8080
        [[policy]]
        name = "web-from-lb"
        order = 100
        select = 'role == "web"'
        ingress = [
          { action = "allow", from = { selector = 'role == "lb"' }, protocol = "tcp", ports = [80, "8000-8080", "http"] },
          { action = "deny", from = { cidr = ["10.9.0.0/16"], except = ["10.9.1.0/24"] } },
          { action = "allow", from = [{ set = "partners" }, "world"], protocol = ["tcp", "udp", 47] },
          { action = "reject", protocol = "icmp", icmp_type = 8, log = "1/second", limit = "5/minute burst 2" },
        ]
        [[policy]]
        name = "first"
        tier = "security"
        select = "all()"
        egress = []
        staged = true
        [[profile]]
        name = "closed"
        select = "has(secret)"
        ingress = "deny"
        [[host_policy]]
        name = "ssh"
        interfaces = ["eth*"]
        ingress = [{ action = "allow", protocol = "tcp", ports = 22 }]
    "#);
    let names: Vec<_> = set.tiers.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["security", "admin", "default", "baseline"]);
    let names: Vec<_> = set.policies.iter().map(|p| set.full_name(p)).collect();
    assert_eq!(names, ["security/first", "default/web-from-lb"]);
    let [first, web] = &set.policies[..] else { panic!() };
    assert!(first.staged && first.ingress.is_none() && first.egress.as_deref() == Some(&[]));
    let rules = web.ingress.as_ref().unwrap();
    assert_eq!(rules[0].services.len(), 3);
    assert_eq!(rules[0].services[2], Service { protocol: Protocol::TCP, ports: Ports::Named("http".into()) });
    assert_eq!(rules[1].peers[0].ranges.as_ref().unwrap().to_string(), "10.9.0.0/24, 10.9.2.0-10.9.255.255");
    assert_eq!(rules[2].peers.len(), 2);
    assert_eq!(rules[2].peers[1].entity, Some(Entity::World));
    assert_eq!(rules[2].peers[0].ranges.as_ref().unwrap().to_string(), "192.0.2.0/25, 2001:db8::/32");
    assert_eq!(rules[3].action, Action::Reject);
    assert_eq!(rules[3].services[0].ports, Ports::Icmp(8, None));
    assert_eq!((rules[3].limit.unwrap().per, rules[3].origin.line), (60, 22));
    assert_eq!(set.profiles[0].ingress, Some(false));
    assert_eq!(set.host_policies[0].interfaces, ["eth*"]);
}

/// Wraps one rule into a policy; the rule starts at line 4, column 12.
fn rule(text: &str) -> String {
    format!("[[policy]]\nname = \"p\"\nselect = \"all()\"\ningress = [{text}]\n")
}

#[test]
fn every_mistake_has_its_place() {
    let peer = |p: &str| rule(&format!("{{action='deny',from={p}}}"));
    for (text, at, part) in [
        ("x = 1\n".to_owned(), "1:1", "unknown key `x`"),
        ("[policy]\nname='x'\n".to_owned(), "1:1", "[[policy]]"),
        ("[[policy]]\nselect='all()'\ningress=[]\n".to_owned(), "1:1", "needs `name`"),
        ("[[policy]]\nname='p'\nselect='all()'\n".to_owned(), "1:1", "neither"),
        ("[[policy]]\nname='p'\nselect='role = \"x\"'\ningress=[]\n".to_owned(), "3:14", "write `==`"),
        ("[[policy]]\nname='p'\ntier='x'\nselect='all()'\ningress=[]\n".to_owned(), "3:6", "no [[tier]]"),
        ("[[policy]]\nname='p p'\nselect='all()'\ningress=[]\n".to_owned(), "2:6", "a name has"),
        ("[[policy]]\nname='p'\nselct='all()'\ningress=[]\n".to_owned(), "3:1", "unknown key `selct`"),
        ("[[tier]]\nname='t'\norder=1.5\n".to_owned(), "3:7", "whole number"),
        ("[[tier]]\nname='t'\norder=1e3\n".to_owned(), "3:7", "write 1000"),
        (rule("{action='deny',protocol='tcp',ports=8e1}"), "4:48", "write 80"),
        (rule("{action='deny',from={selector=\"a == \\\"b\\\" && ?\"}}"), "4:57", "label key"),
        ("not toml".to_owned(), "1:5", "expected"),
        (rule("{}"), "4:12", "needs `action`"),
        (rule("{action='permit'}"), "4:20", "unknown action `permit`"),
        (rule("{action='deny',to={cidr='10.0.0.0/8'}}"), "4:30", "has `from`, not `to`"),
        (rule("{action='deny',ports=[80]}"), "4:33", "needs `protocol`"),
        (rule("{action='deny',protocol='tcq'}"), "4:36", "unknown protocol"),
        (rule("{action='deny',protocol='icmp',ports=1}"), "4:49", "no ports"),
        (rule("{action='deny',protocol='tcp',ports=[70000]}"), "4:49", "between 0 and 65535"),
        (rule("{action='deny',protocol='tcp',ports=['9-3']}"), "4:49", "upside down"),
        (rule("{action='deny',protocol='tcp',ports=['http']}"), "4:49", "no [[named_port]]"),
        (rule("{action='deny',protocol='tcp',ports=[]}"), "4:48", "empty list of ports"),
        (rule("{action='deny',protocol='tcp',icmp_type=8}"), "4:52", "icmp"),
        (rule("{action='deny',limit='fast'}"), "4:33", "not a rate"),
        (peer("[]"), "4:32", "matches nobody"),
        (peer("{}"), "4:32", "a peer needs"),
        (peer("'moon'"), "4:32", "unknown entity `moon`"),
        (peer("'world '"), "4:32", "did you mean `world`"),
        (peer("'10.0.0.0/8'"), "4:32", "{ cidr = '10.0.0.0/8' }"),
        (peer("\"role == 'lb'\""), "4:32", "{ selector = \"role == 'lb'\" }"),
        (rule("{action='Deny'}"), "4:20", "did you mean `deny`"),
        (rule("{action='deny',protocol='TCP'}"), "4:36", "did you mean `tcp`"),
        (peer("{cidr='10.0.0.1/8'}"), "4:38", "did you mean 10.0.0.0/8"),
        (peer("{cidr='10.0.0.0/8',except='10.0.0.0/7'}"), "4:32", "leave nothing"),
        (peer("{set='nope'}"), "4:37", "no [[network_set]]"),
        (peer("{selector='role contains \"w\"'}"), "4:43", "cannot be answered"),
        (peer("{selector='a == \"b'}"), "4:48", "not closed"),
        (peer("{selektor='a'}"), "4:33", "unknown key `selektor`"),
        ("[[host_policy]]\nname='h'\ningress=[{action='pass'}]\n".to_owned(), "3:10", "no tier to pass"),
    ] {
        let errors = parse(&[("a.toml", &text)]).expect_err(&text);
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let place = format!("a.toml:{at}:");
        assert!(
            shown.iter().any(|e| e.starts_with(&place) && e.contains(part)),
            "{text}\nwants {place} {part}\ngot {}",
            shown.join("\n")
        );
    }
}

#[test]
fn an_endpoint_without_labels_is_an_endpoint() {
    let mut engine = crate::policy::engine::Engine::new(crate::policy::engine::EngineConfig::default());
    engine.set_policies(Arc::new(one(&rule("{action='allow',from={selector='all()'}}"))));
    for number in 1..=2 {
        engine.upsert_local(crate::policy::engine::LocalEndpoint {
            shared: Vec::new(),
            id: crate::model::EndpointId(format!("s320000000000{number}")),
            addresses: vec![std::net::Ipv4Addr::new(10, 32, 0, number).into()],
            labels: Labels::new(),
        });
    }
    let flow = |source: &str| {
        let destination = "10.32.0.2".parse().unwrap();
        crate::policy::Flow::new(source.parse().unwrap(), destination, Protocol::TCP, 80)
    };
    assert!(engine.explain(&flow("10.32.0.1"), |_| false).allowed);
    assert!(!engine.explain(&flow("192.0.2.1"), |_| false).allowed);
}

#[test]
fn what_does_nothing_is_noted() {
    let yaml = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec:\n  ingress:\n  \
        - {ports: [{port: http}]}\n  - {from: [{namespaceSelector: {matchLabels: {team: x}}}]}\n";
    let set = parse(&[("a.yaml", yaml)]).unwrap();
    let notes = set.notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("a.yaml:6: no [[named_port]] defines `http`"), "{notes:?}");
    assert!(notes[1].starts_with("a.yaml:7: a selector of this rule matches nobody"), "{notes:?}");
    let ports =
        "[[named_port]]\nname='http'\nselect='all()'\nport=80\n[[namespace]]\nname='a'\nlabels={team='x'}\n";
    assert_eq!(parse(&[("a.yaml", yaml), ("b.toml", ports)]).unwrap().notes(), [""; 0]);
}

/// The page that explains every key must be right.
#[test]
fn the_reference_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/policy/reference.toml");
    let text = fs::read_to_string(path).unwrap();
    let set = one(&text);
    assert!(set.policies.len() >= 3 && !set.host_policies.is_empty() && !set.profiles.is_empty());
    assert!(!set.named_ports.is_empty() && set.policies.iter().any(|p| p.staged));
    assert_eq!(set.notes(), [""; 0]);
}

#[test]
fn labels_in_full_may_be_looked_into() {
    let policy = rule("{action='allow',from={selector='app starts with \"web-\" && role contains \"x\"'}}");
    let with = |keys: &[&str]| {
        let expand = keys.iter().map(|k| (*k).to_owned()).collect();
        parse_with(&[("a.toml", &policy)], &Options { expand })
    };
    assert!(with(&["app", "role"]).is_ok());
    let error = with(&["app"]).unwrap_err()[0].to_string();
    assert!(error.starts_with("a.toml:4:70: `role contains` cannot be answered"), "{error}");
    // What a policy applies to is on this host, and known in full.
    let select = "[[policy]]\nname='p'\nselect='app ends with \"-7\"'\ningress=[]\n";
    assert!(parse(&[("a.toml", select)]).is_ok());
}

#[test]
fn a_set_may_be_empty() {
    let text = |peer: &str, cidr: &str| {
        format!(
            "[[network_set]]\nname='s'\ncidr=[{cidr}]\n[[policy]]\nname='p'\nselect='all()'\n\
             ingress=[{{action='allow',from={{{peer}}}}}]\n"
        )
    };
    let nothing = "a.toml:7: the addresses of this rule are none";
    for (peer, cidr) in [
        ("set='s'", ""),
        ("set='s',cidr='203.0.113.0/24'", "'192.0.2.0/24'"),
        ("cidr='192.0.2.0/25',not_set='s'", "'192.0.2.0/24'"),
        ("set='s',except='192.0.0.0/8'", "'192.0.2.0/24'"),
    ] {
        let set = one(&text(peer, cidr));
        assert_eq!(set.policies[0].ingress.as_ref().unwrap()[0].peers[0].ranges, Some(Ranges::default()));
        assert!(set.notes().iter().any(|note| note.starts_with(nothing)), "{peer}: {:?}", set.notes());
    }
    assert_eq!(one(&text("set='s'", "'192.0.2.0/24'")).notes(), [""; 0]);
}

#[test]
fn very_many_notes_are_summed_up() {
    let ports: Vec<String> = (0..50).map(|n| format!("  - {{ports: [{{port: p{n}}}]}}\n")).collect();
    let head =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec:\n  ingress:\n";
    let set = parse(&[("a.yaml", &format!("{head}{}", ports.concat()))]).unwrap();
    let all = set.notes();
    assert_eq!(all.len(), 50);
    let lines: Vec<&str> = all.iter().filter_map(|n| n.split(':').nth(1)).collect();
    let wanted: Vec<String> = (6..56).map(|n: usize| n.to_string()).collect();
    assert_eq!(lines, wanted, "in order of their lines as numbers");
    let short = set.notes_in_short();
    assert_eq!(short[..20], all[..20]);
    assert_eq!(
        short[20..],
        ["and 30 more names of ports that nobody defines; `policy check --json` lists all"]
    );
    let few = super::super::notes::limited(vec!["x".into(); 20], "things");
    assert_eq!(few.len(), 20);
}

#[test]
fn notes_tell_of_tiers() {
    let notes = |text: &str| one(text).notes().join("\n");
    let policy = |tier: &str| format!("[[policy]]\nname='p'\ntier='{tier}'\nselect='all()'\ningress=[]\n");
    assert_eq!(notes(&policy("default")), "");
    assert!(
        notes(&policy("baseline")).contains("a.toml:1: ingress has no rules"),
        "{}",
        notes(&policy("baseline"))
    );
    let tier = "[[tier]]\nname='admin'\norder=5\n";
    assert!(
        notes(tier).contains("tier admin is not the built-in one (order 1000, default pass)"),
        "{}",
        notes(tier)
    );
}

#[test]
fn tiers_with_one_order_go_by_name() {
    let tier = |name: &str| format!("[[tier]]\nname='{name}'\norder=1000\n");
    let set = parse(&[("a.toml", &tier("z")), ("b.toml", &tier("aa"))]).unwrap();
    let names: Vec<_> = set.tiers.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["aa", "admin", "z", "default", "baseline"]);
    let errors = parse(&[("a.toml", &tier("t")), ("b.toml", &tier("t"))]).unwrap_err();
    let error = errors[0].to_string();
    assert!(error.starts_with("b.toml:1:1: tier `t` is defined twice, first in a.toml"), "{error}");
}

#[test]
fn files_are_one_unit() {
    let tier = "[[tier]]\nname='t'\norder=1\n";
    let policy = "[[policy]]\nname='p'\ntier='t'\nselect='all()'\ningress=[]\n";
    let set = parse(&[("b.toml", policy), ("a.toml", tier)]).unwrap();
    assert_eq!(set.full_name(&set.policies[0]), "t/p");
    let errors = parse(&[("a.toml", tier), ("b.toml", policy), ("c.toml", policy)]).unwrap_err();
    assert!(errors[0].to_string().contains("defined twice, first at b.toml:2"), "{}", errors[0]);
    let errors = parse(&[("a.toml", "="), ("b.toml", "x=1")]).unwrap_err();
    assert_eq!(errors.len(), 2, "errors of all files are told at once");
    // In order of their places, whatever was read first.
    let late = "[[policy]]\nname='p p'\nselect='all()'\ningress=[]\n[[tier]]\nname='t t'\norder=1\n";
    let errors = parse(&[("b.toml", late), ("a.toml", late), ("c.toml", "=")]).unwrap_err();
    let places: Vec<String> = errors.iter().map(|e| format!("{}:{}", e.file.display(), e.line)).collect();
    assert_eq!(places, ["a.toml:2", "a.toml:6", "b.toml:2", "b.toml:6", "c.toml:1"]);
}

#[test]
fn folders() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load_dir(&dir.path().join("absent"), &Options::default()).unwrap().policies.len(), 0);
    let policy = |name: &str| format!("[[policy]]\nname='{name}'\nselect='all()'\ningress=[]\n");
    for (file, name) in [("b.toml", "b"), ("a.toml", "a"), (".hidden.toml", "x"), ("note.txt", "y")] {
        fs::write(dir.path().join(file), policy(name)).unwrap();
    }
    let set = load_dir(dir.path(), &Options::default()).unwrap();
    assert_eq!(set.policies.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    fs::create_dir(dir.path().join("more")).unwrap();
    fs::write(dir.path().join("d.YML"), "").unwrap();
    let unread = unread(dir.path());
    assert_eq!(unread.len(), 2, "{unread:?}");
    assert!(unread[0].ends_with("/more is not read: folders within the folder are not"), "{unread:?}");
    assert!(
        unread[1].ends_with("/note.txt is not read: only .toml, .yaml, .yml and .json are"),
        "{unread:?}"
    );
    // A folder with the name of a file is told, not read.
    fs::create_dir(dir.path().join("e.yaml")).unwrap();
    assert!(load_dir(dir.path(), &Options::default()).is_ok());
    let told = super::unread(dir.path());
    assert!(
        told.iter().any(|u| u.ends_with("/e.yaml is not read: folders within the folder are not")),
        "{told:?}"
    );
    // What is no regular file is not waited for.
    for (name, target) in [("f.yaml", "/dev/zero"), ("f.toml", "/dev/tty0")] {
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        let errors = load_dir(dir.path(), &Options::default()).unwrap_err();
        assert!(!errors[0].message.is_empty() && errors[0].file.ends_with(name), "{}", errors[0]);
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("f.toml"), b"# fine\n# not \xff\n").unwrap();
    let errors = load_dir(dir.path(), &Options::default()).unwrap_err();
    assert!(errors[0].to_string().contains("f.toml:2:7: the file is not text in UTF-8"), "{}", errors[0]);
    fs::remove_file(dir.path().join("f.toml")).unwrap();
    fs::File::create(dir.path().join("f.toml")).unwrap().set_len(MAX_FILE + 1).unwrap();
    let errors = load_dir(dir.path(), &Options::default()).unwrap_err();
    assert!(errors[0].to_string().ends_with("f.toml:1:1: the file has more than 64 MiB"), "{}", errors[0]);
    fs::remove_file(dir.path().join("f.toml")).unwrap();
    fs::write(dir.path().join("c.toml"), "nonsense").unwrap();
    let errors = load_dir(dir.path(), &Options::default()).unwrap_err();
    assert!(errors[0].file.ends_with("c.toml"));
    assert!(load_dir(&dir.path().join("a.toml"), &Options::default()).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = parse(&[("a.toml", &text), ("b.toml", &rule(&text))]);
    }
}

#[test]
fn all_keys_of_a_peer_must_hold() {
    let text = "[[network_set]]\nname='s'\ncidr=['192.0.2.0/24','198.51.100.0/24','2001:db8::/48']\n[[policy]]\nname='p'\n\
                select='all()'\ningress=[{action='allow',from={set='s',cidr=['192.0.2.0/25','203.0.113.0/24']}}]\n";
    let set = parse(&[("a.toml", text)]).unwrap();
    let ranges = set.policies[0].ingress.as_ref().unwrap()[0].peers[0].ranges.clone().unwrap();
    assert_eq!(ranges, ["192.0.2.0/25".parse().unwrap()].into_iter().collect());
}
