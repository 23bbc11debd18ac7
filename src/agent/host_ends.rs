//! Tells the core of host ends that the kernel says have changed, and of the interfaces that lead out.

use std::sync::{Arc, Mutex, PoisonError};

use super::{actor::Actor, core::Core};
use crate::{
    cni::attach::{Changes, Uplinks},
    netlink::{
        Error,
        watch::{self, KernelEvent, Topic},
    },
};

/// Watches, on a thread of its own, until the core has ended.
pub(super) fn watch(core: &Actor<Core>) -> Result<(), Error> {
    let (core, mut changes, mut uplinks) = (core.clone(), Changes::default(), Uplinks::default());
    // One message for all that comes until the core takes it: it may be busy with a hundred ADDs.
    let pending = Arc::new(Mutex::new(Vec::new()));
    let sink = move |event| {
        if event == KernelEvent::Overrun {
            return core.tell(Core::mend_all).is_ok();
        }
        if uplinks.changed(&event) {
            return core.tell(Core::uplink_changed).is_ok();
        }
        let Some(index) = changes.concerns(event) else { return true };
        let mut list = pending.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(index);
        if list.len() > 1 {
            return true;
        }
        let pending = Arc::clone(&pending);
        let take = move |core: &mut Core| {
            core.ends_changed(std::mem::take(&mut *pending.lock().unwrap_or_else(PoisonError::into_inner)));
        };
        core.tell(take).is_ok()
    };
    watch::spawn("host-ends", &[Topic::Links, Topic::Addresses, Topic::Settings], &[], sink).map(drop)
}
