//! The `Cookie` field of a request (RFC 6265 section 4.2.1), read as leniently as servers do.

/// The values of the cookies called `name`, as it is written, in the value of a `Cookie` field.
pub fn values<'f>(field: &'f [u8], name: &str) -> impl Iterator<Item = &'f [u8]> {
    field.split(|&b| b == b';').filter_map(move |pair| value_of(pair, name))
}

/// Appends the value of a `Cookie` field without the cookies called `name`. False, and nothing appended, when no other is
/// in it.
pub fn write_without(field: &[u8], name: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for pair in field.split(|&b| b == b';') {
        let pair = pair.trim_ascii();
        if pair.is_empty() || value_of(pair, name).is_some() {
            continue;
        }
        if out.len() > start {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(pair);
    }
    out.len() > start
}

fn value_of<'f>(pair: &'f [u8], name: &str) -> Option<&'f [u8]> {
    let pair = pair.trim_ascii();
    let rest = pair.strip_prefix(name.as_bytes())?.trim_ascii_start();
    Some(rest.strip_prefix(b"=")?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<'f>(field: &'f str, name: &str) -> Vec<&'f str> {
        values(field.as_bytes(), name).map(|value| std::str::from_utf8(value).unwrap()).collect()
    }

    fn without(field: &str, name: &str) -> Option<String> {
        let mut out = b"> ".to_vec();
        let some = write_without(field.as_bytes(), name, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(some, text != "> ");
        some.then(|| text.trim_start_matches("> ").to_owned())
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        assert_eq!(all("a=1; ab=2;a=3 ; A=4; b=a=5; a", "a"), ["1", "3"]);
        assert_eq!(all("a=", "a"), [""]);
        assert_eq!(all("", "a"), [""; 0]);
        assert_eq!(all("a = b=c; d", "a"), ["b=c"]);
    }

    #[test]
    fn all_cookies_of_a_name_are_taken_out_and_the_others_stay() {
        assert_eq!(without("a=1; b=2; a=3; c", "a").as_deref(), Some("b=2; c"));
        assert_eq!(without("b=2;c=3", "a").as_deref(), Some("b=2; c=3"));
        assert_eq!(without("ab=1; A=2", "a").as_deref(), Some("ab=1; A=2"));
        assert_eq!(without("a=1", "a"), None);
        assert_eq!(without(" ; a=1;; a=;", "a"), None);
        assert_eq!(without("", "a"), None);
    }
}
