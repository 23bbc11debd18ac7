//! Tests of the whole RIB, through its public methods only.

mod basic;
mod catch_up;
mod decision;
mod filters;
mod kit;
mod lost;
mod model;
mod random;
mod receive;
mod restart;
mod send;
