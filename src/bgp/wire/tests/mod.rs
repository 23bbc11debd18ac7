//! Tests of the codec as a whole, through its public functions.

mod as4;
mod build;
mod frames;
mod notifications;
mod opens;
mod packing;
mod revised_errors;
mod round_trip;
