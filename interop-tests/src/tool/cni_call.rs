//! `lab-tool cni-call`: runs plugins and says how long each took, from before its start until its end.
//!
//! For benches: it runs where the plugin does, so nothing of the lab is in the figure.

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use crate::timed::{Call, Done, Job, Timed};

const PLUGINS: &str = "/opt/cni/bin";

/// One job for each line of stdin, until it ends.
pub fn run() -> Result<()> {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line.context("read a job")?).context("a job")?;
        println!("{}", serde_json::to_string(&done(&job)?)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Makes the calls, at most `workers` of them at once.
fn done(job: &Job) -> Result<Done> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<Timed>>>> = job.calls.iter().map(|_| Mutex::new(None)).collect();
    let start = Instant::now();
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((call, result)) = job.calls.get(at).zip(results.get(at)) else { return };
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(timed(call));
        }
    };
    if job.workers > 1 {
        std::thread::scope(|scope| (0..job.workers).for_each(|_| drop(scope.spawn(work))));
    } else {
        work();
    }
    let nanoseconds = start.elapsed().as_nanos() as u64;
    let calls = results
        .into_iter()
        .map(|slot| slot.into_inner().ok().flatten().unwrap_or_else(|| Err(anyhow!("a call was not made"))))
        .collect::<Result<_>>()?;
    Ok(Done { nanoseconds, calls })
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
