//! Changes in words.

use crate::bgp::speaker::ReconfigureReport;

/// What a new configuration did to the speaker, one line a peer.
pub(super) fn reconfigured(report: &ReconfigureReport) -> Vec<String> {
    let mut lines: Vec<String> = report.speaker.iter().map(|s| format!("bgp.{s} changed")).collect();
    lines.extend(report.added.iter().map(|peer| format!("neighbour {peer} added")));
    lines.extend(report.removed.iter().map(|peer| format!("neighbour {peer} removed")));
    for (peer, settings) in &report.reset {
        lines.push(format!("neighbour {peer} was reset for its changed {}", settings.join(", ")));
    }
    for (peer, settings) in &report.changed {
        lines.push(format!("neighbour {peer} changed without a reset: {}", settings.join(", ")));
    }
    if report.update_log {
        lines.push("the log of updates (bgp.mrt) changed".to_owned());
    }
    lines.extend(report.collectors.iter().map(|(address, what)| format!("BMP collector {address} {what}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_has_a_line() {
        let report = ReconfigureReport {
            added: vec!["a".into()],
            removed: vec!["b".into()],
            reset: vec![("c".into(), vec!["families", "password"])],
            changed: vec![("d".into(), vec!["description"])],
            collectors: vec![("e:1".into(), "added")],
            update_log: true,
            speaker: vec!["asn"],
        };
        let lines = reconfigured(&report);
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[3], "neighbour c was reset for its changed families, password");
    }
}
