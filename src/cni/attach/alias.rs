//! The alias of a host end: whose it is, for people and for an agent that has lost its files.
//!
//! ```text
//! slash32:NETWORK/CONTAINER/IFNAME anycast [KEY=VALUE,KEY=VALUE]
//! ```
//!
//! `anycast` is there if the endpoint is, and the labels are when all of it fits; `[]` says that there are none. Before
//! both were added the alias ended with the name: nothing is told of labels then. In values `%`, `,` and what is not
//! printable ASCII is written as `%` and two hexadecimal digits.
//!
//! The kernel has room for 254 bytes. Of a name that does not fit the beginning is there, and nothing else.

use std::fmt::Write;

use super::ALIAS_PREFIX;
use crate::{
    cni::{
        attachment::Attachment,
        types::{CniError, names},
    },
    model::{EndpointId, EndpointKey, Labels},
};

/// The longest alias the kernel takes: with the final zero it may have one byte less than `IFALIASZ` (256).
const IFALIAS_MAX: usize = 254;

const ANYCAST: &str = "anycast";

/// What an alias tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose the host end is; `?` for what is not told, or cannot be.
    pub key: EndpointKey,
    /// Whether it says that others have the addresses too.
    pub anycast: bool,
    /// The labels, if it tells them.
    pub labels: Option<Labels>,
}

/// The alias of an attachment's host end.
pub fn of(attachment: &Attachment) -> String {
    let mut text = name_alone(attachment);
    let labels = (!attachment.lacks_labels()).then(|| written(&attachment.endpoint.labels));
    for word in attachment.anycast.then(|| ANYCAST.to_owned()).into_iter().chain(labels) {
        if text.len() + 1 + word.len() > IFALIAS_MAX {
            break;
        }
        text.push(' ');
        text.push_str(&word);
    }
    text
}

/// The alias as it was before it told of labels.
fn name_alone(attachment: &Attachment) -> String {
    let mut text = format!("{ALIAS_PREFIX}{}", attachment.endpoint.key);
    let mut end = text.len().min(IFALIAS_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Whether an alias is the one of an attachment, or was under an agent that wrote the name alone: that is put right with
/// the next start, not by a repair of each.
pub(super) fn is_of(is: &str, attachment: &Attachment) -> bool {
    is == of(attachment) || is == name_alone(attachment)
}

/// Reads the alias of the host end of `id`; none if it is none of ours. What somebody else has written may be anything:
/// what is no name becomes `?`, and what belongs to another name than the interface's is not believed.
pub fn read(alias: &str, id: &EndpointId) -> Option<Told> {
    let text = alias.strip_prefix(ALIAS_PREFIX)?;
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut parts = name.splitn(3, '/');
    let mut part = |check: fn(&str) -> Result<(), CniError>| {
        parts.next().filter(|part| check(part).is_ok()).unwrap_or("?").to_owned()
    };
    let key = EndpointKey {
        network: part(names::network_name),
        container_id: part(names::container_id),
        ifname: part(names::ifname),
    };
    if EndpointId::of(&key) != *id {
        return Some(Told { key, anycast: false, labels: None });
    }
    let (words, labels) = match rest.find('[') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    Some(Told { key, anycast: words.split(' ').any(|word| word == ANYCAST), labels: parsed(labels) })
}

fn written(labels: &Labels) -> String {
    let mut text = String::from("[");
    for (i, (key, value)) in labels.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            if matches!(byte, b'%' | b',') || !(b' '..=b'~').contains(&byte) {
                // Writing to a string does not fail.
                let _ = write!(text, "%{byte:02x}");
            } else {
                text.push(char::from(byte));
            }
        }
    }
    text.push(']');
    text
}

