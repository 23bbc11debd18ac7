//! `lab-tool cni-call`: runs plugins and says how long each took, from before its start until its end.
//!
//! For benches: it runs where the plugin does, so nothing of the lab is in the figure.

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::timed::{Call, Timed};

const PLUGINS: &str = "/opt/cni/bin";

/// One call for each line of stdin, until it ends.
pub fn run() -> Result<()> {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let call: Call = serde_json::from_str(&line.context("read a call")?).context("a call")?;
        println!("{}", serde_json::to_string(&timed(&call)?)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn timed(call: &Call) -> Result<Timed> {
    let plugin = call.config["type"].as_str().context("a plugin has a type")?;
    let config = call.config.to_string();
    let mut command = Command::new(format!("{PLUGINS}/{plugin}"));
    command
        .env("CNI_COMMAND", &call.command)
        .env("CNI_CONTAINERID", &call.id)
        .env("CNI_NETNS", format!("/run/netns/{}", call.id))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {plugin}"))?;
    child.stdin.take().context("piped")?.write_all(config.as_bytes()).context("write the configuration")?;
    let output = child.wait_with_output().context("wait for the plugin")?;
    let took = start.elapsed();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = (!output.status.success())
        .then(|| format!("{plugin} {}: {stdout}{}", call.command, String::from_utf8_lossy(&output.stderr)));
    let result = serde_json::from_str(&stdout).unwrap_or_default();
    Ok(Timed { nanoseconds: took.as_nanos() as u64, result, error })
}
