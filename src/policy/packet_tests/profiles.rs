//! What endpoints may do that no policy selects.

use super::{
    LB, OTHER, WEB,
    lab::{
        Via::Tcp,
        Who::{C, Host, Outside},
    },
    three,
};

#[test]
fn profiles_decide_where_no_policy_does() {
    let mut lab = three();
    lab.policies(
        r#"[[profile]]
        name = "lb"
        select = 'role == "lb"'
        ingress = "allow"
        [[profile]]
        name = "closed"
        select = 'role != "web"'
        ingress = "deny"
        egress = "deny"
        [[policy]]
        name = "out"
        select = 'role == "other"'
        egress = [{ action = "allow", protocol = "tcp", ports = 80 }]"#,
    );
    // The first profile that says something counts, for each direction by itself.
    lab.expect(Outside, C(LB), Tcp, 443, true);
    lab.expect(C(LB), Outside, Tcp, 443, false);
    lab.expect(Outside, C(OTHER), Tcp, 443, false);
    lab.expect(Host, C(OTHER), Tcp, 443, true);
    // A policy comes before the profile, and no profile leaves the default.
    lab.expect(C(OTHER), Outside, Tcp, 80, true);
    lab.expect(C(OTHER), Outside, Tcp, 443, false);
    lab.expect(C(WEB), Outside, Tcp, 443, true);
    lab.expect(Outside, C(WEB), Tcp, 443, true);
}