/// The labels as [`written`]; none if this is anything else.
fn parsed(text: &str) -> Option<Labels> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    let mut labels = Labels::new();
    for label in inside.split(',').filter(|_| !inside.is_empty()) {
        let (key, value) = label.split_once('=')?;
        labels.insert(key, unescaped(value)?).ok()?;
    }
    // Neither twice, nor in another order, nor more than an endpoint may have.
    (labels.check_count().is_ok() && written(&labels) == text).then_some(labels)
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cni::attachment::tests::sample;

    fn labelled(network: &str, container: &str, labels: &[(String, String)]) -> Attachment {
        let mut attachment = sample(container, 1);
        let endpoint = &mut attachment.endpoint;
        endpoint.key.network = network.into();
        endpoint.id = EndpointId::of(&endpoint.key);
        endpoint.labels = Labels::new();
        for (key, value) in labels {
            endpoint.labels.insert(key, value).unwrap();
        }
        attachment
    }

    fn told(attachment: &Attachment) -> Told {
        read(&of(attachment), &attachment.endpoint.id).unwrap()
    }

    #[test]
    fn as_people_read_it() {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut web = labelled("net", "c1", &[label("role", "web"), label("env", "50% a,b é]")]);
        assert_eq!(of(&web), "slash32:net/c1/eth0 [env=50%25 a%2cb %c3%a9],role=web]");
        web.anycast = true;
        assert_eq!(of(&web), "slash32:net/c1/eth0 anycast [env=50%25 a%2cb %c3%a9],role=web]");
        assert_eq!(of(&labelled("net", "c1", &[])), "slash32:net/c1/eth0 []");
        let known = told(&web);
        assert_eq!((known.key, known.anycast), (web.endpoint.key.clone(), true));
        assert_eq!(known.labels.as_ref(), Some(&web.endpoint.labels));
        // Of one that was found without its labels nobody says that it has none.
        let mut lost = labelled("net", "c1", &[]);
        lost.rebuilt = true;
        assert_eq!(of(&lost), "slash32:net/c1/eth0");
        assert_eq!(told(&lost).labels, None);
        lost.labels_told = true;
        assert_eq!(told(&lost).labels, Some(Labels::new()));
        // Of an older agent's.
        assert!(is_of("slash32:net/c1/eth0", &web) && !is_of("slash32:net/c1/eth0 []", &web));
        let older = read("slash32:net/c1/eth0", &web.endpoint.id).unwrap();
        assert_eq!(older, Told { key: web.endpoint.key, anycast: false, labels: None });
    }

    #[test]
    fn what_does_not_fit_is_left_out_as_a_whole() {
        // 8 + 3 + 1 + 200 + 1 + 4 are of the name; the labels take `[k=]` and a space.
        let room = IFALIAS_MAX - 217 - 5;
        for (len, fits) in [(room, true), (room + 1, false)] {
            let long = [("k".to_owned(), "v".repeat(len))];
            let mut attachment = labelled("net", &"c".repeat(200), &long);
            assert_eq!(told(&attachment).labels.is_some(), fits);
            attachment.anycast = true;
            let known = told(&attachment);
            assert!(known.anycast && known.labels.is_none(), "{known:?}");
            assert!(of(&attachment).len() <= IFALIAS_MAX);
        }
        let long = labelled(&"n".repeat(255), &"c".repeat(255), &[]);
        assert_eq!(of(&long).len(), IFALIAS_MAX);
        let known = told(&long);
        assert_eq!((known.key.container_id.as_str(), known.labels), ("?", None));
        let mut rebuilt = long.clone();
        (rebuilt.rebuilt, rebuilt.endpoint.key) = (true, known.key);
        assert!(is_of(&of(&long), &rebuilt), "{}", of(&rebuilt));
    }

    #[test]
    fn what_others_write_is_not_believed() {
        let id = labelled("net", "c1", &[]).endpoint.id;
        for text in [
            "[role=web",
            "role=web]",
            "[role]",
            "[=x]",
            "[role=web,role=db]",
            "[role=web,env=x]",
            "[role=web,]",
            "[,]",
            "[role=%]",
            "[role=%4]",
            "[role=%zz]",
            "[role=%+1]",
            "[role=%ff]",
            "[role=%41]",
            "[role=%2C]",
            "[role=%0a]",
            "[role=web] ",
        ] {
            let told = read(&format!("slash32:net/c1/eth0 {text}"), &id).unwrap();
            assert_eq!(told.labels, None, "{text}");
        }
        // Of another name than the interface's, or without a name.
        for alias in ["slash32:net/c2/eth0 anycast [role=web]", "slash32: anycast []", "slash32:a b/../.. []"]
        {
            let told = read(alias, &id).unwrap();
            assert!(!told.anycast && told.labels.is_none(), "{alias}: {told:?}");
        }
        assert_eq!(read("slash32:../c1/a:b", &id).unwrap().key.to_string(), "?/c1/?");
        assert_eq!(read("other:net/c1/eth0", &id), None);
        // A word that is not known yet does no harm.
        let later = read("slash32:net/c1/eth0 anycast later [role=web]", &id).unwrap();
        assert!(later.anycast && later.labels.is_some());
    }

    proptest! {
        #[test]
        fn labels_come_back_or_are_not_told(
            pairs in prop::collection::btree_map("[a-zA-Z0-9._/-]{1,20}", "[^\\p{C}\"\\\\]{0,30}", 0..8),
            anycast: bool,
            container in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,230}",
        ) {
            let pairs: Vec<_> = pairs.into_iter().collect();
            let attachment = Attachment { anycast, ..labelled("net", &container, &pairs) };
            let alias = of(&attachment);
            prop_assert!(alias.len() <= IFALIAS_MAX && is_of(&alias, &attachment));
            let told = read(&alias, &attachment.endpoint.id).unwrap();
            let whole = format!("{} {}", name_alone(&attachment), written(&attachment.endpoint.labels));
            let room = whole.len() + if anycast { 1 + ANYCAST.len() } else { 0 } <= IFALIAS_MAX;
            prop_assert_eq!(told.labels, room.then(|| attachment.endpoint.labels.clone()));
            prop_assert!(told.anycast == anycast || alias.len() + 1 + ANYCAST.len() > IFALIAS_MAX);
        }

        #[test]
        fn anything_can_be_read(text in "\\PC{0,80}", words in "[a%,=\\[\\] c0]{0,30}") {
            let id = labelled("net", "c1", &[]).endpoint.id;
            for alias in [format!("{ALIAS_PREFIX}{text}"), format!("slash32:net/c1/eth0 {words}"), text.clone()] {
                let labels = read(&alias, &id).and_then(|told| told.labels);
                prop_assert!(labels.is_none_or(|labels| alias.ends_with(&written(&labels))), "{}", alias);
            }
        }
    }
}
