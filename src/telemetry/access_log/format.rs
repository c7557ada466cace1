//! From an exchange to a line: every format is a row of pieces, texts and variables, made once.

use std::time::SystemTime;

use crate::config::model::LogFormat;
use crate::telemetry::clock::LogClock;
use crate::template::{Part, Template, Var, Variables};

/// A compiled format.
#[derive(Debug)]
pub(super) struct Format {
    pieces: Box<[Piece]>,
}

#[derive(Debug)]
enum Piece {
    Text(Box<[u8]>),
    Value(Var, Style),
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// As nginx: `"`, `\`, control and non-ASCII bytes as `\xHH`; `-` for none.
    Plain,
    /// Inside quotes that the template has, as nginx's `escape=json`; nothing for none.
    InJsonString,
    /// A JSON string with its quotes; `null` for none.
    JsonString,
    /// A JSON number, or a string when it is not one; `null` for none.
    JsonNumber,
}

const COMMON: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent"#;
const COMBINED: &str = r#" "$http_referer" "$http_user_agent""#;
const DETAILED: &str = " server=$pool/$server tries=$tries queue=$queue_time connect=$upstream_connect_time \
    first_byte=$upstream_header_time total=$request_time id=$request_id local_port=$upstream_local_port reason=$reason";

/// Fields of the JSON format, each with the name of its variable.
const JSON: &[(&str, Style)] = &[
    ("time_iso8601", Style::JsonString),
    ("listener", Style::JsonString),
    ("site", Style::JsonString),
    ("route", Style::JsonString),
    ("pool", Style::JsonString),
    ("server", Style::JsonString),
    ("remote_addr", Style::JsonString),
    ("remote_user", Style::JsonString),
    ("scheme", Style::JsonString),
    ("host", Style::JsonString),
    ("request_method", Style::JsonString),
    ("request_uri", Style::JsonString),
    ("server_protocol", Style::JsonString),
    ("status", Style::JsonNumber),
    ("request_length", Style::JsonNumber),
    ("bytes_sent", Style::JsonNumber),
    ("body_bytes_sent", Style::JsonNumber),
    ("http_referer", Style::JsonString),
    ("http_user_agent", Style::JsonString),
    ("tries", Style::JsonNumber),
    ("upstream_addr", Style::JsonString),
    ("upstream_status", Style::JsonString),
    ("upstream_connect_time", Style::JsonString),
    ("upstream_header_time", Style::JsonString),
    ("upstream_response_time", Style::JsonString),
    ("upstream_local_port", Style::JsonNumber),
    ("queue_time", Style::JsonNumber),
    ("request_time", Style::JsonNumber),
    ("request_id", Style::JsonString),
    ("reason", Style::JsonString),
];

impl Format {
    pub(super) fn new(format: &LogFormat) -> Self {
        let builtin = |text: &str| Self::of_template(&Template::parse(text).expect("invariant: a tested constant"));
        match format {
            LogFormat::Common => builtin(COMMON),
            LogFormat::Combined => builtin(&[COMMON, COMBINED].concat()),
            LogFormat::Detailed => builtin(&[COMMON, COMBINED, DETAILED].concat()),
            LogFormat::Json => Self::json(),
            LogFormat::Template(template) => Self::of_template(template),
        }
    }

    /// A template that starts with `{` is taken for JSON: any other escaping would make what no JSON parser reads.
    fn of_template(template: &Template) -> Self {
        let style = match template.parts().first() {
            Some(Part::Text(text)) if text.starts_with('{') => Style::InJsonString,
            _ => Style::Plain,
        };
        let pieces = template.parts().iter().map(|part| match part {
            Part::Text(text) => Piece::Text(text.as_bytes().into()),
            Part::Var(var) => Piece::Value(var.clone(), style),
        });
        Self { pieces: pieces.collect() }
    }

    fn json() -> Self {
        let mut pieces = Vec::new();
        for (i, (name, style)) in JSON.iter().enumerate() {
            let before = if i == 0 { "{" } else { "," };
            pieces.push(Piece::Text(format!("{before}\"{name}\":").into_bytes().into()));
            let var = Var::parse(name).expect("invariant: a tested constant");
            pieces.push(Piece::Value(var, *style));
        }
        pieces.push(Piece::Text(b"}".as_slice().into()));
        Self { pieces: pieces.into() }
    }

    /// Whether a piece is a field of the server's response.
    pub(super) fn uses_upstream_fields(&self) -> bool {
        self.pieces.iter().any(|p| matches!(p, Piece::Value(Var::UpstreamHttp(_), _)))
    }

    /// Appends the line about `record`, without its end.
    pub(super) fn write(&self, record: &dyn Variables, clock: &LogClock, now: SystemTime, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Value(var, style) => {
                    let write = |out: &mut Vec<u8>| clock.write(var, now, out) || record.write(var, out);
                    style.write(write, out);
                }
            }
        }
    }
}

impl Style {
    fn write(self, write: impl FnOnce(&mut Vec<u8>) -> bool, out: &mut Vec<u8>) {
        let start = out.len();
        let quoted = self == Self::JsonString;
        if quoted {
            out.push(b'"');
        }
        let value = out.len();
        if !write(out) {
            out.truncate(start);
            out.extend_from_slice(self.missing());
            return;
        }
        match self {
            Self::Plain => escape(out, value, escape_plain),
            Self::InJsonString => escape(out, value, escape_json),
            Self::JsonString => {
                escape(out, value, escape_json);
                out.push(b'"');
            }
            Self::JsonNumber if is_json_number(&out[value..]) => {}
            Self::JsonNumber => {
                escape(out, value, escape_json);
                out.insert(value, b'"');
                out.push(b'"');
            }
        }
    }

    fn missing(self) -> &'static [u8] {
        match self {
            Self::Plain => b"-",
            Self::InJsonString => b"",
            Self::JsonString | Self::JsonNumber => b"null",
        }
    }
}

/// Escapes what follows `start`, when it has a byte that is not plain; most values have none.
fn escape(out: &mut Vec<u8>, start: usize, escaped: fn(&[u8], &mut Vec<u8>)) {
    // Looks at every byte even after one that is not plain: without a way out of the loop it is done many at a time.
    if !out[start..].iter().fold(true, |all, &byte| all & is_plain(byte)) {
        let value = out.split_off(start);
        escaped(&value, out);
    }
}

/// What nginx writes as it is, and JSON within a string too.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn escape_plain(value: &[u8], out: &mut Vec<u8>) {
    for &byte in value {
        if is_plain(byte) { out.push(byte) } else { push_hex(byte, out) }
    }
}

/// UTF-8 is kept; what is not UTF-8, which JSON cannot hold, becomes the text `\xHH`.
fn escape_json(value: &[u8], out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..b' ' => {
                    out.extend_from_slice(b"\\u00");
                    push_digits(byte, out);
                }
                _ => out.push(byte),
            }
        }
        for &byte in chunk.invalid() {
            out.push(b'\\');
            push_hex(byte, out);
        }
    }
}

fn push_hex(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    push_digits(byte, out);
}

fn push_digits(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Digits, or digits, a point and digits, without superfluous zeros in front (RFC 8259 section 6, the part we use).
fn is_json_number(value: &[u8]) -> bool {
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(point) => (&value[..point], Some(&value[point + 1..])),
        None => (value, None),
    };
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits(whole) && (whole.len() == 1 || whole[0] != b'0') && fraction.is_none_or(digits)
}

#[cfg(test)]
mod tests;
