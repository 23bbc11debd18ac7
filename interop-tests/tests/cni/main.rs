//! What runtimes and administrators may ask of the plugin, on real hosts.

mod attention;
mod delegation;
mod fabric;
mod faults;
mod features;
mod kit;
mod mending;
mod moves;
mod one_agent;
mod ports;
mod rest;
mod short_way;
