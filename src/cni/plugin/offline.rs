//! DEL without the agent.

use std::{path::Path, time::SystemTime};

use serde_json::Value;

use crate::{
    api::CniRequest,
    cni::{
        attach,
        attachment::Attachment,
        fault,
        store::{self, Tombstone},
        types::{CniError, NetConf, code, names},
    },
    model::{EndpointId, EndpointKey},
    netlink::Socket,
};

/// Takes the interface down, in the namespace the plugin runs in, and leaves a tombstone. With the interface down
/// the kernel drops the routes; the agent, when it starts, sees a retired link and releases the address even if the
/// tombstone could not be written. The answer is as the agent's.
pub(super) fn del(run_dir: &Path, request: &CniRequest) -> Result<Value, CniError> {
    let (_, network) = NetConf::essentials(&request.stdin)?;
    names::container_id(&request.container_id)?;
    names::ifname(&request.ifname)?;
    let key =
        EndpointKey { network, container_id: request.container_id.clone(), ifname: request.ifname.clone() };
    let kernel = |error: String| CniError::new(code::ATTACH_FAILED, error);
    let mut socket = Socket::route().map_err(|e| kernel(e.to_string()))?;
    attach::retire(&mut socket, &EndpointId::of(&key)).map_err(|e| kernel(e.to_string()))?;
    fault::point("plugin:retired");
    // Where no agent has ever run there is nothing to tell it.
    if !run_dir.is_dir() {
        return Ok(Value::Null);
    }
    let known = store::peek(run_dir, &EndpointId::of(&key));
    if let Err(error) = Tombstone::leave(run_dir, &key, SystemTime::now()) {
        eprintln!("slash32: {error}");
    }
    Ok(Attachment::owed_answer(&known))
}
