//! Containers attached by CNI, in the way libcni does it: one plugin after the other, each with the
//! environment of the specification and its own configuration on stdin.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::machine::{Cmd, Machine};
use crate::ping;

/// Where machines have their plugins.
const PLUGINS: &str = "/opt/cni/bin";

/// A network: a conflist and what the runtime adds to it.
#[derive(Debug, Clone)]
#[must_use = "nothing is attached until Machine::container"]
pub struct Network {
    conflist: Value,
    args: Vec<(String, String)>,
    capabilities: Map<String, Value>,
}

/// The error object a plugin printed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("CNI {command} by {plugin}: error {code}: {msg} ({details})")]
pub struct CniError {
    /// The verb.
    pub command: String,
    /// The plugin.
    pub plugin: String,
    /// The number of the error; 0 when the plugin printed none.
    pub code: u64,
    /// One sentence.
    pub msg: String,
    /// More.
    pub details: String,
}

impl Network {
    /// The network of the conflist that slash32 ships.
    pub fn slash32() -> Result<Self> {
        let path = crate::programs::repository().join("config/10-slash32.conflist");
        Self::parse(&std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?)
    }

    /// A network from the text of a conflist.
    pub fn parse(conflist: &str) -> Result<Self> {
        let conflist = serde_json::from_str(conflist).context("the conflist is JSON")?;
        Ok(Self { conflist, args: Vec::new(), capabilities: Map::new() })
    }

