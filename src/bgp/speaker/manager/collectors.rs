//! The BMP collectors that a configuration asks for.

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    super::{
        ReconfigureReport,
        monitor::{self, CollectorCommand, CollectorContext, CollectorId, CollectorShared},
    },
    Manager,
};
use crate::bgp::config::{BmpCollector, SpeakerConfig};

#[derive(Debug)]
pub(super) struct Collector {
    pub(super) config: Arc<BmpCollector>,
    pub(super) commands: mpsc::UnboundedSender<CollectorCommand>,
    pub(super) status: CollectorShared,
    pub(super) task: JoinHandle<()>,
}

impl Manager {
    pub(super) fn add_collector(&mut self, config: BmpCollector) {
        let (config, status) = (Arc::new(config), CollectorShared::default());
        let (commands, task) = monitor::spawn(CollectorContext {
            id: CollectorId(self.next_collector),
            config: config.clone(),
            name: self.config.hostname.clone().unwrap_or_default(),
            rib: self.rib.clone(),
            status: status.clone(),
        });
        self.next_collector += 1;
        self.collectors.push(Collector { config, commands, status, task });
    }

    /// A collector whose settings have changed is connected to anew: it must hear all of what it is to hear.
    pub(super) fn reconfigure_collectors(&mut self, old: &SpeakerConfig, report: &mut ReconfigureReport) {
        let new = self.config.clone();
        // They know us by these.
        let same = (old.asn, old.router_id) == (new.asn, new.router_id);
        for collector in std::mem::take(&mut self.collectors) {
            let (address, wanted) =
                (collector.config.address, |c: &&BmpCollector| c.address == collector.config.address);
            match new.bmp.iter().find(wanted) {
                Some(config) if same && *config == *collector.config => self.collectors.push(collector),
                found => {
                    // A task that has ended needs no command.
                    let _ = collector.commands.send(CollectorCommand::Stop("configuration changed"));
                    if found.is_none() {
                        report.collectors.push((address.to_string(), "removed"));
                    } else {
                        report.collectors.push((address.to_string(), "changed: connecting again"));
                    }
                }
            }
        }
        for config in &new.bmp {
            if !self.collectors.iter().any(|c| c.config.address == config.address) {
                let address = config.address.to_string();
                if !report.collectors.iter().any(|(known, _)| *known == address) {
                    report.collectors.push((address, "added"));
                }
                self.add_collector(config.clone());
            }
        }
        let place = |c: &Collector| new.bmp.iter().position(|config| config.address == c.config.address);
        self.collectors.sort_by_key(place);
    }
}
