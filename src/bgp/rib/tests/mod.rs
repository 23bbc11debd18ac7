//! Tests of the whole RIB, through its public methods only.

mod basic;
mod decision;
mod kit;
mod receive;
