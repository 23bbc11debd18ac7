//! `lab-tool name PORT NAME` answers each datagram with its name; `lab-tool ask ADDRESS PORT` sends from one socket all the
//! time, and says who answers when that changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// Between two datagrams.
const PERIOD: Duration = Duration::from_millis(10);
/// After so long without an answer nobody answers.
const SILENCE: Duration = Duration::from_millis(300);

/// Answers for ever, both address families.
pub fn name(port: u16, name: &str) -> Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).context("UDP socket")?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).context("bind")?;
    let socket = UdpSocket::from(socket);
    println!("listening on {port}");
    loop {
        // An error is the ICMP error of an earlier answer.
        if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            drop(socket.send_to(name.as_bytes(), from));
        }
    }
}

/// Asks for ever.
pub fn ask(to: IpAddr, port: u16) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("bind")?;
    socket.set_read_timeout(Some(PERIOD))?;
    let mut said = String::new();
    let mut heard = Instant::now();
    loop {
        // An error is the ICMP error of an earlier packet, or no route.
        drop(socket.send_to(b"?", (to, port)));
        let mut bytes = [0; 64];
        let now = match socket.recv_from(&mut bytes) {
            Ok((length, _)) => {
                heard = Instant::now();
                std::thread::sleep(PERIOD);
                String::from_utf8_lossy(&bytes[..length]).into_owned()
            }
            Err(_) if heard.elapsed() > SILENCE => "nobody".to_owned(),
            Err(_) => continue,
        };
        if now != said {
            println!("{now}");
            said = now;
        }
    }
}
