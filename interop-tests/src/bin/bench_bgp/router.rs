//! The routers under test: started in the foreground with a configuration made for the run, ended with it.

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{ASN, Options, PORT, ROUTER, peer};

/// A running router. Ended by its pid when dropped.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) version: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Router {
    /// Starts a router by name: `bird`, `slash32`, `gobgp`, `frr`.
    pub(super) fn start(name: &str, options: &Options) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (mut command, version) = match name {
            "bird" => bird(dir.path(), options)?,
            "slash32" => slash32(dir.path(), options)?,
            "gobgp" => gobgp(dir.path(), options)?,
            "frr" => frr(dir.path(), options)?,
            other => bail!("unknown router {other}: bird, slash32, gobgp and frr are known"),
        };
        let log = fs::File::create(dir.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {name}: is it installed?"))?;
        Ok(Self { version, child, _dir: dir })
    }

    /// User and system time so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The command's name may contain spaces; the fields after it do not (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 =
            fields.get(11..13).context("short stat line")?.iter().map(|f| f.parse().unwrap_or(0)).sum();
        // USER_HZ is 100 on every architecture that Linux has for servers.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// A line of /proc/PID/status in KiB.
    pub(super) fn memory_kib(&self, key: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
        Ok(line.split_ascii_whitespace().nth(1).unwrap_or("0").parse()?)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // It may have ended by itself, which the caller has noticed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn version_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("?").trim().to_owned()
}

fn bird(dir: &Path, options: &Options) -> anyhow::Result<(Command, String)> {
    let mut conf = format!("router id {ROUTER};\nprotocol device {{}}\n");
    for n in 0..=options.feeders {
        let export = if n == 0 { "all" } else { "none" };
        writeln!(
            conf,
            "protocol bgp p{n} {{ local {ROUTER} port {PORT} as {ASN}; neighbor {} as {ASN}; multihop; passive; rr client; \
             hold time 0; ipv4 {{ import all; export {export}; }}; }}",
            peer::address(n)
        )?;
    }
    let file = dir.join("bird.conf");
    fs::write(&file, conf)?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(file).arg("-s").arg(dir.join("bird.ctl")).arg("-P").arg(dir.join("pid"));
    Ok((command, version_of("bird", &["--version"])))
}

fn slash32(dir: &Path, options: &Options) -> anyhow::Result<(Command, String)> {
    let mut conf = format!(
        "[agent]\nrun_dir = \"{0}/run\"\nlog = \"warn\"\n[bgp]\nasn = {ASN}\nrouter_id = \"{ROUTER}\"\n\
         listen = [\"{ROUTER}:{PORT}\"]\nroute_reflector = true\n[routes]\ninstall = false\n[policy]\nenabled = false\n",
        dir.display()
    );
    for n in 0..=options.feeders {
        let export = if n == 0 { "" } else { "export = [{ action = \"reject\" }]\n" };
        write!(
            conf,
            "[[bgp.peer]]\naddress = \"{}\"\nasn = {ASN}\npassive = true\nroute_reflector_client = true\nfamilies = [\"ipv4\"]\n{export}",
            peer::address(n)
        )?;
    }
    let file = dir.join("slash32.toml");
    fs::write(&file, conf)?;
    let mut command = Command::new(&options.slash32);
    command.args(["agent", "--config"]).arg(file);
    let binary = options.slash32.to_str().context("the path of the binary")?;
    Ok((command, version_of(binary, &["--version"])))
}

fn gobgp(dir: &Path, options: &Options) -> anyhow::Result<(Command, String)> {
    let mut conf = format!(
        "[global.config]\nas = {ASN}\nrouter-id = \"{ROUTER}\"\nport = {PORT}\nlocal-address-list = [\"{ROUTER}\"]\n\
         [global.apply-policy.config]\nexport-policy-list = [\"out\"]\ndefault-export-policy = \"reject-route\"\n\
         [[defined-sets.neighbor-sets]]\nneighbor-set-name = \"monitor\"\nneighbor-info-list = [\"{}\"]\n\
         [[policy-definitions]]\nname = \"out\"\n[[policy-definitions.statements]]\n\
         [policy-definitions.statements.conditions.match-neighbor-set]\nneighbor-set = \"monitor\"\n\
         [policy-definitions.statements.actions]\nroute-disposition = \"accept-route\"\n",
        peer::address(0)
    );
    for n in 0..=options.feeders {
        write!(
            conf,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {ASN}\n[neighbors.transport.config]\n\
             passive-mode = true\n[neighbors.timers.config]\nhold-time = 0\n[neighbors.route-reflector.config]\n\
             route-reflector-client = true\nroute-reflector-cluster-id = \"{ROUTER}\"\n",
            peer::address(n)
        )?;
    }
    let file = dir.join("gobgpd.toml");
    fs::write(&file, conf)?;
    let mut command = Command::new("gobgpd");
    command.arg("-f").arg(file).args(["--api-hosts", "127.0.0.1:50051", "-l", "warn"]);
    Ok((command, version_of("gobgpd", &["--version"])))
}

fn frr(dir: &Path, options: &Options) -> anyhow::Result<(Command, String)> {
    let mut conf = format!(
        "router bgp {ASN}\n bgp router-id {ROUTER}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n timers bgp 0 0\n"
    );
    for n in 0..=options.feeders {
        let peer = peer::address(n);
        write!(conf, " neighbor {peer} remote-as {ASN}\n neighbor {peer} passive\n")?;
    }
    conf.push_str(" address-family ipv4 unicast\n");
    for n in 0..=options.feeders {
        let peer = peer::address(n);
        write!(conf, "  neighbor {peer} activate\n  neighbor {peer} route-reflector-client\n")?;
        if n != 0 {
            writeln!(conf, "  neighbor {peer} route-map none out")?;
        }
    }
    conf.push_str(" exit-address-family\nroute-map none deny 10\n");
    let file = dir.join("bgpd.conf");
    fs::write(&file, conf)?;
    let mut command = Command::new("/usr/lib/frr/bgpd");
    command.arg("-f").arg(file).args(["-n", "-Z", "-S", "-l", ROUTER, "-p"]).arg(PORT.to_string());
    command
        .args(["-u", "root", "-g", "root", "--vty_socket"])
        .arg(dir)
        .arg("-i")
        .arg(dir.join("pid"))
        .args(["-P", "0"]);
    Ok((command, version_of("/usr/lib/frr/bgpd", &["--version"])))
}
