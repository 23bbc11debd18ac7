//! `slash32 endpoints [label]`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Global, Usage, print};
use crate::{api::Request, model::Labels};

#[derive(Debug, Args)]
pub(super) struct EndpointsArgs {
    #[command(subcommand)]
    command: Option<EndpointsCommand>,
}

#[derive(Debug, Subcommand)]
enum EndpointsCommand {
    /// Change labels of a running endpoint: `key=value` adds or replaces, `key-` removes.
    Label {
        /// Endpoint id, container id (or the beginning of one) or address.
        endpoint: String,
        /// `key=value` or `key-`.
        #[arg(required = true)]
        labels: Vec<String>,
    },
}

pub(super) fn run(global: &Global, args: EndpointsArgs) -> anyhow::Result<()> {
    match args.command {
        None => global.show(&Request::Endpoints, list),
        Some(EndpointsCommand::Label { endpoint, labels }) => {
            let (set, remove) = changes(&labels)?;
            global.show(&Request::Label { endpoint, set, remove }, |e| {
                format!("{} {}", print::field(e, "id"), print::field(e, "labels"))
            })
        }
    }
}

fn list(endpoints: &Value) -> String {
    let marked = |e: &Value| e["attention"].as_array().is_some_and(|list| !list.is_empty());
    let mut columns: Vec<print::Column<'_>> = vec![
        ("ID", |e| print::field(e, "id")),
        ("CONTAINER", |e| print::field(e, "container_id").chars().take(24).collect()),
        ("IF", |e| print::field(e, "ifname")),
        ("IPV4", |e| print::field(e, "ipv4")),
        ("IPV6", |e| print::field(e, "ipv6")),
        ("LABELS", |e| print::field(e, "labels")),
    ];
    if endpoints.as_array().into_iter().flatten().any(marked) {
        columns.push(("ATTENTION", |e| {
            let mut kinds: Vec<String> =
                e["attention"].as_array().into_iter().flatten().map(|a| print::field(a, "kind")).collect();
            kinds.dedup();
            if kinds.is_empty() { "-".to_owned() } else { kinds.join(",") }
        }));
    }
    print::table(endpoints, &columns, "no endpoints")
}

fn changes(words: &[String]) -> anyhow::Result<(Labels, Vec<String>)> {
    let (mut set, mut remove) = (Labels::new(), Vec::new());
    for word in words {
        match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => set.insert(key, value)?,
            (None, Some(key)) if !key.is_empty() => remove.push(key.to_owned()),
            _ => return Err(Usage(format!("`{word}` is neither `key=value` nor `key-`")).into()),
        }
    }
    Ok((set, remove))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_words() {
        let (set, remove) = changes(&["role=web".into(), "env-".into(), "a=b-".into()]).unwrap();
        assert_eq!((set.to_string().as_str(), remove), ("a=b-,role=web", vec!["env".to_owned()]));
        assert!(changes(&["role".into()]).is_err());
        assert!(changes(&["-".into()]).is_err());
    }
}
