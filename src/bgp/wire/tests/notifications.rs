//! NOTIFICATION texts.

use super::super::{code::cease, *};

#[test]
fn shutdown_text_and_hard_reset() {
    let n = Notification::shutdown(cease::SHUTDOWN, "moving rack, back at 12:00 — NOC");
    assert_eq!(n.shutdown_text().as_deref(), Some("moving rack, back at 12:00 — NOC"));
    let hard = n.clone().into_hard_reset();
    assert!(hard.is_hard_reset());
    assert_eq!(hard.shutdown_text(), n.shutdown_text());
    assert_eq!(hard.hard_reset_cause(), Some(n));
    assert_eq!(
        hard.to_string(),
        "Cease/Hard Reset (Cease/Administrative Shutdown \"moving rack, back at 12:00 — NOC\")"
    );
    // Cut between characters.
    let long = Notification::shutdown(cease::RESET, &"é".repeat(200));
    assert_eq!(long.data.len(), 1 + 254);
    assert_eq!(long.shutdown_text().map(|t| t.chars().count()), Some(127));
    // A length that lies, no text, another code.
    for (code, subcode, data) in
        [(6, 2, &[5, 65][..]), (6, 2, &[]), (6, 2, &[0]), (6, 3, &[1, 65]), (3, 2, &[1, 65])]
    {
        let n = Notification { code, subcode, data: data.to_vec().into() };
        assert_eq!(n.shutdown_text(), None);
    }
    assert_eq!(Notification::shutdown(cease::SHUTDOWN, "").data.len(), 0);
    assert_eq!(Notification::new(6, 9).hard_reset_cause(), None);
}

#[test]
fn names() {
    let name = |code, subcode| Notification::new(code, subcode).to_string();
    assert_eq!(name(1, 1), "Message Header Error/Connection Not Synchronized");
    assert_eq!(name(4, 0), "Hold Timer Expired");
    assert_eq!(name(6, 10), "Cease/BFD Down");
    assert_eq!(name(6, 77), "Cease/77");
    assert_eq!(name(99, 1), "Unknown Error 99/1");
}
