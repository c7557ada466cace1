use std::io;
use std::sync::{Arc, Mutex};

use super::*;

/// What the log wrote.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Runs `work` with a log of `level`; what was written.
fn logged(level: &str, json: bool, work: impl FnOnce(&LevelHandle)) -> String {
    let written = Written::default();
    let writer = written.clone();
    let (subscriber, handle) = subscriber(level, json, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || work(&handle));
    written.text()
}

#[test]
fn a_panic_is_a_line_with_its_place() {
    let text = logged("info", true, |_| {
        log_panics();
        let _ = std::panic::catch_unwind(|| panic!("of {}", "a test"));
        drop(std::panic::take_hook());
    });
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["message"], "panic: a bug has ended one connection; please report it");
    assert_eq!(
        (&line["panic"], line["place"].as_str().unwrap().contains("telemetry/tests.rs")),
        (&"of a test".into(), true)
    );
}

#[test]
fn only_the_level_asked_for_is_written() {
    let text = logged("info", false, |_| {
        tracing::info!(pool = "api", "server is up");
        tracing::debug!("not seen");
    });
    assert!(text.contains("INFO") && text.contains("server is up pool=\"api\""), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn a_filter_may_name_modules() {
    let text = logged("error,bascule::proxy=debug", false, |_| {
        tracing::debug!(target: "bascule::proxy::tcp", "seen");
        tracing::info!(target: "bascule::config", "not seen");
    });
    assert!(text.contains(" seen") && !text.contains("not seen"), "{text}");
}

#[test]
fn json_has_one_object_a_line() {
    let text = logged("info", true, |_| tracing::warn!(server = "a \"b\"", tries = 2, "server failed"));
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "server failed");
    assert_eq!(line["server"], "a \"b\"");
    assert_eq!(line["tries"], 2);
}

#[test]
fn the_level_can_be_changed_while_the_log_is_in_use_and_a_bad_one_changes_nothing() {
    let text = logged("error", false, |level| {
        tracing::info!("before");
        level.set("info").unwrap();
        tracing::info!("after");
        assert!(matches!(level.set("bascule=loud"), Err(TelemetryError::Level(_))));
        tracing::info!("still");
    });
    assert!(!text.contains("before") && text.contains("after") && text.contains("still"), "{text}");
}

#[test]
fn levels_are_checked() {
    for good in ["error", "warn", "info", "debug", "trace", "info,bascule::proxy=debug"] {
        assert!(check_level(good).is_ok(), "{good}");
    }
    for (bad, part) in [
        ("", ""),
        ("loud", "loud"),
        ("info,loud", "loud"),
        ("info,", ""),
        ("a b c", "a b c"),
        ("bascule=loud", "bascule=loud"),
    ] {
        assert_eq!(check_level(bad), Err(TelemetryError::Level(part.into())), "{bad}");
    }
}
