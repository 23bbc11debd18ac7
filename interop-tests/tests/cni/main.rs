//! What runtimes and administrators may ask of the plugin, on real hosts.

mod attention;
mod bandwidth;
mod blocks;
mod codes;
mod delegation;
mod fabric;
mod faults;
mod features;
mod flows;
mod givers;
mod kills;
mod kit;
mod labels;
mod leases;
mod mending;
mod moves;
mod mtu;
mod one_agent;
mod ports;
mod reboot;
mod rest;
mod results;
mod short_way;
