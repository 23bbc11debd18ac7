//! What is allowed to be written and does nothing, so that nobody believes it in force.

use std::collections::BTreeMap;

use super::{
    Direction, Origin, PolicySet, Ports, Tier, TierDefault, language::BUILT_IN_TIERS, ranges::Ranges,
    selector::Selector,
};

/// How many of a kind are told one by one.
const MOST: usize = 20;

/// What a note is about, in the plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Tier,
    PortName,
    Peer,
    Addresses,
    NoRules,
    Select,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Tier => "tiers",
            Self::PortName => "names of ports that nobody defines",
            Self::Peer => "rules with a selector that matches nobody",
            Self::Addresses => "rules whose addresses are none",
            Self::NoRules => "policies without rules",
            Self::Select => "policies that select nobody",
        }
    }
}

/// Sorted by place.
type Note = (Origin, Kind, String);

impl PolicySet {
    /// Names of ports that nobody defines, as Kubernetes has them match nothing; selectors that match nobody; policies
    /// without effect; built-in tiers that mean something else. In order of their places.
    pub fn notes(&self) -> Vec<String> {
        self.found().into_iter().map(|(.., text)| text).collect()
    }

    /// The same, with a count in place of what is more than some of a kind.
    pub fn notes_in_short(&self) -> Vec<String> {
        let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
        let mut notes = Vec::new();
        for (_, kind, text) in self.found() {
            let count = counts.entry(kind).or_default();
            *count += 1;
            if *count <= MOST {
                notes.push(text);
            }
        }
        notes.extend(counts.into_iter().filter_map(|(kind, count)| more(count, kind.as_str())));
        notes
    }

    fn found(&self) -> Vec<Note> {
        let mut notes: Vec<Note> = Vec::new();
        for policy in &self.policies {
            let rules = Direction::ALL.iter().filter_map(|d| policy.rules(*d)).flatten();
            for rule in rules {
                let at = &rule.origin;
                for service in &rule.services {
                    if let Ports::Named(name) = &service.ports
                        && !self.named_ports.iter().any(|p| p.name == *name)
                    {
                        let text = format!("{at}: no [[named_port]] defines `{name}`, so it matches nothing");
                        notes.push((at.clone(), Kind::PortName, text));
                    }
                }
                if rule.peers.iter().any(|p| p.selector == Some(Selector::Nothing)) {
                    let text = format!(
                        "{at}: a selector of this rule matches nobody; if it asks for labels of namespaces, they come from \
                         `Namespace` objects or [[namespace]]"
                    );
                    notes.push((at.clone(), Kind::Peer, text));
                }
                if rule.peers.iter().any(|p| p.ranges.as_ref().is_some_and(Ranges::is_empty)) {
                    let text = format!(
                        "{at}: the addresses of this rule are none (an empty set, or one without addresses in common \
                         with `cidr`): where it asks for them it matches nobody"
                    );
                    notes.push((at.clone(), Kind::Addresses, text));
                }
            }
            let at = &policy.origin;
            let tier = self.tier_of(policy).filter(|tier| tier.default == TierDefault::Pass);
            for direction in Direction::ALL {
                if let (Some(tier), Some([])) = (tier, policy.rules(direction)) {
                    let text = format!(
                        "{at}: {} has no rules, and what no rule of tier {} matches passes on: it does nothing",
                        direction.as_str(),
                        tier.name
                    );
                    notes.push((at.clone(), Kind::NoRules, text));
                }
            }
            if policy.select == Selector::Nothing {
                let text = format!("{at}: policy {} selects nobody", self.full_name(policy));
                notes.push((at.clone(), Kind::Select, text));
            }
        }
        let tiers = self.tiers.iter().filter_map(unusual);
        notes.extend(tiers.map(|text| (Origin::default(), Kind::Tier, text)));
        notes.sort_by(|(a, x, s), (b, y, t)| (&a.file, a.line, x, s).cmp(&(&b.file, b.line, y, t)));
        notes.dedup();
        notes
    }
}

/// What to know of a built-in tier that was written anew, and so means something else to policies of Kubernetes.
fn unusual(tier: &Tier) -> Option<String> {
    let (name, order, default) = BUILT_IN_TIERS.into_iter().find(|(name, ..)| *name == tier.name)?;
    let is_usual = (tier.order, tier.default) == (order, default);
    (!is_usual).then(|| {
        format!(
            "tier {name} is not the built-in one (order {order}, default {}), which policies of Kubernetes rely on",
            default.as_str()
        )
    })
}

/// The first ones of a list, and how many more there are.
pub fn limited(mut list: Vec<String>, what: &str) -> Vec<String> {
    let more = more(list.len(), what);
    list.truncate(MOST);
    list.extend(more);
    list
}

fn more(count: usize, what: &str) -> Option<String> {
    (count > MOST).then(|| format!("and {} more {what}; `policy check --json` lists all", count - MOST))
}
