//! The least of a BGP speaker: one session, established.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use slash32::bgp::wire::{Capability, EncodeContext, Message, Open, encode};
use socket2::{Domain, Socket, Type};

const PORT: u16 = 179;
const HEADER: usize = 19;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

/// Connects from one address to another, offers unicast of their family, refresh and four-octet AS numbers, and returns
/// when the other side has accepted. Its socket waits 10 s for each answer; keeping the session alive is the caller's
/// (with a hold time of 0, nobody's).
///
/// # Errors
/// When nobody answers, or the answer is a NOTIFICATION.
pub fn establish(
    local: impl Into<IpAddr>,
    to: impl Into<IpAddr>,
    asn: u32,
    hold_time: u16,
) -> Result<TcpStream> {
    let (local, to) = (local.into(), to.into());
    // The identifier is any number other than 0 (RFC 6286): with IPv6 the end of the address.
    let (domain, afi, router_id) = match local {
        IpAddr::V4(address) => (Domain::IPV4, 1, address),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            (Domain::IPV6, 2, Ipv4Addr::new(a, b, c, d))
        }
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((local, 0)).into()).context("bind")?;
    socket
        .connect_timeout(&SocketAddr::from((to, PORT)).into(), Duration::from_secs(5))
        .context("connect")?;
    socket.set_tcp_nodelay(true)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let open = Open {
        version: 4,
        // AS_TRANS stands for what does not fit (RFC 6793).
        my_as: u16::try_from(asn).unwrap_or(23456),
        hold_time,
        router_id,
        capabilities: vec![
            Capability::Multiprotocol { afi, safi: 1 },
            Capability::RouteRefresh,
            Capability::FourOctetAs(asn),
        ],
    };
    let mut out = BytesMut::new();
    encode(&EncodeContext::default(), &Message::Open(open), &mut out)?;
    encode(&EncodeContext::default(), &Message::Keepalive, &mut out)?;
    stream.write_all(&out)?;
    loop {
        match read_message(&mut stream)? {
            (KEEPALIVE, _) => return Ok(stream),
            (NOTIFICATION, body) => bail!("the router refused: {}", hex::encode(&body)),
            _ => {}
        }
    }
}

/// The next message: its type and body.
fn read_message(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).context("read a message")?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.saturating_sub(HEADER)];
    stream.read_exact(&mut body).context("read a message")?;
    Ok((header[18], body))
}
