//! What can be wrong with a message, and what a speaker must do about it.

use std::{fmt, net::IpAddr, ops::Range};

use bytes::Bytes;

use super::{Notification, code};

/// What one error demands (RFC 7606 section 2), weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Drop the attribute (or what else is in error) and go on: "attribute discard".
    Discard,
    /// Handle the announced prefixes as if they were withdrawn: "treat-as-withdraw".
    Withdraw,
    /// Send a NOTIFICATION and end the session: "session reset".
    Reset,
}

/// What a message as a whole calls for: the strongest [`Action`] of its errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disposition {
    /// No error.
    #[default]
    Ok,
    /// Use the message without the parts in error; the decoder has removed them.
    Discard,
    /// Use the message; the decoder has moved its announcements to the withdrawals.
    Withdraw,
    /// Do not use the message: end the session.
    Reset,
}

impl From<Action> for Disposition {
    fn from(action: Action) -> Self {
        match action {
            Action::Discard => Self::Discard,
            Action::Withdraw => Self::Withdraw,
            Action::Reset => Self::Reset,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Disposition::from(*self), f)
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Discard => "discard",
            Self::Withdraw => "withdraw",
            Self::Reset => "reset",
        })
    }
}

/// One error in a received message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct WireError {
    /// What it demands.
    pub action: Action,
    /// NOTIFICATION error code.
    pub code: u8,
    /// NOTIFICATION error subcode.
    pub subcode: u8,
    /// The path attribute in error, if one is.
    pub attribute: Option<u8>,
    /// What is wrong.
    pub reason: Reason,
    /// Where, in octets from the first one of the marker.
    pub offset: usize,
    /// The NOTIFICATION's data; empty unless the action is [`Action::Reset`].
    pub data: Bytes,
}

impl WireError {
    /// An error that is not one of a message, and so has no data.
    pub const fn new(action: Action, reason: Reason, attribute: Option<u8>, offset: usize) -> Self {
        let (code, subcode) = reason.codes();
        Self { action, code, subcode, attribute, reason, offset, data: Bytes::new() }
    }

    /// Whether it is an error of the first attribute with this type code, which a second one leaves as it is.
    pub(super) fn is_of_first(&self, code: u8) -> bool {
        self.attribute == Some(code) && self.reason != Reason::DuplicateAttribute
    }

    /// The NOTIFICATION to send when the action is [`Action::Reset`].
    pub fn notification(&self) -> Notification {
        Notification { code: self.code, subcode: self.subcode, data: self.data.clone() }
    }
}

