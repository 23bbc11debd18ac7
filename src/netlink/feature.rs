//! What the running kernel can do.

use super::{Error, Socket, nexthop};

/// Whether the kernel has next-hop objects (5.3 and later). `Err` for anything but a plain no.
pub fn nexthop_objects(socket: &mut Socket) -> Result<bool, Error> {
    match nexthop::list(socket) {
        Ok(_) => Ok(true),
        // Before 5.3 the message type is unknown.
        Err(e) if e.is_unsupported() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether the kernel has nftables. Takes a netfilter socket.
pub fn nftables(socket: &mut Socket) -> Result<bool, Error> {
    const NFT_MSG_GETGEN: u16 = (10 << 8) | 16;
    let report = socket.request(NFT_MSG_GETGEN, 0, |w| {
        w.raw(&[0; 4]);
    });
    match report {
        Ok(_) => Ok(true),
        // No subsystem of that number: EINVAL from nfnetlink.
        Err(e) if e.is_unsupported() || e.errno() == Some(libc::EINVAL) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::ns::testing;

    #[test]
    fn probes_answer_without_error() {
        testing::private(|| {
            let objects = nexthop_objects(&mut Socket::route().unwrap()).unwrap();
            assert_eq!(objects, std::path::Path::new("/proc/sys/net/ipv4/nexthop_compat_mode").exists());
            assert!(nftables(&mut Socket::netfilter().unwrap()).is_ok());
        });
    }
}
