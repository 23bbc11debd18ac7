//! Answers requests: each goes to the owner of what it asks about.

use std::{future::Future, sync::Arc, time::{Duration, Instant}};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{actor::{Actor, Gone}, config::Config, core::Core, doctor};
use crate::api::{Answer, Failure, Request, ShutdownMode};
