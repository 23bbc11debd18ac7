//! `slash32 policy trace`.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    api::Request,
    cli::{Global, print},
};

/// How often the agent is asked.
const EVERY: Duration = Duration::from_millis(300);

pub(super) fn run(global: &Global, count: Option<u64>, seconds: Option<u64>) -> anyhow::Result<()> {
    let end = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let mut left = count.unwrap_or(u64::MAX);
    let mut after = 0;
    let mut first = true;
    loop {
        let answer = global.call(&Request::PolicyTrace { after })?;
        if first || answer["started"] == true {
            eprintln!("waiting for refused packets; at most 100 a second are shown; Ctrl-C ends");
        }
        // What was refused before we asked is somebody else's trace.
        let packets = answer["packets"].as_array().map_or(&[][..], |list| if first { &[] } else { list });
        for packet in packets {
            if global.json {
                print::text(&packet.to_string());
            } else {
                print::text(&line(packet));
            }
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
        first = false;
        after = answer["last"].as_u64().unwrap_or(after);
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
        thread::sleep(EVERY);
    }
}

fn line(packet: &Value) -> String {
    let field = |name| print::field(packet, name);
    let time = packet["time"].as_f64().unwrap_or(0.0);
    let (seconds, milliseconds) = (time as u64, (time.fract() * 1000.0).round() as u64);
    format!(
        "{:02}:{:02}:{:02}.{milliseconds:03} {} -> {} {} ({} -> {}): {}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        field("source"),
        field("destination"),
        field("service"),
        field("iif"),
        field("oif"),
        field("reason")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line_a_packet() {
        let packet = json!({
            "number": 1, "time": 1_700_000_000.25, "iif": "s32a", "oif": "eth0", "chain": "refused by policy",
            "source": "10.32.4.2", "destination": "192.0.2.9", "service": "tcp/22", "source_port": 40000,
            "reason": "egress: rule 1 of default/out (out.toml:4)",
        });
        insta::assert_snapshot!(line(&packet));
    }
}
