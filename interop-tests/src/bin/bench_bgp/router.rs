//! The routers under test: started in the foreground with a configuration made for the run, ended with it.

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{ASN, ROUTER, peer};

/// What a router is set up for.
#[derive(Clone, Debug)]
pub(super) struct Setup<'a> {
    /// The slash32 binary.
    pub(super) slash32: &'a Path,
    /// Neighbours beside number 0, the monitor.
    pub(super) peers: u32,
    /// Routes go to the monitor alone.
    pub(super) monitor_only: bool,
    /// BFD at 50 ms x 3 with every neighbour, all of which are on a link.
    pub(super) bfd: bool,
    /// The hold time in seconds; 0 is none.
    pub(super) hold: u32,
    /// The process whose network namespace it runs in; ours if there is none.
    pub(super) namespace: Option<u32>,
}

impl Setup<'_> {
    fn exports_to(&self, peer: u32) -> bool {
        peer == 0 || !self.monitor_only
    }
}

/// A running router. Ended by its pid when dropped, or by the name of its container.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) version: String,
    pid: u32,
    child: Child,
    container: Option<String>,
    dir: tempfile::TempDir,
}

/// Where the images of other routers are made and run.
fn images() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images")
}

impl Router {
    /// Starts a router by name: `bird`, `slash32`, `gobgp`, `frr` of this machine, `bird3` and `gobgp3` from their images.
    pub(super) fn start(name: &str, setup: &Setup<'_>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (mut command, version) = match name {
            "bird" => bird(dir.path(), setup)?,
            "slash32" => slash32(dir.path(), setup)?,
            "gobgp" => gobgp(dir.path(), setup)?,
            "frr" => frr(dir.path(), setup)?,
            "bird3" | "gobgp3" => return Self::start_container(name, setup, dir),
            other => bail!("unknown router {other}: bird, slash32, gobgp, frr, bird3 and gobgp3 are known"),
        };
        if let Some(pid) = setup.namespace {
            let mut inside = Command::new("nsenter");
            inside.args(["--net", "--target", &pid.to_string(), "--"]);
            inside.arg(command.get_program()).args(command.get_args());
            command = inside;
        }
        let log = fs::File::create(dir.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {name}: is it installed?"))?;
        Ok(Self { version, pid: child.id(), child, container: None, dir })
    }

