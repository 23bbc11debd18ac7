//! What runtimes and administrators may ask of the plugin, on real hosts.

mod delegation;
mod fabric;
mod faults;
mod features;
mod kit;
mod moves;
mod ports;
mod rest;
mod short_way;
