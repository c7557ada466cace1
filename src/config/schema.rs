//! What the declarations of `raw` tell: the JSON schema for editors, the reference, and where a key belongs.

use serde_json::{Map, Value as Json, json};

use super::decode::{Decode, Key, Keys, Shape};
use super::document;
use super::merge::NOT_IN_NODES;
use super::raw::RawFile;

/// One key of the file, for a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDoc {
    /// Headers of the tables that have it, such as `[pool.NAME]`; the top level is empty.
    pub tables: Vec<String>,
    /// The key.
    pub key: &'static str,
    /// What its value is, in words.
    pub kind: String,
    /// As it would be written; `None`: none, or `doc` tells.
    pub default: Option<&'static str>,
    /// What it does.
    pub doc: &'static str,
}

/// Every key once, in the order of the declarations.
pub fn reference_rows() -> Vec<KeyDoc> {
    let mut rows: Vec<KeyDoc> = Vec::new();
    visit(RawFile::SHAPE, "", &mut |table, key| {
        let doc = key.doc.trim_start();
        match rows.iter_mut().find(|row| row.key == key.name && row.doc == doc) {
            Some(row) => row.tables.push(table.to_owned()),
            None => rows.push(KeyDoc {
                tables: vec![table.to_owned()],
                key: key.name,
                kind: kind(key.shape),
                default: key.default.filter(|_| !is_table(key.shape)),
                doc,
            }),
        }
    });
    rows
}

/// JSON schema (draft 2020-12) of the file.
pub fn schema() -> Json {
    let mut schema = json_schema(RawFile::SHAPE);
    if let Json::Object(schema) = &mut schema {
        schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".into(), json!("Bascule configuration"));
    }
    schema
}

/// Headers of the tables that have the key `name`.
pub(super) fn tables_with(name: &str) -> Vec<String> {
    let mut tables = Vec::new();
    visit(RawFile::SHAPE, "", &mut |table, key| {
        if key.name == name {
            tables.push(if table.is_empty() { "the top level of the file".into() } else { table.to_owned() });
        }
    });
    tables
}

/// Calls `f` with every key and the header of its table; what repeats another table is left out.
fn visit(shape: &'static Shape, path: &str, f: &mut impl FnMut(&str, &'static Key)) {
    visit_at(shape, path, false, f);
}

fn visit_at(shape: &'static Shape, path: &str, list: bool, f: &mut impl FnMut(&str, &'static Key)) {
    match shape {
        Shape::Table(groups) => {
            let header = match (path, list) {
                ("", _) => String::new(),
                (_, true) => format!("[[{path}]]"),
                (_, false) => format!("[{path}]"),
            };
            let keys = || groups.iter().copied().flatten();
            keys().for_each(|key| f(&header, key));
            for key in keys().filter(|key| !repeats(path, key.name)) {
                let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
                visit_at(key.shape, &path, false, f);
            }
        }
        Shape::Named(inner) => visit_at(inner, &format!("{path}.NAME"), false, f),
        Shape::List(inner) => visit_at(inner, path, true, f),
        Shape::OneOf(shapes) => shapes.iter().for_each(|shape| visit_at(shape, path, list, f)),
        Shape::File(own) => own.iter().for_each(|key| f(&format!("[{path}]"), key)),
        Shape::Boolean | Shape::Only(_) | Shape::Integer(..) | Shape::Text(..) | Shape::Choice(_) => {}
    }
}

/// Whether the table `key` of the table `path` has the same keys as one that is visited elsewhere.
fn repeats(path: &str, key: &str) -> bool {
    match key {
        "defaults" => path.is_empty(),
        "route" => path == "listener.NAME",
        "access_log" => !path.is_empty(),
        "request_headers" | "response_headers" | "error_pages" => path != "pool.NAME",
        _ => false,
    }
}

fn is_table(shape: &Shape) -> bool {
    matches!(shape, Shape::Table(_) | Shape::Named(_))
}

/// What a value is, in words.
fn kind(shape: &Shape) -> String {
    match shape {
        Shape::Boolean => "boolean".into(),
        Shape::Only(b) => b.to_string(),
        Shape::Integer(_, i64::MAX) => "integer".into(),
        Shape::Integer(from, to) => format!("{from} to {to}"),
        Shape::Text(holds, _) => (*holds).into(),
        Shape::Choice(names) => names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
        Shape::List(inner) => format!("list of {}", kind(inner)),
        Shape::Named(_) | Shape::Table(_) | Shape::File(_) => "table".into(),
        Shape::OneOf(shapes) => shapes.iter().map(|shape| kind(shape)).collect::<Vec<_>>().join(" or "),
    }
}

fn json_schema(shape: &Shape) -> Json {
    match shape {
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Only(b) => json!({ "const": b }),
        Shape::Integer(from, i64::MAX) => json!({ "type": "integer", "minimum": from }),
        Shape::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::Text(_, "") => json!({ "type": "string" }),
        Shape::Text(_, pattern) => json!({ "type": "string", "pattern": pattern }),
        Shape::Choice(names) => json!({ "enum": names }),
        Shape::List(inner) => json!({ "type": "array", "items": json_schema(inner) }),
        Shape::Named(inner) => json!({ "type": "object", "additionalProperties": json_schema(inner) }),
        Shape::Table(groups) => {
            let keys = groups.iter().copied().flatten();
            let properties: Map<_, _> = keys.map(|key| (key.name.to_owned(), property(key))).collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
        Shape::OneOf(shapes) => json!({ "anyOf": shapes.iter().map(|shape| json_schema(shape)).collect::<Vec<_>>() }),
        Shape::File(own) => {
            let again = |key: &Key| (key.name.to_owned(), json!({ "$ref": format!("#/properties/{}", key.name) }));
            let tables = RawFile::KEYS.iter().filter(|key| !NOT_IN_NODES.contains(&key.name)).map(again);
            let own = own.iter().map(|key| (key.name.to_owned(), property(key)));
            let properties: Map<_, _> = tables.chain(own).collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
    }
}

fn property(key: &Key) -> Json {
    let mut schema = json_schema(key.shape);
    if let Json::Object(schema) = &mut schema {
        schema.insert("description".into(), json!(key.doc.trim_start()));
        if let Some(default) = key.default.filter(|_| !is_table(key.shape)).and_then(default_json) {
            schema.insert("default".into(), default);
        }
    }
    schema
}

/// A default in the notation of the file as JSON.
fn default_json(text: &str) -> Option<Json> {
    fn convert(value: &document::Value) -> Option<Json> {
        Some(match value {
            document::Value::String(text) => json!(text),
            document::Value::Integer(n) => json!(n),
            document::Value::Boolean(b) => json!(b),
            document::Value::Array(items) => {
                items.iter().map(|item| convert(&item.value)).collect::<Option<Vec<_>>>()?.into()
            }
            document::Value::Table(_) | document::Value::Other(_) => return None,
        })
    }
    let (table, _) = document::parse(&format!("default = {text}"), 0);
    convert(&table.get("default")?.value)
}
