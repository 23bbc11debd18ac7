//! Topologies for tests.
