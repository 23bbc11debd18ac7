//! Every crate in Cargo.lock has a licence that deny.toml allows, wherever cargo-deny itself is not installed.

use std::process::Command;

/// Whether an SPDX expression (also with the old `/` for `OR`) can be met with licences of the list alone.
fn allowed(expression: &str, list: &[String]) -> bool {
    let expression = expression.trim();
    if let Some((either, or)) = split(expression, &[" OR ", "/"]) {
        return allowed(either, list) || allowed(or, list);
    }
    if let Some((this, and)) = split(expression, &[" AND "]) {
        return allowed(this, list) && allowed(and, list);
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => allowed(inner, list),
        None => list.iter().any(|known| known == expression),
    }
}

/// The two sides of the first of these operators outside of parentheses.
fn split<'a>(expression: &'a str, operators: &[&str]) -> Option<(&'a str, &'a str)> {
    let mut depth = 0;
    for (at, letter) in expression.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth > 0 => {}
            _ => {
                let rest = &expression[at..];
                if let Some(operator) = operators.iter().find(|operator| rest.starts_with(**operator)) {
                    return Some((&expression[..at], &rest[operator.len()..]));
                }
            }
        }
    }
    None
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let list = ["MIT".to_string(), "Unicode-3.0".to_string()];
    for yes in
        ["MIT", "MIT OR GPL-3.0", "GPL-2.0/MIT", "(MIT OR Apache-2.0) AND Unicode-3.0", "(GPL-2.0 OR (MIT))"]
    {
        assert!(allowed(yes, &list), "{yes}");
    }
    for no in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-2.0", "", "MITX"] {
        assert!(!allowed(no, &list), "{no}");
    }
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let root = env!("CARGO_MANIFEST_DIR");
    let rules: toml::Table = std::fs::read_to_string(format!("{root}/deny.toml")).unwrap().parse().unwrap();
    let list: Vec<String> = rules["licenses"]["allow"].clone().try_into().unwrap();
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
            "--manifest-path",
        ])
        .arg(format!("{root}/Cargo.toml"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "cargo metadata names only {} packages", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !allowed(package["license"].as_str().unwrap_or(""), &list))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "licences that deny.toml does not allow:\n{}", refused.join("\n"));
}
