//! Rate limits: a token bucket (tc-tbf(8)) on each end of the pair.
//!
//! Towards the container the host end shapes what it sends; from the container, the container's own end does, which
//! costs no extra device. A container with CAP_NET_ADMIN could lift the limit on its own end; one that must not be
//! trusted with that should not have the capability.

use netlink_packet_core::NLM_F_ECHO;

use crate::{
    cni::attachment::Attachment,
    netlink::{Attrs, Socket, Writer},
};

/// `RTM_GETQDISC` of linux/rtnetlink.h, and the size of `struct tcmsg`.
const RTM_GETQDISC: u16 = 38;
const TCMSG: usize = 20;

/// Attributes of linux/rtnetlink.h and linux/pkt_sched.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_H_ROOT`.
const ROOT: u32 = 0xffff_ffff;
/// Handle 1:.
const HANDLE: u32 = 0x0001_0000;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes by itself and needs no rate table.
const LINKLAYER_ETHERNET: u8 = 1;
/// Queued longer than this, packets are dropped.
const LATENCY_MS: u64 = 25;

/// A rate in bits per second and a burst in bits, as the bandwidth plugin has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) rate: u64,
    pub(super) burst: u64,
}

impl Limit {
    /// None when there is no limit. A burst that is not given is what the rate carries in 20 ms; none is so small that
    /// a packet of `mtu` bytes with its header could never pass.
    pub(super) fn new(rate: u64, burst: u64, mtu: u32) -> Option<Self> {
        if rate < 8 {
            return None;
        }
        let burst = if burst == 0 { rate / 50 } else { burst };
        let least = (u64::from(mtu) + 18) * 8;
        Some(Self { rate, burst: burst.max(least).min(u64::from(u32::MAX) * 8) })
    }

    /// Towards the container: at the root of the host end.
    pub(super) fn towards(attachment: &Attachment) -> Option<Self> {
        let bandwidth = attachment.bandwidth?;
        Self::new(bandwidth.ingress_rate, bandwidth.ingress_burst, attachment.mtu)
    }

    /// From the container: at the root of its own interface.
    pub(super) fn from_container(attachment: &Attachment) -> Option<Self> {
        let bandwidth = attachment.bandwidth?;
        Self::new(bandwidth.egress_rate, bandwidth.egress_burst, attachment.mtu)
    }

    /// Whether it is at the root of an interface; no also where the kernel does not say.
    pub(super) fn is_in_force(self, socket: &mut Socket, ifindex: u32) -> bool {
        // Without that flag the kernel tells those who listen, and not who asked.
        let asked = socket.request(RTM_GETQDISC, NLM_F_ECHO, |w| {
            w.raw(&[0; 4]).raw(&ifindex.to_ne_bytes()).raw(&[0; 4]).raw(&ROOT.to_ne_bytes()).raw(&[0; 4]);
        });
        let Ok(report) = asked else { return false };
        report.replies.iter().any(|(_, _, payload)| self.is(payload))
    }

    /// Whether a message about a queueing discipline describes this one.
    fn is(self, payload: &[u8]) -> bool {
        let attrs = Attrs::after(payload, TCMSG);
        let kind = attrs.clone().find_kind(TCA_KIND).and_then(|kind| kind.str().map(|k| k == "tbf"));
        let options = attrs.clone().find_kind(TCA_OPTIONS).map(crate::netlink::Attr::nested);
        let rate = options.and_then(|options| {
            if let Some(rate) = options.clone().find_kind(TCA_TBF_RATE64) {
                return rate.u64();
            }
            let parms = options.clone().find_kind(TCA_TBF_PARMS)?;
            parms.data.get(8..12)?.try_into().ok().map(|rate| u64::from(u32::from_ne_bytes(rate)))
        });
        kind == Some(true) && rate == Some(self.rate / 8)
    }

    /// The payload of an `RTM_NEWQDISC` that puts it at the root of an interface.
    pub(super) fn write(self, w: &mut Writer<'_>, ifindex: u32) {
        let (rate, burst) = (self.rate / 8, self.burst / 8);
        let limit = (u128::from(rate) * u128::from(LATENCY_MS) / 1000 + u128::from(burst)) as u64;
        let clamp = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        // struct tcmsg: family and padding, index, handle, parent, info.
        w.raw(&[0; 4])
            .raw(&ifindex.to_ne_bytes())
            .raw(&HANDLE.to_ne_bytes())
            .raw(&ROOT.to_ne_bytes())
            .raw(&[0; 4])
            .attr_str(TCA_KIND, "tbf")
            .nest(TCA_OPTIONS, |w| {
                // struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec, 12 bytes each), limit, buffer, mtu.
                let mut parms = [0; 36];
                parms[1] = LINKLAYER_ETHERNET;
                parms[8..12].copy_from_slice(&clamp(rate).to_ne_bytes());
                parms[24..28].copy_from_slice(&clamp(limit).to_ne_bytes());
                w.attr(TCA_TBF_PARMS, &parms).attr_u32(TCA_TBF_BURST, clamp(burst));
                if u32::try_from(rate).is_err() {
                    w.attr_u64(TCA_TBF_RATE64, rate);
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sensible_bursts() {
        assert_eq!(Limit::new(0, 1000, 1500), None);
        assert_eq!(Limit::new(8_000_000, 0, 1500).unwrap().burst, 160_000);
        assert_eq!(Limit::new(8_000_000, 1, 1500).unwrap().burst, 1518 * 8);
        assert_eq!(Limit::new(u64::MAX, u64::MAX, 1500).unwrap().burst, u64::from(u32::MAX) * 8);
    }
}
