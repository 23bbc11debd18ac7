//! Messages as JSON and as one line of text, for `slash32 bgp decode`.
//!
//! The fields of the message body are shown as they are on the wire; what RFC 7606 makes of them is in `effect`.

mod attributes;
mod open;
mod other;
mod update;

use std::fmt;

pub use attributes::AttributesView;
pub use open::OpenView;
pub use other::{NotificationView, RouteRefreshView};
use serde::{Serialize, Serializer};
pub use update::UpdateView;

use update::update_view;

use super::{
    Action, DecodeContext, Decoded, Disposition, HEADER_LEN, Message, Notification, WireError, code, decode,
};

/// A message decoded for people and programs. Serializes to one JSON object; `Display` is one line.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// `OPEN`, `UPDATE`, `NOTIFICATION`, `KEEPALIVE`, `ROUTE-REFRESH`; `UNKNOWN` for other type codes, and `invalid` for
    /// what has no BGP header.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The type octet of the header, if there is one.
    pub type_code: Option<u8>,
    /// Octets given, header included.
    pub length: usize,
    /// The message's own fields.
    #[serde(flatten)]
    pub body: Body,
    /// The octets of a message that could not be read as one, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// The strongest action that the errors demand.
    #[serde(serialize_with = "as_text")]
    pub disposition: Disposition,
    /// Everything that is wrong.
    pub errors: Vec<ErrorView>,
}

fn as_text<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// One error.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorView {
    /// `discard`, `withdraw` or `reset`.
    pub action: String,
    /// NOTIFICATION error code.
    pub code: u8,
    /// NOTIFICATION error subcode.
    pub subcode: u8,
    /// The name of code and subcode.
    pub name: String,
    /// Type code of the path attribute in error.
    pub attribute: Option<u8>,
    /// Its name.
    pub attribute_name: Option<&'static str>,
    /// What is wrong.
    pub reason: String,
    /// Octets from the start of the message.
    pub offset: usize,
    /// The data of the NOTIFICATION that a reset sends, in hexadecimal.
    pub data: String,
}

impl ErrorView {
    /// Something wrong with the file that holds a route, and not with the route.
    pub fn of_file(reason: String, offset: usize) -> Self {
        Self {
            action: Action::Discard.to_string(),
            code: 0,
            subcode: 0,
            name: String::new(),
            attribute: None,
            attribute_name: None,
            reason,
            offset,
            data: String::new(),
        }
    }
}

impl From<&WireError> for ErrorView {
    fn from(e: &WireError) -> Self {
        Self {
            action: e.action.to_string(),
            code: e.code,
            subcode: e.subcode,
            name: Notification::new(e.code, e.subcode).to_string(),
            attribute: e.attribute,
            attribute_name: e.attribute.and_then(code::attribute_name),
            reason: e.reason.to_string(),
            offset: e.offset,
            data: hex::encode(&e.data),
        }
    }
}

/// The fields of one kind of message.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "one value at a time, printed and dropped")]
pub enum Body {
    /// OPEN.
    Open(OpenView),
    /// UPDATE.
    Update(UpdateView),
    /// NOTIFICATION.
    Notification(NotificationView),
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefreshView),
    /// KEEPALIVE, and what could not be read.
    Empty {},
}

/// Decodes one whole message, header included.
pub fn describe(ctx: &DecodeContext, message: &[u8]) -> Description {
    describe_decoded(ctx, message, &decode(ctx, message))
}

/// Describes a message that has been decoded already, from the same bytes with the same context.
pub fn describe_decoded(ctx: &DecodeContext, message: &[u8], decoded: &Decoded) -> Description {
    let type_code = message.get(HEADER_LEN - 1).copied();
    let body = match (&decoded.message, type_code) {
        (Some(Message::Open(open)), _) => Body::Open(open.into()),
        (Some(Message::Notification(n)), _) => Body::Notification(n.into()),
        (Some(Message::RouteRefresh(r)), _) => Body::RouteRefresh(r.into()),
        (Some(Message::Update(update)), _) => Body::Update(update_view(*ctx, message, Some(update), decoded)),
        // What can be located is shown even when the message is useless.
        (None, Some(code::message::UPDATE)) => Body::Update(update_view(*ctx, message, None, decoded)),
        _ => Body::Empty {},
    };
    Description {
        kind: match type_code {
            Some(code::message::ROUTE_REFRESH) => "ROUTE-REFRESH",
            Some(kind) => code::message_name(kind),
            None => "invalid",
        },
        type_code,
        length: message.len(),
        body,
        raw: decoded.message.is_none().then(|| hex::encode(message)),
        disposition: decoded.disposition,
        errors: decoded.errors.iter().map(ErrorView::from).collect(),
    }
}

impl Description {
    /// Something that should have been a message but is not even octets.
    pub fn invalid(reason: &str, offset: usize) -> Self {
        let error = ErrorView {
            action: Disposition::Reset.to_string(),
            code: code::error::HEADER,
            subcode: 0,
            name: code::error_name(code::error::HEADER).to_owned(),
            attribute: None,
            attribute_name: None,
            reason: reason.to_owned(),
            offset,
            data: String::new(),
        };
        Self {
            kind: "invalid",
            type_code: None,
            length: 0,
            body: Body::Empty {},
            raw: None,
            disposition: Disposition::Reset,
            errors: vec![error],
        }
    }
}

impl fmt::Display for ErrorView {
    /// ` ! withdraw 3/6 at 26: origin: ORIGIN 7 is undefined`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " ! {} {}/{} at {}: ", self.action, self.code, self.subcode, self.offset)?;
        if let Some(name) = self.attribute_name {
            write!(f, "{name}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl fmt::Display for Description {
    /// `UPDATE 45 ok +10.0.0.0/8 -10.1.0.0/16 origin=IGP as_path=65001,65002 …`, and one `! …` for each error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}{}", self.kind, self.length, self.disposition, self.body)?;
        self.errors.iter().try_for_each(|error| write!(f, "{error}"))
    }
}

impl fmt::Display for Body {
    /// Begins with a blank when there is anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => write!(f, "{open}"),
            Self::Update(update) => write!(f, "{update}"),
            Self::Notification(notification) => write!(f, "{notification}"),
            Self::RouteRefresh(refresh) => write!(f, "{refresh}"),
            Self::Empty {} => Ok(()),
        }
    }
}
