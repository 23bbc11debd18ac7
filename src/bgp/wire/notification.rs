//! NOTIFICATION contents: names, shutdown text (RFC 9003), hard reset (RFC 8538).

use std::{borrow::Cow, fmt};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Notification,
    code::{self, cease, error},
};

impl Notification {
    /// A NOTIFICATION without data.
    pub const fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Bytes::new() }
    }

    /// A Cease with a text for the peer's operator (RFC 9003), for [`cease::SHUTDOWN`] and [`cease::RESET`].
    ///
    /// The text is cut at 255 octets, between characters.
    pub fn shutdown(subcode: u8, text: &str) -> Self {
        let mut data = BytesMut::new();
        if !text.is_empty() {
            let end = (0..=text.len().min(255)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            let text = &text[..end];
            data.put_u8(text.len() as u8);
            data.put_slice(text.as_bytes());
        }
        Self { code: error::CEASE, subcode, data: data.freeze() }
    }

    /// The same wrapped in a Cease/Hard Reset, which ends graceful restart too (RFC 8538 section 3).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        data.put_slice(&[self.code, self.subcode]);
        data.put_slice(&self.data);
        Self { code: error::CEASE, subcode: cease::HARD_RESET, data: data.freeze() }
    }

    /// Whether this is a Cease/Hard Reset.
    pub const fn is_hard_reset(&self) -> bool {
        self.code == error::CEASE && self.subcode == cease::HARD_RESET
    }

    /// What a Hard Reset wraps; `None` when this is none, or an empty one.
    pub fn hard_reset_cause(&self) -> Option<Self> {
        match *self.data {
            [code, subcode, ..] if self.is_hard_reset() => {
                Some(Self { code, subcode, data: self.data.slice(2..) })
            }
            _ => None,
        }
    }

    /// The operator's text of a shutdown or reset (RFC 9003), also inside a Hard Reset. Invalid UTF-8 is replaced.
    pub fn shutdown_text(&self) -> Option<Cow<'_, str>> {
        let (&length, text) = self.shutdown_data()?.split_first()?;
        let text = text.get(..usize::from(length))?;
        (!text.is_empty()).then(|| String::from_utf8_lossy(text))
    }

    /// Why the text of a shutdown or reset is malformed; `None` when it is not, or there is none.
    pub fn shutdown_error(&self) -> Option<&'static str> {
        let (&length, text) = self.shutdown_data()?.split_first()?;
        match text.split_at_checked(usize::from(length)) {
            None => Some("the text is shorter than its length"),
            Some((text, _)) if std::str::from_utf8(text).is_err() => Some("the text is not UTF-8"),
            Some((_, rest)) if !rest.is_empty() => Some("octets follow the text"),
            Some(_) => None,
        }
    }

    /// The data of a shutdown or reset, also inside a Hard Reset.
    fn shutdown_data(&self) -> Option<&[u8]> {
        let (code, subcode, data): (u8, u8, &[u8]) = match &*self.data {
            [code, subcode, rest @ ..] if self.is_hard_reset() => (*code, *subcode, rest),
            data => (self.code, self.subcode, data),
        };
        (code == error::CEASE && matches!(subcode, cease::SHUTDOWN | cease::RESET)).then_some(data)
    }
}

impl fmt::Display for Notification {
    /// `Cease/Administrative Shutdown "maintenance"`; numbers where there is no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(code::error_name(self.code))?;
        if code::error_name(self.code) == "Unknown Error" {
            write!(f, " {}", self.code)?;
        }
        match code::subcode_name(self.code, self.subcode) {
            Some(name) => write!(f, "/{name}")?,
            None if self.subcode != 0 => write!(f, "/{}", self.subcode)?,
            None => {}
        }
        match self.hard_reset_cause() {
            Some(cause) => write!(f, " ({cause})"),
            None => match self.shutdown_text() {
                Some(text) => write!(f, " {text:?}"),
                None => Ok(()),
            },
        }
    }
}
