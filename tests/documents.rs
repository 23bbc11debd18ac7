//! What documents name exists.

use std::{fs, path::Path};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a file has a test of this name: one whose `fn` follows a `#[test]`, or is in a list of properties.
fn has_test(text: &str, name: &str) -> bool {
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            if marked && rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('(')) {
                return true;
            }
            marked = false;
        }
    }
    false
}

/// The `path::name` in backticks, and the cases.
fn named(document: &str) -> (Vec<(String, String)>, Vec<String>) {
    let (mut tests, mut cases) = (Vec::new(), Vec::new());
    for row in document.lines().filter(|line| line.starts_with("| ")) {
        for part in row.split('`').skip(1).step_by(2) {
            if let Some((path, name)) = part.split_once(".rs::") {
                tests.push((format!("{path}.rs"), name.to_owned()));
            }
        }
        let cells = row.split([',', '|']).map(str::trim);
        cases.extend(cells.filter_map(|cell| cell.strip_prefix("case ")).map(str::to_owned));
    }
    (tests, cases)
}

#[test]
fn tests_that_the_conformance_table_names_exist() {
    let document = read("docs/bgp-conformance.md");
    let results = read("interop-tests/RESULTS.md");
    let (tests, cases) = named(&document);
    assert!(tests.len() > 80 && cases.len() > 15, "{} tests and {} cases", tests.len(), cases.len());
    let mut missing = Vec::new();
    for (path, name) in tests {
        let whole = ["src/", "tests/", "interop-tests/"].iter().any(|top| path.starts_with(top));
        let path = if whole { path } else { format!("src/bgp/{path}") };
        if !has_test(&read(&path), &name) {
            missing.push(format!("{path}::{name}"));
        }
    }
    missing.extend(cases.into_iter().filter(|case| !results.contains(&format!("| [{case}]("))));
    assert!(missing.is_empty(), "named in docs/bgp-conformance.md and not there: {missing:#?}");
}

#[test]
fn alerts_are_about_metrics_that_exist() {
    let (alerts, document) = (read("config/examples/alerts.yaml"), read("docs/metrics.md"));
    let names: Vec<&str> = alerts
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| word.starts_with("slash32_"))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(document.contains(&format!("| `{name}` | ")), "docs/metrics.md does not have {name}");
    }
}

#[test]
fn the_check_sees_what_it_looks_for() {
    let text = "#[test]\nfn there() {}\nfn helper() {}\n    #[test]\n    /// doc\n    fn inside() {}\n";
    assert!(has_test(text, "there") && has_test(text, "inside"));
    assert!(!has_test(text, "helper") && !has_test(text, "the"));
    let (tests, cases) = named("| a | `x/y.rs::z`, case md5 |\nno row `a.rs::b`\n");
    assert_eq!((tests, cases), (vec![("x/y.rs".into(), "z".into())], vec!["md5".to_owned()]));
}
