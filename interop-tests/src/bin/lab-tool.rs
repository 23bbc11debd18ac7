//! What the lab runs inside its machines: process 1, echo servers, probes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Parser;
use interop_tests::tool::{
    cni_call, connect, echo, feed, first_answer, floor, flow, hold, inject, member, probe, raw, who,
};

/// Helpers that the interop-tests library runs inside its machines.
#[derive(Parser)]
enum Tool {
    /// Process 1 of a machine; expects new namespaces and a control socket on stdin.
    Init { name: String, bins: Vec<PathBuf> },
    /// Echo servers by UDP and TCP.
    Echo { port: u16 },
    /// UDP packets at a steady rate; counts what comes back.
    Probe { to: IpAddr, port: u16, rate: u32 },
    /// One busy TCP connection.
    Flow { to: IpAddr, port: u16 },
    /// Answers each datagram with a name.
    Name { port: u16, name: String },
    /// Datagrams from one socket all the time; says who answers when that changes.
    Ask { to: IpAddr, port: u16 },
    /// Opens one TCP connection.
    Connect { to: IpAddr, port: u16 },
    /// Pings each address on stdin until it answers.
    FirstAnswer,
    /// Calls a CNI plugin for each line of stdin and times it.
    CniCall,
    /// Times what the kernel and the start of a process cost by themselves, for each line of stdin.
    Floor,
    /// One BGP connection driven by lines on stdin.
    Inject,
    /// Packets of one IP protocol by hand, driven by lines on stdin.
    Raw { protocol: u8 },
    /// A BGP session that announces many /32s, or none.
    Feed { local: IpAddr, to: IpAddr, asn: u32, routes: u32 },
    /// A BGP session that times what UPDATEs about single endpoints take.
    Member { local: Ipv4Addr, to: Ipv4Addr, asn: u32, members: u32, rounds: u32 },
    /// Makes a lab in which a process sleeps for SECONDS, and waits to be killed.
    Hold { seconds: String },
}

fn main() -> anyhow::Result<()> {
    match Tool::parse() {
        Tool::Init { name, bins } => interop_tests::init(&name, &bins),
        Tool::Echo { port } => echo::run(port),
        Tool::Probe { to, port, rate } => probe::run(to, port, rate),
        Tool::Flow { to, port } => flow::run(to, port),
        Tool::Name { port, name } => who::name(port, &name),
        Tool::Ask { to, port } => who::ask(to, port),
        Tool::Connect { to, port } => connect::run(to, port),
        Tool::FirstAnswer => first_answer::run(),
        Tool::CniCall => cni_call::run(),
        Tool::Floor => floor::run(),
        Tool::Inject => inject::run(),
        Tool::Raw { protocol } => raw::run(protocol),
        Tool::Feed { local, to, asn, routes } => feed::run(local, to, asn, routes),
        Tool::Member { local, to, asn, members, rounds } => member::run(local, to, asn, members, rounds),
        Tool::Hold { seconds } => hold::run(&seconds),
    }
}
