//! The words of slash32's own language, each in the smallest file that has it, and what is read.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    Case, Section,
    Want::{Error, Same, Says},
    judge, walk,
};

/// A rule at line 11, column 11, with a named port and a network set to use.
const RULE: &str = "[[named_port]]\nname='http'\nselect='all()'\nport=8080\n[[network_set]]\nname='s'\ncidr='192.0.2.0/24'\n[[policy]]\nname='p'\nselect='all()'\ningress=[{@}]\n";

/// A peer at line 4, column 32.
const PEER: &str = "[[network_set]]\nname='s'\ncidr='192.0.2.0/24'\n[[policy]]\nname='p'\nselect='all()'\ningress=[{action='deny',from=@}]\n";

const RULES: &[Case] = &[
    ("action", "action='allow'", Says("; ingress [allow]")),
    ("action", "action='deny'", Says("; ingress [deny]")),
    ("action", "action='reject'", Says("; ingress [reject]")),
    ("action", "action='pass'", Says("; ingress [pass]")),
    ("action", "action='log'", Says("; ingress [log log 10/1 burst 5]")),
    ("action", "action='drop'", Error("11:18", "use `allow`, `deny`, `reject`, `pass`, `log`")),
    ("from", "action='deny',from='world'", Says("[deny peer world]")),
    ("to", "action='deny',to='world'", Error("11:28", "a rule for ingress has `from`")),
    ("protocol", "action='deny',protocol='tcp'", Says("[deny service tcp]")),
    (
        "protocol",
        "action='deny',protocol=['udp','sctp','icmp','icmpv6','udplite',47]",
        Says("[deny service icmp, udp, 47, icmpv6, sctp, udplite]"),
    ),
    (
        "ports",
        "action='deny',protocol=['tcp','udp'],ports=[80,'90-99','http']",
        Says("tcp/80, tcp/90-99, tcp/http, udp/80, udp/90-99, udp/http]"),
    ),
    ("ports", "action='deny',protocol='tcp',ports=65536", Error("11:46", "between 0 and 65535")),
    ("icmp_type", "action='deny',protocol='icmp',icmp_type=8", Says("[deny service icmp type 8]")),
    (
        "icmp_code",
        "action='deny',protocol='icmpv6',icmp_type=128,icmp_code=0",
        Says("[deny service icmpv6 type 128 code 0]"),
    ),
    ("icmp_code", "action='deny',protocol='icmp',icmp_code=0", Error("11:51", "needs `icmp_type`")),
    ("not_protocol", "action='deny',not_protocol='tcp'", Says("[deny not tcp]")),
    (
        "not_ports",
        "action='deny',not_protocol='tcp',not_ports=[80,'90-99']",
        Says("[deny not tcp/80, tcp/90-99]"),
    ),
    ("not_ports", "action='deny',not_ports=80", Error("11:35", "needs `not_protocol`")),
    ("not_ports", "action='deny',not_protocol='tcp',not_ports='http'", Error("11:54", "cannot be negated")),
    (
        "source_ports",
        "action='deny',protocol='udp',source_ports=[123,'1000-2000',124]",
        Says("[deny service udp source 123-124, 1000-2000]"),
    ),
    ("source_ports", "action='deny',source_ports=1", Error("11:38", "needs a `protocol`")),
    ("source_ports", "action='deny',protocol='tcp',source_ports='http'", Error("11:53", "no [[named_port]]")),
    ("log", "action='deny',log=true", Says("[deny log 10/1 burst 5]")),
    ("log", "action='deny',log=false", Says("[deny]")),
    ("log", "action='deny',log='3/hour'", Says("[deny log 3/3600 burst 5]")),
    ("limit", "action='deny',limit='100/second burst 20'", Says("[deny limit 100/1 burst 20]")),
    ("limit", "action='deny',limit='5/day'", Says("[deny limit 5/86400 burst 5]")),
    ("limit", "action='deny',limit='5/week'", Error("11:31", "is not a rate")),
];

const PEERS: &[Case] = &[
    ("selector", "{selector='a == \"b\"'}", Says("[deny peer a == \"b\"]")),
    ("selector", "{selector='a != \"b\"'}", Says("[deny peer a != \"b\"]")),
    ("selector", "{selector='a in {\"b\", \"c\"}'}", Says("[deny peer a in {\"b\", \"c\"}]")),
    ("selector", "{selector='a not in {\"b\", \"c\"}'}", Says("[deny peer a not in {\"b\", \"c\"}]")),
    ("selector", "{selector='has(a)'}", Says("[deny peer has(a)]")),
    ("selector", "{selector='!has(a) && (b == \"c\" || all())'}", Says("[deny peer !has(a)]")),
    (
        "selector",
        "{selector='has(a) || !(b == \"c\" && has(d))'}",
        Says("[deny peer has(a) || !(b == \"c\" && has(d))]"),
    ),
    ("selector", "{selector='a contains \"b\"'}", Error("7:41", "`a contains` cannot be answered")),
    ("selector", "{selector='a starts with \"b\"'}", Error("7:41", "`a starts with` cannot be answered")),
    ("selector", "{selector='a ends with \"b\"'}", Error("7:41", "`a ends with` cannot be answered")),
    ("cidr", "{cidr=['10.0.0.0/8','2001:db8::1']}", Says("[deny peer in 10.0.0.0/8, 2001:db8::1]")),
    ("except", "{cidr='10.0.0.0/8',except='10.0.0.0/9'}", Says("[deny peer in 10.128.0.0/9]")),
    ("except", "{except=['0.0.0.0/0','8000::/1']}", Says("[deny peer in ::/1]")),
    ("set", "{set='s'}", Says("[deny peer in 192.0.2.0/24]")),
    ("not_set", "{not_set='s',cidr='192.0.2.0/23'}", Says("[deny peer in 192.0.3.0/24]")),
    ("entity", "'self'", Says("[deny peer myself]")),
    ("entity", "'host'", Says("[deny peer host]")),
    ("entity", "{entity='world',cidr='10.0.0.0/8'}", Says("[deny peer in 10.0.0.0/8 & world]")),
    ("entity", "['world',{selector='has(a)'}]", Says("[deny peer world | has(a)]")),
];

