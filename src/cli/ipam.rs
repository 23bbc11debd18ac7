//! `slash32 ipam show|check|release`.

use std::{net::IpAddr, process::ExitCode};

use clap::Subcommand;

use super::{Global, print};
use crate::api::Request;

#[derive(Debug, Subcommand)]
pub(super) enum IpamCommand {
    /// Pools and blocks with addresses in use, resting and free; and addresses in use that are in no pool.
    Show,
    /// Compare leases, namespaces, links and routes; exit code 3 on any difference.
    Check {
        /// Repair what is found.
        #[arg(long)]
        fix: bool,
    },
    /// Release one address whose container is gone, or end its rest; nothing else changes.
    Release {
        /// The address.
        address: IpAddr,
    },
}

pub(super) fn run(global: &Global, command: &IpamCommand) -> anyhow::Result<ExitCode> {
    match *command {
        IpamCommand::Show => global.show(&Request::IpamShow, |pools| {
            print::table(
                pools,
                &[
                    ("POOL", |p| print::field(p, "pool")),
                    ("CIDR", |p| print::field(p, "cidr")),
                    ("BLOCK", |p| print::field(p, "block")),
                    ("IN USE", |p| print::field(p, "in_use")),
                    ("RESTING", |p| print::field(p, "resting")),
                    ("RESERVED", |p| print::field(p, "reserved")),
                    ("FREE", |p| print::field(p, "free")),
                ],
                "no pool has a block on this host: give an [[ipam.pool]] a `block` or a `host_index`",
            )
        })?,
        IpamCommand::Check { fix } => {
            let value = global.call(&Request::IpamCheck { fix })?;
            global.print(&value, |findings| {
                print::table(
                    findings,
                    &[
                        ("WHAT", |f| print::field(f, "subject")),
                        ("PROBLEM", |f| print::field(f, "problem")),
                        ("FIXED", |f| print::field(f, "fixed")),
                    ],
                    "leases, namespaces, links and routes agree",
                )
            });
            let open = |f: &serde_json::Value| f["fixed"] != true;
            return Ok(ExitCode::from(if value.as_array().is_some_and(|l| l.iter().any(open)) {
                3
            } else {
                0
            }));
        }
        IpamCommand::Release { address } => {
            global.show(&Request::IpamRelease { address }, |_| format!("released {address}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