/// What is wrong. Each reason has one NOTIFICATION code and subcode: [`Reason::codes`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    // Header, RFC 4271 section 6.1.
    /// The marker is not all ones.
    #[error("the marker is not all ones")]
    Marker,
    /// Fewer octets than a header has.
    #[error("{0} octets are less than a header")]
    HeaderTruncated(usize),
    /// The length is out of bounds for the message type.
    #[error("message length {length} is not in {least}..={most}")]
    MessageLength {
        /// As received.
        length: usize,
        /// The least allowed.
        least: usize,
        /// The most allowed.
        most: usize,
    },
    /// The length field does not fit what was given to decode.
    #[error("message length {length} but {given} octets given")]
    LengthMismatch {
        /// As received.
        length: usize,
        /// Octets given.
        given: usize,
    },
    /// The message type is unknown.
    #[error("message type {0} is unknown")]
    MessageType(u8),

    // OPEN, RFC 4271 section 6.2.
    /// Not version 4.
    #[error("version {0} is not supported, only 4")]
    Version(u8),
    /// AS number 0 (RFC 7607).
    #[error("AS number 0 is reserved")]
    ZeroAs,
    /// Identifier 0 (RFC 6286).
    #[error("BGP identifier 0.0.0.0")]
    ZeroRouterId,
    /// The two-octet AS number and that of the capability are not the same (RFC 6793 section 4.2.1).
    #[error("AS number {my_as}, but {asn} in the four-octet AS capability")]
    AsMismatch {
        /// "My Autonomous System".
        my_as: u16,
        /// The capability's number.
        asn: u32,
    },
    /// AS_TRANS as a speaker's own four-octet number (RFC 6793 section 9).
    #[error("AS_TRANS in the four-octet AS capability is no speaker's number")]
    AsTrans,
    /// Two BGP roles (RFC 9234 section 4.2).
    #[error("two different BGP roles, {0} and {1}")]
    Roles(u8, u8),
    /// A hold time of 1 or 2 seconds.
    #[error("hold time {0} s is neither 0 nor at least 3 s")]
    HoldTime(u16),
    /// An optional parameter other than capabilities.
    #[error("optional parameter type {0} is not supported")]
    OptionalParameter(u8),
    /// Optional parameters do not fill their bounds.
    #[error("optional parameters do not fit their length")]
    OptionalParameterLength,
    /// Capabilities do not fill their parameter.
    #[error("capabilities do not fit their parameter")]
    CapabilityBounds,
    /// A capability has a length that its code does not allow.
    #[error("capability {code} has a wrong length, {length}")]
    CapabilityLength {
        /// The capability.
        code: u8,
        /// Its length.
        length: usize,
    },
    /// A capability has a value that its RFC says to ignore.
    #[error("capability {0} has an invalid value and is ignored")]
    CapabilityValue(u8),

    // UPDATE, RFC 4271 section 6.3 and RFC 7606.
    /// The lengths of withdrawn routes and attributes do not fit the message.
    #[error("{length} octets of {what} do not fit: {left} octets left")]
    UpdateLength {
        /// Which field.
        what: &'static str,
        /// Its length as received.
        length: usize,
        /// What the message has left for it.
        left: usize,
    },
    /// There is no room for one of these lengths itself.
    #[error("the length of the {what} does not fit: {left} octets left")]
    UpdateLengthField {
        /// Which field's.
        what: &'static str,
        /// What the message has left for it.
        left: usize,
    },
    /// An attribute header does not fit the attribute block.
    #[error("{0} octets left are less than an attribute header")]
    AttributeHeader(usize),
    /// An attribute is longer than what is left of the attribute block.
    #[error("attribute length {length} but {left} octets left")]
    AttributeOverrun {
        /// As received.
        length: usize,
        /// What is left.
        left: usize,
    },
    /// Optional or Transitive bit contradicts the type.
    #[error("attribute flags {flags:#04x}, expected {expected:#04x}")]
    AttributeFlags {
        /// As received.
        flags: u8,
        /// The Optional and Transitive bits that the type demands.
        expected: u8,
    },
    /// The length is not allowed for the type.
    #[error("attribute length {length}, expected {expected}")]
    AttributeLength {
        /// As received.
        length: usize,
        /// What is allowed.
        expected: &'static str,
    },
    /// The attribute occurs again; the first one counts.
    #[error("attribute occurs more than once")]
    DuplicateAttribute,
    /// A well-known attribute is missing.
    #[error("well-known attribute {0} is missing")]
    MissingAttribute(u8),
    /// A well-known attribute that we do not know.
    #[error("well-known attribute {0} is not recognized")]
    UnrecognizedWellKnown(u8),
    /// The attribute must not come from this kind of peer, or on this kind of session.
    #[error("{0}")]
    Unexpected(&'static str),
    /// ORIGIN is not 0, 1 or 2.
    #[error("ORIGIN {0} is undefined")]
    Origin(u8),
    /// The next hop cannot be a host's address.
    #[error("next hop {0} is not a host's address")]
    NextHop(IpAddr),
    /// A segment of a type that does not exist.
    #[error("AS path segment type {0} is undefined")]
    AsPathSegment(u8),
    /// A segment without AS numbers.
    #[error("AS path segment is empty")]
    AsPathEmptySegment,
    /// A segment overruns the attribute, or one octet is left over.
    #[error("AS path segment does not fit the attribute")]
    AsPathOverrun,
    /// AS 0 in a path or aggregator (RFC 7607).
    #[error("AS 0 in the attribute")]
    AsPathZero,
    /// Confederation segments from outside (RFC 5065 section 5).
    #[error("confederation segment from an external peer")]
    AsPathConfed,
    /// Confederation segments in AS4_PATH (RFC 6793 section 6): dropped.
    #[error("confederation segment in AS4_PATH is dropped")]
    As4PathConfed,
    /// A prefix is longer than an address.
    #[error("prefix length {length} is more than {most}")]
    PrefixLength {
        /// As received.
        length: u8,
        /// The family's address length.
        most: u8,
    },
    /// A prefix overruns its field.
    #[error("prefix does not fit its field")]
    PrefixOverrun,
    /// An MP attribute too short for its fixed part.
    #[error("attribute length {0} is too short")]
    MpTooShort(usize),
    /// A next hop length that the family does not allow.
    #[error("next hop length {length} is not allowed for AFI {afi}")]
    MpNextHopLength {
        /// As received.
        length: u8,
        /// The address family.
        afi: u16,
    },
    /// Prefixes of a family which is not negotiated, or which we do not speak: ignored.
    #[error(
        "AFI {afi} SAFI {safi} is not {} and is ignored",
        if matches!((afi, safi), (1 | 2, 1)) { "negotiated" } else { "supported" }
    )]
    Family {
        /// Address family identifier.
        afi: u16,
        /// Subsequent address family identifier.
        safi: u8,
    },

    // ROUTE-REFRESH, RFC 7313 section 5.
    /// Wrong length.
    #[error("ROUTE-REFRESH length {0} is not 23")]
    RefreshLength(usize),
    /// A subtype that must be ignored.
    #[error("ROUTE-REFRESH subtype {0} is unknown and is ignored")]
    RefreshSubtype(u8),
}

