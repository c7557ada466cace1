//! Configuration files: no text panics, none is refused without a word, and reading one twice gives the same.
#![no_main]

use bascule::config::parse_effective;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match (parse_effective(text, "lb1"), parse_effective(text, "lb1")) {
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (Err(one), Err(other)) => {
            let said = one.to_string();
            assert!(!said.is_empty());
            assert_eq!(said, other.to_string());
        }
        _ => panic!("accepted and refused"),
    }
});