const REST: &[Section] = &[
    Section {
        title: "tier",
        document: "[[tier]]\nname='t'\norder=5\n@",
        cases: &[
            ("default", "default='deny'", Same),
            ("default", "default='pass'", Says("tier t 5 pass")),
            ("default", "default='allow'", Says("tier t 5 allow")),
            ("default", "default='reject'", Error("4:9", "unknown default")),
        ],
    },
    Section {
        title: "policy",
        document: "[[tier]]\nname='t'\norder=5\n[[policy]]\nname='p'\n@\n",
        cases: &[
            (
                "select",
                "select='a contains \"b\"'\ningress=[]",
                Says("default/p 1000 on a contains \"b\"; ingress []"),
            ),
            (
                "select",
                "select='a starts with \"b\" || a ends with \"c\"'\ningress=[]",
                Says("on a starts with \"b\" || a ends with \"c\"; ingress []"),
            ),
            (
                "egress",
                "select='all()'\negress=[{action='allow',to='host'}]",
                Says("default/p 1000 on all(); egress [allow peer host]"),
            ),
            (
                "egress",
                "select='all()'\negress=[{action='allow',from='host'}]",
                Error("7:30", "a rule for egress has `to`"),
            ),
            ("tier", "select='all()'\ntier='t'\ningress=[]", Says("t/p 1000 on all()")),
            ("tier", "select='all()'\ntier='u'\ningress=[]", Error("7:6", "no [[tier]]")),
            ("order", "select='all()'\norder=-5\ningress=[]", Says("default/p -5 on all()")),
            ("staged", "select='all()'\nstaged=true\ningress=[]", Says("default/p 1000 staged on all()")),
        ],
    },
    Section {
        title: "named_port",
        document: "[[named_port]]\nname='http'\nselect='has(a)'\n@\n",
        cases: &[
            ("port", "port=80", Says("port http on has(a): tcp/80")),
            ("protocol", "protocol='udp'\nport=80", Says("port http on has(a): udp/80")),
            ("port", "port='80'", Error("4:6", "must be a whole number")),
        ],
    },
    Section {
        title: "profile",
        document: "[[profile]]\nname='c'\nselect='has(a)'\n@\n",
        cases: &[
            ("ingress", "ingress='deny'", Says("profile c on has(a): ingress deny, egress -")),
            ("egress", "egress='allow'", Says("profile c on has(a): ingress -, egress allow")),
            ("egress", "egress='pass'", Error("4:8", "use `allow`, `deny`")),
        ],
    },
    Section {
        title: "host_policy",
        document: "[[host_policy]]\nname='h'\n@\n",
        cases: &[
            (
                "ingress",
                "ingress=[{action='allow',from='world'}]",
                Says("host h 1000 on all; ingress [allow peer world]"),
            ),
            (
                "ingress",
                "ingress=[{action='allow',from='host'}]",
                Error("3:31", "only `world` makes sense here"),
            ),
            (
                "interfaces",
                "ingress=[]\ninterfaces=['eth*','lan0']",
                Says("host h 1000 on eth*, lan0; ingress []"),
            ),
            ("interfaces", "ingress=[]\ninterfaces='a*b'", Error("4:12", "is not an interface name")),
            ("order", "ingress=[]\norder=7", Says("host h 7 on all; ingress []")),
            ("staged", "ingress=[]\nstaged=true", Says("host h 1000 staged on all; ingress []")),
        ],
    },
    Section {
        title: "network_set",
        document: "[[network_set]]\nname='s'\n@\n[[policy]]\nname='p'\nselect='all()'\ningress=[{action='deny',from={set='s'}}]\n",
        cases: &[
            (
                "cidr",
                "cidr=['192.0.2.0/24','2001:db8::/32']",
                Says("[deny peer in 192.0.2.0/24, 2001:db8::/32]"),
            ),
            ("except", "cidr='192.0.2.0/24'\nexcept='192.0.2.0/25'", Says("[deny peer in 192.0.2.128/25]")),
        ],
    },
    Section {
        title: "namespace",
        document: "[[namespace]]\nname='x'\n@\n",
        cases: &[
            ("labels", "labels={a='b'}", Same),
            ("labels", "labels={a=1}", Error("3:11", "put it in quotes")),
        ],
    },
];

#[test]
fn words_of_the_language() {
    let (mut wrong, mut written) = (Vec::new(), String::new());
    let rules = Section { title: "rule", document: RULE, cases: RULES };
    let peers = Section { title: "peer", document: PEER, cases: PEERS };
    for section in [rules, peers].iter().chain(REST) {
        for case in section.cases {
            written += &section.document.replace('@', case.1);
            if let Err(error) = judge("a.toml", section, case) {
                wrong.push(error);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Every key that is asked for has a case, and is explained.
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/policy/reference.toml");
    let reference = fs::read_to_string(reference).unwrap();
    for text in [&written, &reference] {
        let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_lowercase() && c != '_').collect();
        let unknown: Vec<_> = walk::asked::all().into_iter().filter(|key| !words.contains(key)).collect();
        assert!(unknown.is_empty(), "keys without a case, or not in reference.toml: {unknown:?}");
    }
}
