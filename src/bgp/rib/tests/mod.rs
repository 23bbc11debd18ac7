//! Tests of the whole RIB, through its public methods only.

mod basic;
mod kit;
