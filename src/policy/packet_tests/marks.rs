//! Stamps under other masks of the connection mark.

use super::lab::{Lab, V4, V6, Who::C};
use crate::policy::{
    Enforcer,
    nft::{DEFAULT_MARK_MASK, Settings},
};

const CLIENT: usize = 0;
const SERVER: usize = 1;

fn rules(port: u16) -> String {
    format!(
        "[[policy]]\nname='p'\nselect='role == \"server\"'\ningress=[{{action='allow', protocol=['tcp', 'udp'], ports={port}}}]\n"
    )
}

#[test]
fn another_mask_moves_stamps_and_cuts_nothing_that_is_allowed() {
    let mut lab = Lab::new(2);
    lab.know(CLIENT, &[]);
    lab.know(SERVER, &[("role", "server")]);
    lab.policies("");
    let mut allowed: Vec<_> = [V4, V6].map(|v6| lab.talk_to(C(CLIENT), C(SERVER), v6, 80)).into();
    let mut chats: Vec<_> = [V4, V6].map(|v6| lab.chat(C(CLIENT), C(SERVER), v6, 80)).into();
    let mut cut: Vec<_> = [V4, V6].map(|v6| lab.chat(C(CLIENT), C(SERVER), v6, 8080)).into();
    for chat in chats.iter_mut().chain(&mut cut) {
        assert!(chat.works(true));
    }
    lab.policies(&rules(80));
    for mask in [0x00ff_ff00, 0xffff_0000, 0x0000_ffff, u32::MAX, DEFAULT_MARK_MASK] {
        assert!(lab.enforcer.driver().set_mark_mask(mask).unwrap());
        assert!(!lab.enforcer.driver().set_mark_mask(mask).unwrap(), "it is the same");
        lab.enforcer.reload().unwrap();
        assert!(allowed.iter_mut().all(|talk| talk.works(true)), "{mask:#x}");
        assert!(chats.iter_mut().all(|chat| chat.works(true)), "{mask:#x}");
        assert!(!cut.iter_mut().any(|chat| chat.works(false)), "{mask:#x}");
        assert_eq!(lab.enforcer.repair().unwrap(), [], "{mask:#x}");
        // Stamped, and not judged packet by packet.
        let judged = |lab: &mut Lab| -> u64 {
            let counters = lab.enforcer.driver().counters().unwrap();
            counters.iter().filter(|c| c.comment.contains("p ingress 1")).map(|c| c.packets).sum()
        };
        let before = judged(&mut lab);
        assert!(chats.iter_mut().all(|chat| chat.works(true)));
        assert_eq!(judged(&mut lab), before, "{mask:#x}");
        // A revocation under the new mask is one.
        lab.policies(&rules(443));
        assert!(!chats.iter_mut().any(|chat| chat.works(false)), "{mask:#x}");
        lab.policies(&rules(80));
        assert!(chats.iter_mut().all(|chat| chat.works(true)), "{mask:#x}");
    }
    assert!(lab.enforcer.driver().set_mark_mask(0x7f).is_err());
}

/// A new process with another mask finds the table of the one before, whose rules look the same otherwise.
#[test]
fn a_process_with_another_mask_takes_the_table_over() {
    let mut lab = Lab::new(2);
    lab.know(CLIENT, &[]);
    lab.know(SERVER, &[("role", "server")]);
    lab.policies(&rules(80));
    let mut chats = [V4, V6].map(|v6| lab.chat(C(CLIENT), C(SERVER), v6, 80));
    assert!(chats.iter_mut().all(|chat| chat.works(true)));
    let settings = Settings { mark_mask: 0x00ff_ff00, ..Settings::default() };
    let config = lab.enforcer.engine().config().clone();
    let engine = lab.enforcer.engine().compiled();
    let mut next = lab.host.run(|| Enforcer::open(config, settings).unwrap());
    assert!(next.driver().found());
    assert!(!next.driver().take_over(&engine).unwrap(), "the masks differ");
    assert_eq!(next.driver().differences(&engine).unwrap(), []);
    assert!(chats.iter_mut().all(|chat| chat.works(true)));
    let text =
        lab.host.run(|| crate::policy::nft::tests::nft(&["list", "chain", "inet", "slash32", "forward"], ""));
    assert!(text.unwrap().contains("0x00ffff00"));
    assert!(
        !lab.host
            .run(|| Enforcer::open(super::lab::config(), Settings::default()).unwrap())
            .driver()
            .take_over(&engine)
            .unwrap()
    );
}
