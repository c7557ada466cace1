use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::app::notifier::News;
use crate::config::model::{Attachment, Attachments};
use crate::config::restore_with;

const DAY: i64 = 86_400;

/// 2026-01-01.
const NEW_YEAR: i64 = 1_767_225_600;

/// A configuration with these certificates: a file, its name, and the year that it ends with.
fn config(certificates: &[(&str, &str, i32)]) -> Config {
    let mut attachments = Attachments::default();
    let mut files = Vec::new();
    for (file, name, year) in certificates {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([(*name).to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(year + 1, 1, 1));
        let bytes = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        attachments.insert((*file).to_owned(), Attachment::File { bytes: bytes.into_bytes().into(), open: false });
        files.push(format!("\"{file}\""));
    }
    let text = format!(
        "[global]\nrun_dir = \"/nowhere\"\nnotify = [\"/bin/true\"]\nwebhook = \"http://192.0.2.1/\"\n\
         [listener.web]\nbind = [\"10.0.0.9:443\"]\npool = \"p\"\ntls = {{ certificates = [{0}] }}\n\
         [listener.db]\nbind = [\"10.0.0.9:5432\"]\nprotocol = \"tcp\"\npool = \"p\"\ntls = {{ certificates = [{0}] }}\n\
         [pool.p]\nservers = [\"10.0.0.1:80\"]\ntls = {{ verify = false, client_certificate = {1} }}\n",
        files.join(", "),
        files[0]
    );
    restore_with(&text, "lb1", attachments).unwrap_or_else(|errors| panic!("{errors}")).config
}

fn told(reminders: &mut Reminders, config: &Config, now: i64) -> Vec<(String, Standing)> {
    reminders.due(config, now).into_iter().map(|(c, standing)| (c.name.to_string(), standing)).collect()
}

#[test]
fn what_runs_out_is_told_once_a_day_and_when_it_is_over() {
    let config = config(&[("/soon.pem", "soon", 2025), ("/later.pem", "later", 2030)]);
    let mut reminders = Reminders::default();
    let soon = |standing| vec![("/soon.pem".to_owned(), standing)];
    assert_eq!(told(&mut reminders, &config, NEW_YEAR - 31 * DAY), []);
    let start = NEW_YEAR - 30 * DAY;
    assert_eq!(told(&mut reminders, &config, start), soon(Standing::Expiring));
    assert_eq!(told(&mut reminders, &config, start + 30), []);
    assert_eq!(told(&mut reminders, &config, start + DAY - 1), []);
    assert_eq!(told(&mut reminders, &config, start + DAY), soon(Standing::Expiring));
    assert_eq!(told(&mut reminders, &config, start + DAY + 1), []);
    // A clock that was wrong.
    assert_eq!(told(&mut reminders, &config, start + 2), soon(Standing::Expiring));
    assert_eq!(told(&mut reminders, &config, NEW_YEAR - 1), soon(Standing::Expiring));
    assert_eq!(told(&mut reminders, &config, NEW_YEAR + 1), soon(Standing::Expired));
    assert_eq!(told(&mut reminders, &config, NEW_YEAR + 2), []);
}

#[test]
fn a_certificate_that_was_renewed_is_told_of_no_more_and_again_next_time() {
    let mut reminders = Reminders::default();
    let old = config(&[("/a.pem", "a", 2025)]);
    assert_eq!(told(&mut reminders, &old, NEW_YEAR - DAY).len(), 1);
    let new = config(&[("/a.pem", "a", 2030)]);
    assert_eq!(told(&mut reminders, &new, NEW_YEAR - DAY + 1), []);
    assert_eq!(told(&mut reminders, &old, NEW_YEAR - DAY + 2).len(), 1);
}

#[test]
fn only_another_certificate_of_the_same_file_is_a_replacement() {
    let before = config(&[("/a.pem", "a", 2025), ("/b.pem", "b", 2025)]);
    let same = replaced(&before, &before);
    assert!(same.is_empty(), "{same:?}");
    let after = config(&[("/a.pem", "a", 2026), ("/c.pem", "c", 2026)]);
    let names: Vec<_> = replaced(&before, &after).iter().map(|c| c.name.to_string()).collect();
    assert_eq!(names, ["/a.pem"]);
}

#[test]
fn what_cannot_be_used_is_told_once_it_is_so_twice_in_a_row() {
    let refused = |file: &str, why: &str| Refused { file: file.to_owned(), why: why.to_owned() };
    let half = refused("/a.pem", "mismatch");
    let mut refusals = Refusals::default();
    // The key comes a moment after the chain.
    assert_eq!(refusals.note(vec![half.clone()]), []);
    assert!(refusals.are_fresh() && refusals.told().next().is_none());
    assert_eq!(refusals.note(vec![]), []);
    assert!(!refusals.are_fresh());

    assert_eq!(refusals.note(vec![half.clone()]), []);
    assert_eq!(refusals.note(vec![half.clone(), refused("/b.pem", "empty")]), std::slice::from_ref(&half));
    assert_eq!(refusals.note(vec![half.clone(), refused("/b.pem", "empty")]), [refused("/b.pem", "empty")]);
    assert_eq!(refusals.note(vec![half.clone()]), []);
    assert_eq!(refusals.told().collect::<Vec<_>>(), [("/a.pem", "mismatch")]);
    // Something else is wrong by now.
    assert_eq!(refusals.note(vec![refused("/a.pem", "empty")]), [refused("/a.pem", "empty")]);
    assert_eq!(refusals.note(vec![]), []);
    assert!(refusals.told().next().is_none());
}

#[test]
fn the_status_has_every_certificate_once_and_what_was_refused() {
    let config = config(&[("/a.pem", "a", 2025), ("/b.pem", "b", 2030)]);
    let mut refusals = Refusals::default();
    for _ in 0..2 {
        refusals.note(vec![Refused { file: "/b.pem".to_owned(), why: "mismatch".to_owned() }]);
    }
    let status = status(&config, &refusals, NEW_YEAR - 3 * DAY);
    assert_eq!(
        status["in_force"][0],
        json!({ "file": "/a.pem", "names": ["a"], "key": "ECDSA", "not_before": "2020-01-01T00:00:00Z",
                "not_after": "2026-01-01T00:00:00Z", "days_left": 3, "state": "expiring", "used_by": ["listener db", "listener web", "pool p"] })
    );
    assert_eq!((status["in_force"].as_array().unwrap().len(), &status["in_force"][1]["state"]), (2, &json!("valid")));
    assert_eq!(status["refused"], json!([{ "file": "/b.pem", "why": "mismatch" }]));
}

#[test]
fn commands_and_webhooks_are_told_everything() {
    let config = config(&[("/a.pem", "a", 2025)]);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NEW_YEAR as u64 - 86_400 * 20);
    let event =
        |what, certificate| CertificateEvent { what, file: "/a.pem", certificate, why: "it \"ends\"".to_owned(), at };
    let certificates = in_force(&config);
    let News { arguments, body, command, webhook, .. } =
        event(Happened::Expiring, Some(certificates[0].certificate)).news(&config);
    assert_eq!(arguments, ["CERTIFICATE", "/a.pem", "certificate_expiring", "it \"ends\""]);
    assert!(command.is_some() && webhook.as_deref() == Some("http://192.0.2.1/"));
    let expected = r#"{"event":"certificate_expiring","certificate":"/a.pem","names":["a"],"not_after":"2026-01-01T00:00:00Z","days_left":20,"why":"it \"ends\"","node":"lb1","time":"2025-12-12T00:00:00.000Z"}"#;
    assert_eq!(String::from_utf8(body).unwrap(), expected);
    let body = String::from_utf8(event(Happened::Refused, None).news(&config).body).unwrap();
    assert!(body.contains(r#""names":[],"not_after":null,"days_left":null"#), "{body}");
}
