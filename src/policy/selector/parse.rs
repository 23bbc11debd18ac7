//! The selector grammar, by recursive descent.
//!
//! ```text
//! or    = and { "||" and }
//! and   = unary { "&&" unary }
//! unary = "!" unary | "(" or ")" | "all()" | "has(" key ")" | key test
//! test  = ("==" | "!=") text | ["not"] "in" "{" [ text { "," text } [ "," ] ] "}"
//!       | ("contains" | "starts with" | "ends with") text
//! text  = "…" | '…'
//! ```

use super::{Selector, TextOp};

/// Nesting beyond this is refused, so that a hostile file cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

/// Why a text is not a selector, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    /// The byte offset in the selector's text.
    pub at: usize,
    /// What is wrong there.
    pub message: String,
}

pub(super) fn parse(text: &str, global: bool) -> Result<Selector, SelectorError> {
    let mut parser = Parser { text, at: 0, depth: 0, global };
    let selector = parser.or()?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.error("expected `&&`, `||` or the end of the selector"));
    }
    Ok(selector)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Whether `global()` is allowed.
    global: bool,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Selector, SelectorError> {
        let mut parts = vec![self.and()?];
        while self.eat("||") {
            parts.push(self.and()?);
        }
        Ok(Selector::or(parts))
    }

    fn and(&mut self) -> Result<Selector, SelectorError> {
        let mut parts = vec![self.unary()?];
        while self.eat("&&") {
            parts.push(self.unary()?);
        }
        Ok(Selector::and(parts))
    }

    fn unary(&mut self) -> Result<Selector, SelectorError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error("the selector is nested too deeply"));
        }
        self.depth += 1;
        let result = if self.eat("!") {
            self.unary().map(Selector::not)
        } else if self.eat("(") {
            let inner = self.or();
            inner.and_then(|i| self.expect(")").map(|()| i))
        } else {
            self.test()
        };
        self.depth -= 1;
        result
    }

    fn test(&mut self) -> Result<Selector, SelectorError> {
        let start = self.at;
        let key = self.word();
        if key.is_empty() {
            return Err(self.error("expected a label key, `has(key)`, `all()`, `!` or `(`"));
        }
        // `all` and `has` are also fine label keys: only the parenthesis makes them functions.
        if key == "all" && self.eat("(") {
            self.expect(")")?;
            // All namespaces: what is in none is not among them.
            let global = Selector::Has(Selector::GLOBAL.to_owned());
            return Ok(if self.global { global.not() } else { Selector::All });
        }
        if key == "global" && self.eat("(") {
            self.expect(")")?;
            if self.global {
                return Ok(Selector::Has(Selector::GLOBAL.to_owned()));
            }
            return Err(self.error_at(start, "`global()` only makes sense in a `namespaceSelector`"));
        }
        if key == "has" && self.eat("(") {
            let key = self.word();
            if key.is_empty() {
                return Err(self.error("expected a label key"));
            }
            let key = key.to_owned();
            self.expect(")")?;
            return Ok(Selector::Has(key));
        }
        let key = key.to_owned();
        if self.eat("==") {
            return Ok(Selector::equals(key, self.quoted()?));
        }
        if self.eat("!=") {
            return Ok(Selector::equals(key, self.quoted()?).not());
        }
        let operator_at = self.at;
        match self.word() {
            "in" => Ok(Selector::any_value(key, self.list()?)),
            // Calico's grammar has these as one word too.
            "notin" => Ok(Selector::any_value(key, self.list()?).not()),
            "startswith" => Ok(Selector::Text(key, TextOp::StartsWith, self.quoted()?)),
            "endswith" => Ok(Selector::Text(key, TextOp::EndsWith, self.quoted()?)),
            "not" => {
                if self.word() == "in" {
                    Ok(Selector::any_value(key, self.list()?).not())
                } else {
                    Err(self.error_at(operator_at, "expected `not in {…}`"))
                }
            }
            "contains" => Ok(Selector::Text(key, TextOp::Contains, self.quoted()?)),
            word @ ("starts" | "ends") => {
                let op = if word == "starts" { TextOp::StartsWith } else { TextOp::EndsWith };
                if self.word() != "with" {
                    return Err(self.error_at(operator_at, &format!("expected `{} \"…\"`", op.as_str())));
                }
                Ok(Selector::Text(key, op, self.quoted()?))
            }
            "" if self.rest().starts_with('=') => {
                Err(self.error("`=` is not an operator: write `==` to compare"))
            }
            _ => {
                let at = if operator_at < self.text.len() { operator_at } else { start };
                Err(self.error_at(
                    self.skip_space_from(at),
                    &format!(
                        "expected `==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with` after `{key}`"
                    ),
                ))
            }
        }
    }

    fn list(&mut self) -> Result<Vec<String>, SelectorError> {
        self.expect("{")?;
        let mut values = Vec::new();
        if self.eat("}") {
            return Ok(values);
        }
        loop {
            values.push(self.quoted()?);
            if self.eat("}") {
                return Ok(values);
            }
            self.expect(",")?;
            if self.eat("}") {
                return Ok(values);
            }
        }
    }

    fn quoted(&mut self) -> Result<String, SelectorError> {
        self.space();
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.error("expected a value in quotes"));
        };
        let inner = rest.get(1..).unwrap_or_default();
        let Some(end) = inner.find(quote) else {
            return Err(self.error("the quote is not closed"));
        };
        self.at += end + 2;
        Ok(inner.get(..end).unwrap_or_default().to_owned())
    }

    /// The next run of key characters, perhaps empty.
    fn word(&mut self) -> &'a str {
        self.space();
        let rest = self.rest();
        let key_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let end = rest.find(|c| !key_char(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        // `!` must not swallow the first half of `!=`; a key always comes before that one.
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), SelectorError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(&format!("expected `{token}`"))) }
    }

    fn space(&mut self) {
        self.at = self.skip_space_from(self.at);
    }

    fn skip_space_from(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        at + (rest.len() - rest.trim_start().len())
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn error(&self, message: &str) -> SelectorError {
        self.error_at(self.skip_space_from(self.at), message)
    }

    #[expect(clippy::unused_self, reason = "reads like `error`")]
    fn error_at(&self, at: usize, message: &str) -> SelectorError {
        SelectorError { at, message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_at_the_place() {
        for (text, at, part) in [
            ("", 0, "expected a label key"),
            ("role", 0, "expected `==`"),
            ("role = 'x'", 5, "write `==`"),
            ("role ~ 'x'", 5, "expected `==`"),
            ("role == x", 8, "value in quotes"),
            ("role == 'x", 8, "not closed"),
            ("role == 'x' role", 12, "the end"),
            ("(has(a)", 7, "expected `)`"),
            ("a in {'x' 'y'}", 10, "expected `,`"),
            ("a not 'x'", 2, "not in"),
            ("a starts 'x'", 2, "starts with"),
            ("has()", 4, "label key"),
            ("é == 'x'", 0, "label key"),
            ("a in {,}", 6, "value in quotes"),
        ] {
            let error = parse(text, false).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error}");
            assert_eq!(error.at, at, "{text}: {error}");
        }
        for (text, same) in [
            ("a in {'x',}", "a in {'x'}"),
            ("a notin {'x'}", "a not in {'x'}"),
            ("a startswith 'x' || a endswith 'y'", "a starts with 'x' || a ends with 'y'"),
        ] {
            assert_eq!(parse(text, false), parse(same, false), "{text}");
        }
        let deep = format!("{}has(a){}", "(".repeat(1000), ")".repeat(1000));
        assert!(parse(&deep, false).unwrap_err().message.contains("deeply"));
        assert!(parse(&"!".repeat(100_000), false).is_err());
        // Many conditions beside each other are not nested.
        let wide = vec!["!(has(a))"; 1000].join(" && ");
        assert_eq!(parse(&wide, false).unwrap().to_string(), "!has(a)");
    }
}
