//! `[[bgp.bmp]]` and `[bgp.mrt]`: who watches the speaker, and what is written down.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{bgp::with, file, locate::Step, resolve::Errors};
use crate::bgp::config::{BmpCollector, MrtLog, SpeakerConfig};

/// Adds the collectors to a configuration whose peers are known.
pub(super) fn collectors(list: Vec<file::Bmp>, config: &mut SpeakerConfig, errors: &mut Errors<'_>) {
    let mut seen = BTreeSet::new();
    for (i, bmp) in list.into_iter().enumerate() {
        let place = [Step::Key("bgp"), Step::Key("bmp"), Step::Index(i)];
        let collector = collector(bmp, config, &place, errors);
        if !seen.insert(collector.address) {
            let text = format!("collector {} is configured twice", collector.address);
            errors.at(&with(&place, "address"), text);
        }
        config.bmp.push(collector);
    }
}

/// The log of updates.
pub(super) fn update_log(table: Option<file::Mrt>, errors: &mut Errors<'_>) -> Option<MrtLog> {
    let table = table?;
    if !table.file.is_absolute() || table.file.file_name().is_none() {
        errors.at_with_help(
            &["bgp".into(), "mrt".into(), "file".into()],
            "the log needs the whole path of a file",
            "such as \"/var/log/slash32/updates.mrt\"",
        );
    }
    Some(MrtLog {
        file: table.file,
        rotate_bytes: u64::from(table.rotate_mb.unwrap_or(64)) << 20,
        rotate_after: Duration::from_secs(table.rotate_seconds.unwrap_or(3600).into()),
        keep: table.keep.unwrap_or(24) as usize,
    })
}

fn collector(
    bmp: file::Bmp,
    config: &SpeakerConfig,
    place: &[Step<'_>],
    errors: &mut Errors<'_>,
) -> BmpCollector {
    let port = bmp.port.unwrap_or(BmpCollector::PORT);
    if port == 0 {
        errors.at(&with(place, "port"), "port 0 cannot be dialled");
    }
    if bmp.address.is_unspecified() || bmp.address.is_multicast() {
        errors.at(&with(place, "address"), format!("{} cannot be a collector's address", bmp.address));
    }
    if let Some(local) = bmp.local_address.filter(|local| local.is_ipv4() != bmp.address.is_ipv4()) {
        let text = format!("{local} and the collector's {} are of different families", bmp.address);
        errors.at(&with(place, "local_address"), text);
    }
    let known: Vec<String> = config.peers.iter().map(|peer| peer.address.to_string()).collect();
    for name in &bmp.peers {
        let in_range =
            |addr: IpAddr| config.listen_ranges.iter().any(|range| range.prefix.contains_addr(addr));
        if !known.contains(name) && !name.parse().is_ok_and(in_range) {
            let help = if known.is_empty() {
                "there are no neighbours".to_owned()
            } else {
                format!("the neighbours are: {}", known.join(", "))
            };
            errors.at_with_help(&with(place, "peers"), format!("there is no neighbour `{name}`"), help);
        }
    }
    let mut collector = BmpCollector::new(SocketAddr::new(bmp.address, port));
    collector.local_address = bmp.local_address;
    collector.peers = bmp.peers;
    collector.pre_policy = bmp.pre_policy.unwrap_or(collector.pre_policy);
    collector.post_policy = bmp.post_policy.unwrap_or(collector.post_policy);
    collector.loc_rib = bmp.loc_rib.unwrap_or(collector.loc_rib);
    collector.out_pre_policy = bmp.out_pre_policy.unwrap_or(collector.out_pre_policy);
    collector.out_post_policy = bmp.out_post_policy.unwrap_or(collector.out_post_policy);
    if let Some(seconds) = bmp.statistics_seconds {
        collector.statistics = Duration::from_secs(seconds.into());
    }
    if let Some(seconds) = bmp.reconnect {
        if seconds == 0 {
            errors.at(&with(place, "reconnect"), "reconnect must be at least 1 second");
        }
        collector.reconnect = Duration::from_secs(seconds.into());
    }
    if let Some(megabytes) = bmp.buffer_mb {
        if !(1..=4096).contains(&megabytes) {
            errors.at(&with(place, "buffer_mb"), "buffer_mb must be 1 to 4096");
        }
        collector.buffer = (megabytes as usize) << 20;
    }
    collector
}
