//! Strings with nginx's variables: `"$host:$server_port"`, `"${scheme}://$host"`.
//!
//! A variable is `$name` or `${name}`, its name letters, digits and `_`. `$$` is a dollar sign, which nginx cannot
//! write. Parsing happens when the configuration is loaded; expanding appends to a buffer and allocates nothing else.

mod variable;

use std::sync::Arc;

pub use variable::{Scope, VARIABLES, Var, Variable};

/// A parsed template; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    parts: Arc<[Part]>,
}

/// One piece of a template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// Copied as it is; never empty, and never next to another text.
    Text(Box<str>),
    /// Replaced.
    Var(Var),
}

/// Why a template could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Byte offset in the text of the `$` that is wrong.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// Where values come from.
pub trait Variables {
    /// Appends the value of `var`; false (and nothing appended) when it has none.
    fn write(&self, var: &Var, out: &mut Vec<u8>) -> bool;
}

impl Template {
    /// Parses `text`; every variable is accepted, see [`Template::parse_for`].
    ///
    /// # Errors
    /// An unknown variable, an unfinished `${`, or a `$` that starts no name.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Self::parse_for(text, Scope::Log)
    }

    /// Parses `text`, which will be expanded at the moment `scope`.
    ///
    /// # Errors
    /// As [`Template::parse`], and a variable that has its value only later.
    pub fn parse_for(text: &str, scope: Scope) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            literal.push_str(&rest[..dollar]);
            let offset = text.len() - rest.len() + dollar;
            let after = &rest[dollar + 1..];
            if let Some(after) = after.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let (name, after) = split_name(after).map_err(|message| dollar_error(offset, message))?;
            let var = Var::parse(name).ok_or_else(|| unknown(offset, name))?;
            if var.scope() > scope {
                return Err(too_early(offset, name, &var));
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Var(var));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The text, when there is no variable in it.
    pub fn as_constant(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The earliest moment at which every variable in it has its value.
    pub fn scope(&self) -> Scope {
        let scopes = self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Var(var) => Some(var.scope()),
        });
        scopes.max().unwrap_or(Scope::Request)
    }

    /// Appends the text with all variables replaced; one without a value is replaced by nothing.
    pub fn expand(&self, vars: &dyn Variables, out: &mut Vec<u8>) {
        for part in &*self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Var(var) => {
                    vars.write(var, out);
                }
            }
        }
    }
}

impl std::fmt::Display for TemplateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TemplateError {}

/// Splits what follows a `$` into the name and the rest of the text.
fn split_name(after: &str) -> Result<(&str, &str), &'static str> {
    let braced = after.strip_prefix('{');
    let text = braced.unwrap_or(after);
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = match braced {
        Some(_) => rest.strip_prefix('}').ok_or("a variable's `${` has no `}` after its name")?,
        None => rest,
    };
    if name.is_empty() { Err("no variable name after `$`") } else { Ok((name, rest)) }
}

fn dollar_error(offset: usize, message: &str) -> TemplateError {
    TemplateError { offset, message: message.into(), help: Some("write `$$` for a dollar sign".into()) }
}

fn unknown(offset: usize, name: &str) -> TemplateError {
    let help = if name.bytes().all(|b| b.is_ascii_digit()) {
        Some("captures of regular expressions cannot be used; write `$$` for a dollar sign".into())
    } else {
        variable::nearest(name).map(|near| format!("did you mean `${near}`?"))
    };
    TemplateError { offset, message: format!("unknown variable `${name}`"), help }
}

fn too_early(offset: usize, name: &str, var: &Var) -> TemplateError {
    let when = match var.scope() {
        Scope::Request | Scope::Response => "once there is a response",
        Scope::Log => "once the exchange is over",
    };
    TemplateError { offset, message: format!("`${name}` has a value only {when}, too late for this place"), help: None }
}

#[cfg(test)]
mod tests;
