//! What runtimes and administrators may ask of the plugin, on real hosts.

mod attention;
mod codes;
mod delegation;
mod fabric;
mod faults;
mod features;
mod flows;
mod kills;
mod kit;
mod labels;
mod leases;
mod mending;
mod moves;
mod one_agent;
mod ports;
mod reboot;
mod rest;
mod short_way;
