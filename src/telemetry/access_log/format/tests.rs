use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;

/// Values by the name of their variable.
struct Record(HashMap<Var, Vec<u8>>);

impl Variables for Record {
    fn write(&self, var: &Var, out: &mut Vec<u8>) -> bool {
        self.0.get(var).inspect(|value| out.extend_from_slice(value)).is_some()
    }
}

fn record(values: &[(&str, &[u8])]) -> Record {
    Record(values.iter().map(|(name, value)| (Var::parse(name).unwrap(), value.to_vec())).collect())
}

fn exchange() -> Record {
    record(&[
        ("remote_addr", b"192.0.2.7"),
        ("request", b"GET /a?b=c HTTP/1.1"),
        ("status", b"502"),
        ("body_bytes_sent", b"157"),
        ("bytes_sent", b"300"),
        ("http_user_agent", b"curl/8.5.0"),
        ("listener", b"http"),
        ("site", b"shop"),
        ("route", b"/a"),
        ("pool", b"api"),
        ("server", b"api2"),
        ("scheme", b"http"),
        ("host", b"shop.example.com"),
        ("request_method", b"GET"),
        ("request_uri", b"/a?b=c"),
        ("server_protocol", b"HTTP/1.1"),
        ("request_length", b"80"),
        ("tries", b"2"),
        ("upstream_addr", b"10.0.0.11:80, 10.0.0.12:80"),
        ("upstream_status", b"502, 502"),
        ("upstream_connect_time", b"0.001, -"),
        ("queue_time", b"0.000"),
        ("request_time", b"0.012"),
        ("request_id", b"4bf92f3577b34da6a3ce929d0e0e4736"),
        ("upstream_local_port", b"40123"),
        ("reason", b"connect_refused"),
    ])
}

fn line(format: &LogFormat, record: &Record) -> String {
    let clock = LogClock::new(TimeZone::UTC);
    let mut out = b"before ".to_vec();
    Format::new(format).write(record, &clock, UNIX_EPOCH + Duration::from_secs(1_795_260_153), &mut out);
    String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
}

fn template(text: &str) -> LogFormat {
    LogFormat::Template(Template::parse(text).unwrap())
}