impl Reason {
    /// The NOTIFICATION error code and subcode.
    pub const fn codes(&self) -> (u8, u8) {
        use code::error::{HEADER, OPEN, ROUTE_REFRESH, UPDATE};
        match self {
            Self::Marker => (HEADER, 1),
            Self::HeaderTruncated(_) | Self::MessageLength { .. } | Self::LengthMismatch { .. } => {
                (HEADER, 2)
            }
            Self::MessageType(_) => (HEADER, 3),
            Self::Version(_) => (OPEN, 1),
            Self::ZeroAs | Self::AsMismatch { .. } | Self::AsTrans => (OPEN, 2),
            Self::ZeroRouterId => (OPEN, 3),
            Self::OptionalParameter(_) => (OPEN, 4),
            Self::HoldTime(_) => (OPEN, 6),
            Self::Roles(..) => (OPEN, 11),
            // RFC 4271 section 6.2: recognized but malformed is 0, unspecific.
            Self::OptionalParameterLength
            | Self::CapabilityBounds
            | Self::CapabilityLength { .. }
            | Self::CapabilityValue(_) => (OPEN, 0),
            Self::UpdateLength { .. }
            | Self::UpdateLengthField { .. }
            | Self::AttributeHeader(_)
            | Self::AttributeOverrun { .. }
            | Self::DuplicateAttribute => (UPDATE, 1),
            Self::UnrecognizedWellKnown(_) => (UPDATE, 2),
            Self::MissingAttribute(_) => (UPDATE, 3),
            Self::AttributeFlags { .. } => (UPDATE, 4),
            Self::AttributeLength { .. } => (UPDATE, 5),
            Self::Origin(_) => (UPDATE, 6),
            Self::NextHop(_) => (UPDATE, 8),
            Self::Unexpected(_)
            | Self::MpTooShort(_)
            | Self::MpNextHopLength { .. }
            | Self::Family { .. } => (UPDATE, 9),
            Self::PrefixLength { .. } | Self::PrefixOverrun => (UPDATE, 10),
            Self::AsPathSegment(_)
            | Self::AsPathEmptySegment
            | Self::AsPathOverrun
            | Self::AsPathZero
            | Self::AsPathConfed
            | Self::As4PathConfed => (UPDATE, 11),
            Self::RefreshLength(_) => (ROUTE_REFRESH, 1),
            Self::RefreshSubtype(_) => (ROUTE_REFRESH, 0),
        }
    }
}

/// The errors of one message while it is being decoded.
#[derive(Debug, Default)]
pub(super) struct Errors {
    list: Vec<(WireError, Range<usize>)>,
}

impl Errors {
    /// Whether the first attribute with this type code is in error.
    pub(super) fn has(&self, code: u8) -> bool {
        self.list.iter().any(|(e, _)| e.is_of_first(code))
    }

    /// How many errors there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Notes an error at `offset`. `data` is what of the message a NOTIFICATION should carry.
    pub(super) fn push(
        &mut self,
        action: Action,
        reason: Reason,
        attribute: Option<u8>,
        offset: usize,
        data: Range<usize>,
    ) {
        self.insert(None, action, reason, attribute, offset, data);
    }

    /// The same, at a position of the list instead of its end.
    pub(super) fn insert(
        &mut self,
        position: Option<usize>,
        action: Action,
        reason: Reason,
        attribute: Option<u8>,
        offset: usize,
        data: Range<usize>,
    ) {
        let (mut code, mut subcode) = reason.codes();
        // RFC 4760 section 7: errors inside MP attributes are Optional Attribute Errors, whatever they are.
        if matches!(attribute, Some(code::attribute::MP_REACH | code::attribute::MP_UNREACH))
            && matches!(reason, Reason::PrefixLength { .. } | Reason::PrefixOverrun | Reason::NextHop(_))
            // AS 0 in an aggregator is no fault of the AS path.
            || matches!(attribute, Some(code::attribute::AGGREGATOR | code::attribute::AS4_AGGREGATOR))
                && reason == Reason::AsPathZero
        {
            (code, subcode) = (code::error::UPDATE, 9);
        }
        let error = WireError { action, code, subcode, attribute, reason, offset, data: Bytes::new() };
        let position = position.unwrap_or(self.list.len()).min(self.list.len());
        self.list.insert(position, (error, data));
    }

    pub(super) fn disposition(&self) -> Disposition {
        self.list.iter().map(|(e, _)| Disposition::from(e.action)).max().unwrap_or_default()
    }

    /// RFC 7606 section 5.2: without reachable prefixes nothing can be treated as withdrawn.
    pub(super) fn escalate_withdraw(&mut self) {
        for (error, _) in &mut self.list {
            if error.action == Action::Withdraw {
                error.action = Action::Reset;
            }
        }
    }

    /// The errors, with the data of those that end the session taken from `message`.
    pub(super) fn finish(self, message: &[u8]) -> Vec<WireError> {
        let finish_one = |(mut error, data): (WireError, Range<usize>)| {
            if error.action == Action::Reset {
                error.data = match error.reason {
                    // RFC 4271 section 6.2: the largest supported version, as two octets.
                    Reason::Version(_) => Bytes::from_static(&[0, 4]),
                    Reason::MissingAttribute(code) => Bytes::copy_from_slice(&[code]),
                    _ => Bytes::copy_from_slice(message.get(data).unwrap_or_default()),
                };
            }
            error
        };
        self.list.into_iter().map(finish_one).collect()
    }
}
