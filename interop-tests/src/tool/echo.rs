//! `lab-tool echo PORT`: answers with what it gets, by UDP and TCP.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// Serves for ever.
pub fn run(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let udp = Socket::new(Domain::IPV6, Type::DGRAM, None).context("UDP socket")?;
    udp.set_only_v6(false)?;
    udp.bind(&address.into()).with_context(|| format!("UDP port {port}"))?;
    let tcp = Socket::new(Domain::IPV6, Type::STREAM, None).context("TCP socket")?;
    tcp.set_only_v6(false)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into()).with_context(|| format!("TCP port {port}"))?;
    tcp.listen(64)?;
    println!("listening on {port}");

    let udp = UdpSocket::from(udp);
    std::thread::spawn(move || datagrams(&udp));
    for stream in TcpListener::from(tcp).incoming() {
        let stream = stream.context("accept")?;
        std::thread::spawn(move || drop(connection(stream)));
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket) {
    let mut bytes = vec![0; 65536];
    loop {
        // An error here is the ICMP error of an earlier answer.
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            drop(socket.send_to(&bytes[..length], from));
        }
    }
}

fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; 65536];
    loop {
        let length = stream.read(&mut bytes)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..length])?;
    }
}
