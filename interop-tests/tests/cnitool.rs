//! The reference's own driver of every verb, `cnitool` with libcni, from Go's module proxy.
//!
//! `make interop TEST=cnitool` runs it; it needs Go (1.21 or later) and a way to the module proxy. `make test` drives
//! the same verbs by the lab's own driver and by containerd's and podman's libcni.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use interop_tests::{Agent, Lab, Machine, ONE_HOST, PATIENCE, check, eventually};
use serde_json::{Value, json};

const CNITOOL: &str = "github.com/containernetworking/cni/cnitool@v1.3.0";

/// Builds it once, below `target/`.
fn cnitool() -> Result<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/cnitool");
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let built = Command::new("go")
        .args(["install", CNITOOL])
        .env("GOBIN", &dir)
        .env("GOPATH", dir.join("path"))
        .env("GOFLAGS", "-modcacherw")
        .output()
        .context(
            "cnitool is built with Go, which is not here: Debian package golang-go of trixie or later",
        )?;
    ensure!(built.status.success(), "go install {CNITOOL}: {}", String::from_utf8_lossy(&built.stderr));
    Ok(dir.join("cnitool"))
}

/// `cnitool VERB lab /run/netns/NETNS`.
fn call(host: &Machine, tool: &str, verb: &str, netns: &str) -> Result<String> {
    let output = host
        .command(tool)
        .args([verb, "lab", &format!("/run/netns/{netns}")])
        .env("CNI_PATH", "/opt/cni/bin")
        .env("NETCONFPATH", "/etc/cni/net.d")
        .output()?;
    if !output.exit.success() {
        bail!("cnitool {verb}: {} {}", output.stdout, output.stderr);
    }
    Ok(output.stdout)
}

#[test]
#[ignore = "needs Go and its module proxy: make interop TEST=cnitool"]
fn cnitool_drives_every_verb() {
    let tool = cnitool().unwrap_or_else(|error| panic!("{error:#}"));
    let tool = tool.to_string_lossy().into_owned();
    Lab::run("cnitool", |lab| {
        let host = lab.machine("host")?;
        // libcni keeps results here.
        host.own("/var/lib/cni")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let living = |count: usize| {
            eventually(&format!("{count} endpoints"), PATIENCE, || {
                let endpoints = agent.endpoints()?;
                check(endpoints.len() == count, format!("{endpoints:?}"))
            })
        };
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let list = json!({"cniVersion": version, "name": "lab", "plugins": [
                {"type": "slash32", "labels": {"role": "web"}, "capabilities": {"portMappings": true}}]});
            host.write("/etc/cni/net.d/10-lab.conflist", list.to_string())?;
            for name in ["one", "two"] {
                host.sandbox(name)?;
                let printed = call(&host, &tool, "add", name)?;
                let result: Value = serde_json::from_str(&printed).context("a result")?;
                ensure!(result["cniVersion"] == version, "{result}");
                ensure!(result["ips"].as_array().is_some_and(|ips| ips.len() == 2), "{result}");
            }
            living(2)?;
            if version != "0.3.1" {
                call(&host, &tool, "check", "one")?;
                host.run("ip -n one link set eth0 address 02:00:00:00:00:55")?;
                let altered = call(&host, &tool, "check", "one").err().context("CHECK of another MAC")?;
                ensure!(altered.to_string().contains("not as ADD made it"), "{altered}");
            }
            if version == "1.1.0" {
                call(&host, &tool, "status", "one")?;
                host.sysctl("net.ipv4.ip_forward", "0")?;
                ensure!(call(&host, &tool, "status", "one").is_err(), "STATUS without forwarding");
                host.sysctl("net.ipv4.ip_forward", "1")?;
                // Without a list: libcni deletes what it knows of, and the plugins keep what lives.
                call(&host, &tool, "gc", "one")?;
                living(0)?;
                call(&host, &tool, "add", "one")?;
            }
            for name in ["one", "one", "two"] {
                call(&host, &tool, "del", name)?;
            }
            living(0)?;
            host.run("slash32 ipam check")?;
            for name in ["one", "two"] {
                host.run(&format!("ip netns delete {name}"))?;
            }
        }
        Ok(())
    });
}
