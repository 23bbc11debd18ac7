//! The lab's own injector (`lab-tool inject`): says what no router would, byte by byte.

use anyhow::Result;
use interop_tests::ImageRun;

use super::Flavor;
use crate::spec::{RouterSpec, unsupported};

pub(super) struct Injector;

impl Flavor for Injector {
    fn name(&self) -> &'static str {
        "injector"
    }

    fn image(&self) -> Option<&'static str> {
        None
    }

    fn daemon(&self) -> &'static str {
        "lab-tool"
    }

    fn forwards(&self) -> bool {
        false
    }

    fn passes_on(&self) -> bool {
        false
    }

    fn config(&self, _spec: &RouterSpec) -> Result<String> {
        unsupported("is no router: it sends prepared bytes")
    }

    fn ready(&self, _run: &ImageRun) -> Result<()> {
        Ok(())
    }

    fn established(&self, _run: &ImageRun) -> Result<usize> {
        Ok(0)
    }

    fn paths(&self, _run: &ImageRun, _prefix: &str) -> Result<String> {
        Ok(String::new())
    }

    fn count_paths(&self, _shown: &str) -> usize {
        0
    }

    fn revive(&self, _run: &ImageRun, _neighbor: &str) -> Result<()> {
        Ok(())
    }

    fn reload(&self, _run: &ImageRun, _spec: &RouterSpec) -> Result<()> {
        Ok(())
    }
}
