//! The README's tables are made from the code. `BLESS=1 cargo test --test readme` writes them anew.

use std::path::Path;

use bascule::telemetry::reason::Reason;
use bascule::template::VARIABLES;

#[test]
fn the_tables_of_the_readme_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let before = std::fs::read_to_string(&path).unwrap();
    let mut text = before.clone();
    for (name, table) in
        [("commands", commands()), ("keys", keys()), ("variables", variables()), ("reasons", reasons())]
    {
        text = replace(&text, name, &table);
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    } else if text != before {
        let (line, (new, old)) = text.lines().zip(before.lines()).enumerate().find(|(_, (a, b))| a != b).unwrap();
        panic!("README.md:{}: {old:?} should be {new:?}; BLESS=1 cargo test --test readme", line + 1);
    }
}

#[test]
fn the_configurations_of_the_readme_are_valid() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let file = std::env::temp_dir().join(format!("bascule-readme-{}.toml", std::process::id()));
    let examples: Vec<&str> = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        std::fs::write(&file, example).unwrap();
        let result = bascule::config::check_all_nodes(&file);
        std::fs::remove_file(&file).unwrap();
        if let Err(diagnostics) = result {
            panic!("{diagnostics}");
        }
    }
}

/// Puts `table` between the markers of `name`.
fn replace(text: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("README.md has no {begin}")) + begin.len();
    let to = text[from..].find(&end).unwrap_or_else(|| panic!("README.md has no {end}")) + from;
    format!("{}{table}{}", &text[..from], &text[to..])
}

/// A vertical bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn commands() -> String {
    let mut out = String::from("| command | does |\n|---|---|\n");
    for (usage, about) in bascule::app::commands() {
        out.push_str(&format!("| `{}` | {} |\n", cell(&usage), cell(&about)));
    }
    out
}

fn keys() -> String {
    let mut out = String::new();
    let mut tables: Vec<String> = Vec::new();
    for row in bascule::config::reference_rows() {
        if row.tables != tables {
            tables.clone_from(&row.tables);
            let title = match tables.iter().filter(|t| !t.is_empty()).map(|t| format!("`{t}`")).collect::<Vec<_>>() {
                names if names.is_empty() => "Top level".to_owned(),
                names => names.join(", "),
            };
            out.push_str(&format!("\n**{title}**\n\n| key | value | default | |\n|---|---|---|---|\n"));
        }
        let default = row.default.map_or(String::new(), |d| format!("`{d}`"));
        out.push_str(&format!("| `{}` | {} | {} | {} |\n", row.key, cell(&row.kind), cell(&default), cell(row.doc)));
    }
    out
}

fn variables() -> String {
    let mut out = String::from("| variable | from | holds |\n|---|---|---|\n");
    for v in VARIABLES {
        out.push_str(&format!("| `${}` | {} | {} |\n", v.name, format!("{:?}", v.scope).to_lowercase(), cell(v.doc)));
    }
    out
}

fn reasons() -> String {
    let mut out = String::from("| reason | cause | remedy |\n|---|---|---|\n");
    for r in Reason::ALL {
        out.push_str(&format!("| `{}` | {} | {} |\n", r.name(), cell(r.cause()), cell(r.remedy())));
    }
    out
}
