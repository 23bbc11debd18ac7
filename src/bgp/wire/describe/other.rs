//! NOTIFICATION and ROUTE-REFRESH.

use std::fmt;

use serde::Serialize;

use crate::bgp::wire::{Notification, RouteRefresh, code};

/// Fields of a NOTIFICATION.
#[derive(Clone, Debug, Serialize)]
pub struct NotificationView {
    code: u8,
    subcode: u8,
    name: &'static str,
    subcode_name: Option<&'static str>,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_text: Option<String>,
    /// What is wrong with the text (RFC 9003 section 4: for the operator to see, nothing to answer).
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_error: Option<&'static str>,
    /// What a Hard Reset wraps.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<Box<NotificationView>>,
}

/// Fields of a ROUTE-REFRESH.
#[derive(Clone, Debug, Serialize)]
pub struct RouteRefreshView {
    afi: u16,
    safi: u8,
    subtype: u8,
    subtype_name: &'static str,
}

impl From<&Notification> for NotificationView {
    fn from(n: &Notification) -> Self {
        Self {
            code: n.code,
            subcode: n.subcode,
            name: code::error_name(n.code),
            subcode_name: code::subcode_name(n.code, n.subcode),
            data: hex::encode(&n.data),
            shutdown_text: n.shutdown_text().map(Into::into),
            shutdown_error: n.shutdown_error(),
            cause: n.hard_reset_cause().map(|cause| {
                // One level is all there is: a Hard Reset in a Hard Reset is shown by its numbers and data.
                Box::new(Self {
                    code: cause.code,
                    subcode: cause.subcode,
                    name: code::error_name(cause.code),
                    subcode_name: code::subcode_name(cause.code, cause.subcode),
                    data: hex::encode(&cause.data),
                    shutdown_text: None,
                    shutdown_error: None,
                    cause: None,
                })
            }),
        }
    }
}

impl From<&RouteRefresh> for RouteRefreshView {
    fn from(r: &RouteRefresh) -> Self {
        let subtype_name = match r.subtype {
            0 => "request",
            1 => "begin",
            2 => "end",
            _ => "unknown",
        };
        Self { afi: r.afi, safi: r.safi, subtype: r.subtype, subtype_name }
    }
}

impl fmt::Display for NotificationView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}/{} {}", self.code, self.subcode, self.name)?;
        if let Some(name) = self.subcode_name {
            write!(f, "/{name}")?;
        }
        if let Some(text) = &self.shutdown_text {
            write!(f, " {text:?}")?;
        }
        if let Some(error) = self.shutdown_error {
            write!(f, " ({error})")?;
        }
        if let Some(cause) = &self.cause {
            write!(f, " for{cause}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RouteRefreshView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " AFI {} SAFI {} {}", self.afi, self.safi, self.subtype_name)
    }
}
