//! Places where a test can make the process die, between any two steps that leave a trace.
//!
//! In debug builds the environment variable `SLASH32_FAULT` names the point at which the process, agent or plugin,
//! aborts, without running destructors, as by `kill -9`. `interop-tests/tests/cni/kills.rs` visits every point there is,
//! on a whole host. Unit tests use [`tests::dying_at`] instead, which unwinds. In release builds there is nothing of
//! this.

/// A fault point.
#[cfg(not(any(test, debug_assertions)))]
#[inline]
pub(super) const fn point(_name: &'static str) {}

/// A fault point.
#[cfg(any(test, debug_assertions))]
pub(super) fn point(name: &'static str) {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    #[cfg(test)]
    tests::reached(name);
    let chosen = CHOSEN.get_or_init(|| std::env::var("SLASH32_FAULT").ok());
    if chosen.as_deref() == Some(name) {
        eprintln!("slash32: dying at {name}, as SLASH32_FAULT says");
        std::process::abort();
    }
}

/// Whether something that the kernel is asked fails.
#[cfg(not(any(test, debug_assertions)))]
#[inline]
pub(super) const fn fails(_name: &'static str) -> bool {
    false
}

/// Whether something that the kernel is asked fails: so many times as a unit test has said, or always if
/// `SLASH32_FAULT` names it.
#[cfg(any(test, debug_assertions))]
pub(super) fn fails(name: &'static str) -> bool {
    #[cfg(test)]
    if tests::fails_now(name) {
        return true;
    }
    std::env::var("SLASH32_FAULT").is_ok_and(|chosen| chosen == name)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        cell::RefCell,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    #[derive(Default)]
    struct State {
        die_at: Option<String>,
        seen: Vec<&'static str>,
        /// What fails, and how many times more.
        failing: Option<(&'static str, usize)>,
    }

    thread_local! {
        static STATE: RefCell<State> = RefCell::default();
    }

    pub(super) fn reached(name: &'static str) {
        let dies = STATE.with_borrow_mut(|state| {
            state.seen.push(name);
            state.die_at.take_if(|at| at == name).is_some()
        });
        if dies {
            // Without the panic hook's noise.
            std::panic::resume_unwind(Box::new(name));
        }
    }

    pub(super) fn fails_now(name: &'static str) -> bool {
        STATE.with_borrow_mut(|state| match &mut state.failing {
            Some((failing, left)) if *failing == name && *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        })
    }

    /// From now on something fails on this thread, so many times.
    pub(in crate::cni) fn failing(name: &'static str, times: usize) {
        STATE.with_borrow_mut(|state| state.failing = Some((name, times)));
    }

    /// Runs something on this thread that is to die at a fault point; none when it did.
    pub(in crate::cni) fn dying_at<T>(name: &str, work: impl FnOnce() -> T) -> Option<T> {
        STATE.with_borrow_mut(|state| state.die_at = Some(name.to_owned()));
        let result = catch_unwind(AssertUnwindSafe(work));
        STATE.with_borrow_mut(|state| state.die_at = None);
        result.ok()
    }

    /// The fault points that something passes, in order.
    pub(in crate::cni) fn points_of<T>(work: impl FnOnce() -> T) -> Vec<&'static str> {
        STATE.with_borrow_mut(|state| state.seen.clear());
        work();
        STATE.with_borrow_mut(|state| std::mem::take(&mut state.seen))
    }
}
