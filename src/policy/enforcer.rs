//! Engine and driver together: what the agent holds.

use super::{
    engine::{Engine, EngineConfig},
    ir::{Delta, Ruleset},
    nft::{self, Driver, Settings},
};

/// Keeps the kernel's table as the engine wants it.
///
/// Change the engine as often as you like, then [`Self::commit`]: one transaction for all of it. An endpoint is
/// enforced when `commit` returns.
#[derive(Debug)]
pub struct Enforcer {
    engine: Engine,
    driver: Driver,
    /// Whether the kernel has what the engine gave last.
    in_step: bool,
    /// Changes by themselves and whole loads, for metrics.
    commits: Commits,
    repairs: u64,
}

/// How often the kernel's table was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// By a difference.
    pub deltas: u64,
    /// As a whole.
    pub replacements: u64,
}

impl Enforcer {
    /// For the calling thread's network namespace. Nothing is loaded before the first [`Self::commit`], so fill the
    /// engine first and no restart of the agent leaves a moment without rules.
    pub fn open(config: EngineConfig, settings: Settings) -> Result<Self, nft::Error> {
        let driver = Driver::open(settings)?;
        Ok(Self {
            engine: Engine::new(config),
            driver,
            in_step: false,
            commits: Commits::default(),
            repairs: 0,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to change it.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The driver.
    pub fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// How often the kernel's table was changed.
    pub fn commits(&self) -> Commits {
        self.commits
    }

    /// How often somebody else's change of the table had to be undone.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Brings the kernel's table up to date in one transaction. When the table is not what it should be, because
    /// somebody else changed it, it is replaced as a whole, again in one transaction.
    pub fn commit(&mut self) -> Result<(), nft::Error> {
        if self.in_step {
            let delta: Delta = self.engine.changes();
            if delta.is_empty() {
                return Ok(());
            }
            match self.driver.apply(&delta) {
                Ok(()) => {
                    self.commits.deltas += 1;
                    return Ok(());
                }
                // The engine takes the change for done; only a whole load makes that true again.
                Err(error) => {
                    self.in_step = false;
                    tracing::warn!(%error, "policy: a change of the table failed; loading it as a whole");
                }
            }
        }
        self.reload()
    }

    /// Compares the kernel's table with what it should be, and replaces it as a whole if it is something else. The
    /// answer is what was wrong. For notifications of changes by others, and for now and then.
    pub fn repair(&mut self) -> Result<Vec<nft::Difference>, nft::Error> {
        if !self.in_step {
            self.commit()?;
            return Ok(Vec::new());
        }
        // Pending changes would look like differences.
        self.commit()?;
        let differences = self.driver.differences(&self.engine.compiled())?;
        if !differences.is_empty() {
            self.repairs += 1;
            tracing::warn!(
                differences = differences.len(),
                first = %differences[0],
                "policy: somebody changed our table; restoring it"
            );
            let rules: Ruleset = self.engine.snapshot();
            self.in_step = false;
            self.driver.restore(&rules, &differences)?;
            self.in_step = true;
        }
        Ok(differences)
    }

    /// Replaces the kernel's table as a whole.
    pub fn reload(&mut self) -> Result<(), nft::Error> {
        let rules: Ruleset = self.engine.snapshot();
        self.in_step = false;
        self.driver.replace(&rules)?;
        self.in_step = true;
        self.commits.replacements += 1;
        Ok(())
    }
}