#[test]
fn the_text_formats_are_golden() {
    let common = r#"192.0.2.7 - - [21/Nov/2026:11:22:33 +0000] "GET /a?b=c HTTP/1.1" 502 157"#;
    let combined = format!(r#"{common} "-" "curl/8.5.0""#);
    let detailed = format!(
        "{combined} server=api/api2 tries=2 queue=0.000 connect=0.001, - first_byte=- total=0.012 \
         id=4bf92f3577b34da6a3ce929d0e0e4736 local_port=40123 reason=connect_refused"
    );
    assert_eq!(line(&LogFormat::Common, &exchange()), common);
    assert_eq!(line(&LogFormat::Combined, &exchange()), combined);
    assert_eq!(line(&LogFormat::Detailed, &exchange()), detailed);
}

#[test]
fn the_json_format_is_golden() {
    let golden = concat!(
        r#"{"time_iso8601":"2026-11-21T11:22:33+00:00","listener":"http","site":"shop","route":"/a","pool":"api","#,
        r#""server":"api2","remote_addr":"192.0.2.7","remote_user":null,"scheme":"http","host":"shop.example.com","#,
        r#""request_method":"GET","request_uri":"/a?b=c","server_protocol":"HTTP/1.1","status":502,"#,
        r#""request_length":80,"bytes_sent":300,"body_bytes_sent":157,"http_referer":null,"#,
        r#""http_user_agent":"curl/8.5.0","tries":2,"upstream_addr":"10.0.0.11:80, 10.0.0.12:80","#,
        r#""upstream_status":"502, 502","upstream_connect_time":"0.001, -","upstream_header_time":null,"#,
        r#""upstream_response_time":null,"upstream_local_port":40123,"queue_time":0.000,"request_time":0.012,"#,
        r#""request_id":"4bf92f3577b34da6a3ce929d0e0e4736","reason":"connect_refused"}"#,
    );
    assert_eq!(line(&LogFormat::Json, &exchange()), golden);
}

#[test]
fn what_is_missing_is_a_dash_and_what_is_empty_is_empty() {
    let nothing = record(&[]);
    assert_eq!(line(&LogFormat::Common, &nothing), r#"- - - [21/Nov/2026:11:22:33 +0000] "-" - -"#);
    assert_eq!(line(&template("[$args] [$host]"), &record(&[("args", b"")])), "[] [-]");
    let json = line(&LogFormat::Json, &nothing);
    let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(json.values().filter(|value| value.is_null()).count(), json.len() - 1);
}

#[test]
fn a_template_is_the_operator_s_own_format() {
    let text = r#"$remote_addr "$request" $status $upstream_addr $msec"#;
    let wanted = r#"192.0.2.7 "GET /a?b=c HTTP/1.1" 502 10.0.0.11:80, 10.0.0.12:80 1795260153.000"#;
    assert_eq!(line(&template(text), &exchange()), wanted);
}

#[test]
fn a_template_that_starts_as_json_is_escaped_as_json() {
    let format = template(r#"{"host": "$host", "user": "$remote_user", "agent": "$http_user_agent"}"#);
    let record = record(&[("host", b"a\"b"), ("http_user_agent", "é\n\x01\\".as_bytes())]);
    let text = line(&format, &record);
    assert_eq!(text, r#"{"host": "a\"b", "user": "", "agent": "é\n\u0001\\"}"#);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["agent"], "é\n\u{1}\\");
}

#[test]
fn text_is_escaped_as_nginx_escapes_it() {
    for byte in 0..=255u8 {
        let wanted = match byte {
            b'"' => "\\x22".to_owned(),
            b'\\' => "\\x5C".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            other => format!("\\x{other:02X}"),
        };
        let record = record(&[("host", &[b'a', byte, b'b'])]);
        assert_eq!(line(&template("$host"), &record), format!("a{wanted}b"), "{byte}");
    }
}

#[test]
fn bytes_that_json_cannot_hold_become_readable_text() {
    for (value, json) in [
        (&b"plain"[..], r#""plain""#),
        (b"\"\\/", r#""\"\\/""#),
        (b"\r\n\t\x00\x1f\x7f", "\"\\r\\n\\t\\u0000\\u001F\x7f\""),
        ("é€😀".as_bytes(), r#""é€😀""#),
        (b"a\xffb\xc3", r#""a\\xFFb\\xC3""#),
        (b"", r#""""#),
    ] {
        let mut out = Vec::new();
        Style::JsonString.write(|out| out.write_all_bytes(value), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), json);
    }
}

#[test]
fn numbers_are_bare_only_when_json_reads_them_so() {
    for (value, json) in [
        ("0", "0"),
        ("200", "200"),
        ("0.001", "0.001"),
        ("10.5", "10.5"),
        ("007", "\"007\""),
        ("", "\"\""),
        ("-", "\"-\""),
        ("1.", "\"1.\""),
        (".1", "\".1\""),
        ("1.2.3", "\"1.2.3\""),
        ("1, 2", "\"1, 2\""),
        ("1\"", "\"1\\\"\""),
    ] {
        let mut out = b"x".to_vec();
        Style::JsonNumber.write(|out| out.write_all_bytes(value.as_bytes()), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("x{json}"));
    }
}

trait WriteAllBytes {
    fn write_all_bytes(&mut self, bytes: &[u8]) -> bool;
}

impl WriteAllBytes for Vec<u8> {
    fn write_all_bytes(&mut self, bytes: &[u8]) -> bool {
        self.extend_from_slice(bytes);
        true
    }
}

proptest! {
    #[test]
    fn whatever_the_client_sends_a_line_is_one_line_and_json_is_json(value: Vec<u8>) {
        let names = ["request_uri", "host", "status", "http_referer", "http_user_agent", "request"];
        let values: Vec<_> = names.iter().map(|name| (*name, value.as_slice())).collect();
        let record = record(&values);
        for format in [LogFormat::Common, LogFormat::Combined, LogFormat::Detailed, LogFormat::Json] {
            prop_assert!(!line(&format, &record).contains(['\n', '\r']));
        }
        let json: serde_json::Value = serde_json::from_str(&line(&LogFormat::Json, &record)).unwrap();
        if let Ok(text) = str::from_utf8(&value) {
            prop_assert_eq!(&json["request_uri"], text);
        }
    }
}