    /// Sets a label of the endpoint, as `args.cni.labels` of the network's configuration.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.conflist["args"]["cni"]["labels"][key] = json!(value);
        self
    }

    /// Adds a pair to `CNI_ARGS`.
    pub fn arg(mut self, key: &str, value: &str) -> Self {
        self.args.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Offers a capability; plugins that declare it get it as `runtimeConfig`.
    pub fn capability(mut self, name: &str, value: Value) -> Self {
        self.capabilities.insert(name.to_owned(), value);
        self
    }

    /// Sets the version of the specification.
    pub fn version(mut self, version: &str) -> Self {
        self.conflist["cniVersion"] = json!(version);
        self
    }

    /// Sets a key of the first plugin's configuration.
    pub fn plugin_key(mut self, key: &str, value: Value) -> Self {
        self.conflist["plugins"][0][key] = value;
        self
    }

    /// Its name.
    pub fn name(&self) -> Result<String> {
        Ok(self.conflist["name"].as_str().context("a network has a name")?.to_owned())
    }

    /// The text of the conflist.
    pub fn conflist(&self) -> String {
        format!("{:#}", self.conflist)
    }

    /// What plugin number `index` gets on stdin.
    pub fn configuration(&self, index: usize, previous: Option<&Value>) -> Result<Value> {
        let plugin = self.conflist["plugins"].get(index).context("no such plugin")?;
        let mut config = plugin.clone();
        config["name"] = self.conflist["name"].clone();
        config["cniVersion"] = self.conflist["cniVersion"].clone();
        if let Some(args) = self.conflist.get("args") {
            config["args"] = args.clone();
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let declared = plugin["capabilities"].as_object().cloned().unwrap_or_default();
        for (name, value) in &self.capabilities {
            if declared.get(name) == Some(&json!(true)) {
                config["runtimeConfig"][name] = value.clone();
            }
        }
        Ok(config)
    }

    fn plugins(&self) -> usize {
        self.conflist["plugins"].as_array().map_or(0, Vec::len)
    }

    fn cni_args(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    }
}

/// A container: a network namespace of a machine with an interface made by CNI ADD.
pub struct Container {
    machine: Machine,
    name: String,
    ifname: String,
    network: Network,
    result: Value,
}

impl Machine {
    /// Makes a network namespace called `name` and attaches it: the container's id is `name`, its interface `eth0`.
    pub fn container(&self, name: &str, network: &Network) -> Result<Container> {
        self.sandbox(name)?;
        self.attach(name, network)
    }

    /// Makes the network namespace of a container without attaching it.
    pub fn sandbox(&self, name: &str) -> Result<()> {
        self.run(&format!("ip netns add {name}"))?;
        self.command("ip").args(["link", "set", "lo", "up"]).netns(name).run().map(drop)
    }

    /// CNI ADD on a namespace made by [`sandbox`](Self::sandbox).
    pub fn attach(&self, name: &str, network: &Network) -> Result<Container> {
        self.attach_as(name, "eth0", network)
    }

    /// CNI ADD of another interface than `eth0`: further networks of a container are called `net1` and so on.
    pub fn attach_as(&self, name: &str, ifname: &str, network: &Network) -> Result<Container> {
        let mut container = Container {
            machine: self.clone(),
            name: name.to_owned(),
            ifname: ifname.to_owned(),
            network: network.clone(),
            result: Value::Null,
        };
        container.add()?;
        Ok(container)
    }
}

impl Container {
    /// Its name and container id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine it is on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The result of ADD.
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// Its IPv4 address, without a prefix length.
    pub fn ipv4(&self) -> Result<String> {
        self.address(false)
    }

    /// Its IPv6 address, without a prefix length.
    pub fn ipv6(&self) -> Result<String> {
        self.address(true)
    }

    /// A program to run in it.
    pub fn command(&self, program: &str) -> Cmd {
        self.machine.command(program).netns(&self.name)
    }

    /// Runs a command line split at white space in it; its stdout.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        self.command(words.next().context("empty command line")?).args(words).run()
    }

    /// Pings once; an error when no answer comes.
    pub fn ping(&self, address: &str) -> Result<()> {
        ping::ping(self.command("ping"), address).with_context(|| format!("from {}", self.name))
    }

    /// Pings once; an error when an answer comes.
    pub fn no_ping(&self, address: &str) -> Result<()> {
        ping::no_ping(self.command("ping"), address).with_context(|| format!("from {}", self.name))
    }

    /// CNI ADD of all plugins in turn. [`Machine::container`] has done it already.
    pub fn add(&mut self) -> Result<()> {
        let mut previous = None;
        for index in 0..self.network.plugins() {
            previous = Some(self.call("ADD", index, previous.as_ref())?);
        }
        self.result = previous.context("the network has no plugin")?;
        Ok(())
    }

    /// CNI CHECK.
    pub fn check(&self) -> Result<()> {
        for index in 0..self.network.plugins() {
            self.call("CHECK", index, Some(&self.result))?;
        }
        Ok(())
    }

    /// CNI DEL, in reverse order. The namespace stays; ADD may follow.
    pub fn detach(&self) -> Result<()> {
        for index in (0..self.network.plugins()).rev() {
            self.call("DEL", index, Some(&self.result))?;
        }
        Ok(())
    }

    /// CNI DEL, and the namespace goes.
    pub fn remove(self) -> Result<()> {
        self.detach()?;
        self.machine.run(&format!("ip netns delete {}", self.name)).map(drop)
    }

    /// Calls one plugin; what it printed.
    pub fn call(&self, command: &str, index: usize, previous: Option<&Value>) -> Result<Value> {
        let config = self.network.configuration(index, previous)?;
        let plugin = config["type"].as_str().context("a plugin has a type")?.to_owned();
        // Verbs of the whole network get no attachment, as libcni does it.
        let whole = matches!(command, "GC" | "STATUS");
        let attachment = |text: String| if whole { String::new() } else { text };
        let output = self
            .machine
            .command(format!("{PLUGINS}/{plugin}"))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", attachment(self.name.clone()))
            .env("CNI_NETNS", attachment(format!("/run/netns/{}", self.name)))
            .env("CNI_IFNAME", attachment(self.ifname.clone()))
            .env("CNI_ARGS", attachment(self.network.cni_args()))
            .env("CNI_PATH", PLUGINS)
            .stdin(config.to_string())
            .output()?;
        let printed: Value = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
        if !output.exit.success() {
            let text = |key: &str| printed[key].as_str().unwrap_or_default().to_owned();
            bail!(CniError {
                command: command.to_owned(),
                plugin,
                code: printed["code"].as_u64().unwrap_or(0),
                msg: if printed.is_null() { output.stdout.trim().to_owned() } else { text("msg") },
                details: format!("{} {} {}", text("details"), output.exit, output.stderr.trim()),
            });
        }
        Ok(printed)
    }

    fn address(&self, six: bool) -> Result<String> {
        let ips = self.result["ips"].as_array().context("the result has no ips")?;
        ips.iter()
            .filter_map(|ip| ip["address"].as_str())
            .find(|address| address.contains(':') == six)
            .and_then(|address| address.split('/').next())
            .map(str::to_owned)
            .with_context(|| format!("{}: no such address in {}", self.name, self.result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_gets_what_libcni_gives_it() {
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[
            {"type":"a","capabilities":{"portMappings":true}},{"type":"b"}]}"#;
        let network = Network::parse(list)
            .unwrap()
            .label("role", "web")
            .capability("portMappings", json!([{"hostPort": 80}]))
            .capability("bandwidth", json!({}));
        let first = network.configuration(0, None).unwrap();
        assert_eq!(
            first,
            json!({"type":"a","name":"n","cniVersion":"1.0.0","args":{"cni":{"labels":{"role":"web"}}},
                "capabilities":{"portMappings":true},"runtimeConfig":{"portMappings":[{"hostPort":80}]}})
        );
        let second = network.configuration(1, Some(&json!({"ips":[]}))).unwrap();
        assert_eq!(second["prevResult"], json!({"ips":[]}));
        assert!(second.get("runtimeConfig").is_none());
        assert!(network.configuration(2, None).is_err());
    }
}
