//! `slash32 metrics`.

use serde_json::{Map, Value, json};

use super::Global;
use crate::api::Request;

/// The page as Prometheus reads it, or with `--json` a list of metrics with their samples.
pub(super) fn run(global: &Global) -> anyhow::Result<()> {
    let page = global.call(&Request::Metrics)?;
    let page = page.as_str().unwrap_or_default();
    global.print(&json(page), |_| page.trim_end().to_owned());
    Ok(())
}

/// `[{"name": …, "type": …, "help": …, "samples": [{"labels": {…}, "value": …}]}]`, in the order of the page.
fn json(page: &str) -> Value {
    let mut metrics: Vec<Value> = Vec::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            metrics.push(json!({ "name": name, "type": "untyped", "help": help, "samples": [] }));
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            if let Some(metric) = metrics.last_mut() {
                metric["type"] = kind.into();
            }
        } else if let (Some(sample), Some(metric)) = (sample(line), metrics.last_mut())
            && let Some(samples) = metric["samples"].as_array_mut()
        {
            samples.push(sample);
        }
    }
    metrics.into()
}

/// `name{key="value",…} number`.
fn sample(line: &str) -> Option<Value> {
    let (head, number) = line.rsplit_once(' ')?;
    let value: Value =
        number.parse::<u64>().map(Value::from).or_else(|_| number.parse::<f64>().map(Value::from)).ok()?;
    let mut labels = Map::new();
    if let Some((_, inside)) = head.split_once('{') {
        let mut rest = inside.strip_suffix('}')?;
        while !rest.is_empty() {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value.into());
            rest = after.strip_prefix(',').unwrap_or(after);
        }
    }
    Some(json!({ "labels": labels, "value": value }))
}

/// A label's value up to its closing quote, without escapes, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_as_json() {
        let page = "# HELP a_total Some, with words.\n# TYPE a_total counter\na_total 3\n\
                    # HELP b Of peers.\n# TYPE b gauge\n\
                    b{peer=\"192.0.2.1\",why=\"a \\\"b\\\", c\\\\d\\ne} f\"} 0.5\nb{peer=\"2001:db8::1\"} 1\n";
        let expected = json!([
            { "name": "a_total", "type": "counter", "help": "Some, with words.", "samples": [{ "labels": {}, "value": 3 }] },
            { "name": "b", "type": "gauge", "help": "Of peers.", "samples": [
                { "labels": { "peer": "192.0.2.1", "why": "a \"b\", c\\d\ne} f" }, "value": 0.5 },
                { "labels": { "peer": "2001:db8::1" }, "value": 1 },
            ] },
        ]);
        assert_eq!(json(page), expected);
    }
}