    fn start_container(name: &str, setup: &Setup<'_>, dir: tempfile::TempDir) -> anyhow::Result<Self> {
        let (image, program, file) = match name {
            "bird3" => ("bird3", "bird", "bird.conf"),
            _ => ("gobgp", "gobgpd", "gobgpd.toml"),
        };
        let text = if name == "bird3" { bird_config(setup)? } else { gobgp_config(setup)? };
        fs::write(dir.path().join(file), text)?;
        let container = format!("bench-bgp-{}-{name}", std::process::id());
        let namespace = setup.namespace.unwrap_or_else(std::process::id);
        let run = images().join("run.sh");
        let log = fs::File::create(dir.path().join("log"))?;
        let child = Command::new(&run)
            .args(["start", &container, image, &format!("/proc/{namespace}/ns/net")])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", run.display()))?;
        let mut router =
            Self { version: String::new(), pid: 0, child, container: Some(container.clone()), dir };
        for _ in 0..100 {
            let output =
                Command::new(&run).args(["pid", &container, program]).stderr(Stdio::null()).output()?;
            if let Ok(pid) = String::from_utf8_lossy(&output.stdout).trim().parse() {
                router.pid = pid;
                let output = Command::new(&run).args(["exec", &container, program, "--version"]).output()?;
                let text = [output.stdout, output.stderr].concat();
                let line = String::from_utf8_lossy(&text).lines().next().unwrap_or("?").trim().to_owned();
                router.version = format!("{line} (image)");
                return Ok(router);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!(
            "{name} does not start; its log:\n{}\n(are the images built? {}/build.sh)",
            router.log(),
            images().display()
        )
    }

    /// The end of what it has logged.
    pub(super) fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// User and system time so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The command's name may contain spaces; the fields after it do not (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 =
            fields.get(11..13).context("short stat line")?.iter().map(|f| f.parse().unwrap_or(0)).sum();
        // USER_HZ is 100 on every architecture that Linux has for servers.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// A line of /proc/PID/status in KiB.
    pub(super) fn memory_kib(&self, key: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
        Ok(line.split_ascii_whitespace().nth(1).unwrap_or("0").parse()?)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(container) = &self.container {
            let _ = Command::new(images().join("run.sh")).args(["stop", container]).status();
        }
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

fn bird_config(setup: &Setup<'_>) -> anyhow::Result<String> {
    let mut conf = format!("router id {ROUTER};\nprotocol device {{}}\n");
    if setup.bfd {
        conf.push_str("protocol bfd { interface \"*\" { interval 50 ms; multiplier 3; }; }\n");
    }
    for n in 0..=setup.peers {
        let export = if setup.exports_to(n) { "all" } else { "none" };
        let place = if setup.bfd { "direct; bfd on" } else { "multihop" };
        writeln!(
            conf,
            "protocol bgp p{n} {{ local {ROUTER} as {ASN}; neighbor {} as {ASN}; {place}; passive; rr client; \
             hold time {}; ipv4 {{ import all; export {export}; }}; }}",
            peer::address(n),
            setup.hold
        )?;
    }
    Ok(conf)
}

fn bird(dir: &Path, setup: &Setup<'_>) -> anyhow::Result<(Command, String)> {
    let file = dir.join("bird.conf");
    fs::write(&file, bird_config(setup)?)?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(file).arg("-s").arg(dir.join("bird.ctl")).arg("-P").arg(dir.join("pid"));
    Ok((command, version_of("bird", &["--version"])))
}

fn slash32(dir: &Path, setup: &Setup<'_>) -> anyhow::Result<(Command, String)> {
    let mut conf = format!(
        "[agent]\nrun_dir = \"{0}/run\"\nlog = \"warn\"\n[bgp]\nasn = {ASN}\nrouter_id = \"{ROUTER}\"\n\
         listen = [\"{ROUTER}:179\"]\nroute_reflector = true\n[routes]\ninstall = false\n[policy]\nenabled = false\n",
        dir.display()
    );
    for n in 0..=setup.peers {
        let export = if setup.exports_to(n) { "" } else { "export = [{ action = \"reject\" }]\n" };
        let bfd = if setup.bfd { "bfd = { interval_ms = 50, multiplier = 3 }\n" } else { "" };
        write!(
            conf,
            "[[bgp.peer]]\naddress = \"{}\"\nasn = {ASN}\npassive = true\nroute_reflector_client = true\nfamilies = [\"ipv4\"]\nhold_time = {}\n{bfd}{export}",
            peer::address(n),
            setup.hold
        )?;
    }
    let file = dir.join("slash32.toml");
    fs::write(&file, conf)?;
    let mut command = Command::new(setup.slash32);
    command.args(["agent", "--config"]).arg(file);
    let binary = setup.slash32.to_str().context("the path of the binary")?;
    Ok((command, version_of(binary, &["--version"])))
}

fn gobgp_config(setup: &Setup<'_>) -> anyhow::Result<String> {
    // With a hold time of 0 it gives up every write at once: what it writes must be done within the hold time.
    let mut conf = format!(
        "[global.config]\nas = {ASN}\nrouter-id = \"{ROUTER}\"\nlocal-address-list = [\"{ROUTER}\"]\n\
         [global.apply-policy.config]\nexport-policy-list = [\"out\"]\ndefault-export-policy = \"reject-route\"\n\
         [[defined-sets.neighbor-sets]]\nneighbor-set-name = \"monitor\"\nneighbor-info-list = [\"{}\"]\n\
         [[policy-definitions]]\nname = \"out\"\n[[policy-definitions.statements]]\n\
         [policy-definitions.statements.conditions.match-neighbor-set]\nneighbor-set = \"monitor\"\n\
         [policy-definitions.statements.actions]\nroute-disposition = \"accept-route\"\n",
        peer::address(0)
    );
    for n in 0..=setup.peers {
        write!(
            conf,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {ASN}\n[neighbors.transport.config]\n\
             passive-mode = true\n[neighbors.timers.config]\nhold-time = 3600\n[neighbors.route-reflector.config]\n\
             route-reflector-client = true\nroute-reflector-cluster-id = \"{ROUTER}\"\n",
            peer::address(n)
        )?;
    }
    Ok(conf)
}

fn gobgp(dir: &Path, setup: &Setup<'_>) -> anyhow::Result<(Command, String)> {
    let file = dir.join("gobgpd.toml");
    fs::write(&file, gobgp_config(setup)?)?;
    let mut command = Command::new("gobgpd");
    command.arg("-f").arg(file).args(["--api-hosts", "127.0.0.1:50051", "-l", "warn"]);
    Ok((command, version_of("gobgpd", &["--version"])))
}

fn frr(dir: &Path, setup: &Setup<'_>) -> anyhow::Result<(Command, String)> {
    let mut conf = format!(
        "router bgp {ASN}\n bgp router-id {ROUTER}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n timers bgp {0} {1}\n",
        setup.hold / 3,
        setup.hold
    );
    for n in 0..=setup.peers {
        let peer = peer::address(n);
        write!(conf, " neighbor {peer} remote-as {ASN}\n neighbor {peer} passive\n")?;
    }
    conf.push_str(" address-family ipv4 unicast\n");
    for n in 0..=setup.peers {
        let peer = peer::address(n);
        write!(conf, "  neighbor {peer} activate\n  neighbor {peer} route-reflector-client\n")?;
        if !setup.exports_to(n) {
            writeln!(conf, "  neighbor {peer} route-map none out")?;
        }
    }
    conf.push_str(" exit-address-family\nroute-map none deny 10\n");
    let file = dir.join("bgpd.conf");
    fs::write(&file, conf)?;
    let mut command = Command::new("/usr/lib/frr/bgpd");
    command.arg("-f").arg(file).args(["-n", "-Z", "-S", "-l", ROUTER]);
    command
        .args(["-u", "root", "-g", "root", "--vty_socket"])
        .arg(dir)
        .arg("-i")
        .arg(dir.join("pid"))
        .args(["-P", "0"]);
    Ok((command, version_of("/usr/lib/frr/bgpd", &["--version"])))
}
