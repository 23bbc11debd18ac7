//! Real containers by real runtimes.

use anyhow::ensure;
use interop_tests::{Containerd, Lab, Network};

/// The reference plugin, to see that the lab's containerd works whatever slash32 does.
const PTP: &str = r#"{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","ipam":{"type":"host-local",
    "subnet":"10.9.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}}]}"#;

#[test]
fn containerd_with_the_reference_plugin() {
    Lab::run("ctr-ptp", |lab| {
        let host = lab.machine("host")?;
        let containerd = Containerd::start(&host, &Network::parse(PTP)?)?;
        let one = containerd.run("one")?;
        let two = containerd.run("two")?;
        let address = two.address(false)?;
        ensure!(address.starts_with("10.9.0."), "{address}");
        one.ping(&address)?;
        host.ping(&address)?;
        two.remove()?;
        ensure!(host.ping(&address).is_err(), "{address} still answers");
        one.remove()
    });
}
