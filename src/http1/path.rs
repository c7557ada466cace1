//! The path that routes are matched against.

use std::fmt;

/// Why a path is refused; 400 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It does not start with a slash.
    NotAbsolute,
    /// A `%` without two hexadecimal digits behind it.
    BadEscape,
    /// `%00`.
    Nul,
    /// `..` leads above the root.
    AboveRoot,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "path does not start with a slash",
            Self::BadEscape => "invalid percent escape in the path",
            Self::Nul => "escaped NUL in the path",
            Self::AboveRoot => "path leads above the root",
        })
    }
}

impl std::error::Error for PathError {}

/// Decodes percent escapes, merges slashes and removes dot segments, in this order, as nginx does before it looks for a
/// location: an escaped slash or dot is one like any other. Without anything to change, returns `false` and leaves `out`
/// empty; else `out` has the result, which may contain any byte but NUL. An empty path, which an absolute target may have,
/// is `/`; the `*` of OPTIONS stays.
pub fn normalise(path: &[u8], out: &mut Vec<u8>) -> Result<bool, PathError> {
    out.clear();
    match path {
        [] => {
            out.push(b'/');
            return Ok(true);
        }
        b"*" => return Ok(false),
        [b'/', rest @ ..] => {
            if is_normal(rest) {
                return Ok(false);
            }
            out.push(b'/');
            rebuild(rest, out)?;
        }
        _ => return Err(PathError::NotAbsolute),
    }
    let changed = out != path;
    if !changed {
        out.clear();
    }
    Ok(changed)
}

/// Whether what follows the first slash has no escapes, and no segment that is empty or starts with a dot, except that
/// the last may be empty.
fn is_normal(rest: &[u8]) -> bool {
    let mut before = b'/';
    for &b in rest {
        if b == b'%' || (before == b'/' && matches!(b, b'/' | b'.')) {
            return false;
        }
        before = b;
    }
    true
}

fn rebuild(rest: &[u8], out: &mut Vec<u8>) -> Result<(), PathError> {
    let mut segment = out.len();
    let mut bytes = rest.iter().copied();
    while let Some(b) = bytes.next() {
        let b = if b == b'%' { unescape(bytes.next(), bytes.next())? } else { b };
        if b != b'/' {
            out.push(b);
        } else {
            close_segment(out, segment)?;
            if out.last() != Some(&b'/') {
                out.push(b'/');
            }
            segment = out.len();
        }
    }
    close_segment(out, segment)
}

/// Acts upon the segment that starts at `segment` and ends with `out`, if it is made of dots.
fn close_segment(out: &mut Vec<u8>, segment: usize) -> Result<(), PathError> {
    match out.get(segment..) {
        Some(b".") => out.truncate(segment),
        Some(b"..") => {
            let parent = out.get(..segment.saturating_sub(1)).and_then(|p| p.iter().rposition(|&b| b == b'/'));
            out.truncate(parent.ok_or(PathError::AboveRoot)? + 1);
        }
        _ => {}
    }
    Ok(())
}

fn unescape(high: Option<u8>, low: Option<u8>) -> Result<u8, PathError> {
    let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).ok_or(PathError::BadEscape);
    match (digit(high)? * 16 + digit(low)?) as u8 {
        0 => Err(PathError::Nul),
        b => Ok(b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(path: &str) -> Result<String, PathError> {
        let mut out = b"left over".to_vec();
        let changed = normalise(path.as_bytes(), &mut out)?;
        let result = if changed { out } else { path.as_bytes().to_vec() };
        assert_eq!(changed, result != path.as_bytes(), "{path}");
        Ok(String::from_utf8_lossy(&result).into_owned())
    }

    #[test]
    fn paths_become_what_nginx_matches() {
        for (path, expected) in [
            ("", "/"),
            ("*", "*"),
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a//b", "/a/b"),
            ("///", "/"),
            ("/a/./b", "/a/b"),
            ("/./", "/"),
            ("/.", "/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/../b", "/b"),
            ("/a/b/../../c", "/c"),
            ("/a/b/..", "/a/"),
            ("/a//../b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a/..b", "/a/..b"),
            ("/a/b..", "/a/b.."),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E%2e%2Fb", "/b"),
            ("/a%2fb", "/a/b"),
            ("/a%2F%2Fb", "/a/b"),
            ("/%61bc", "/abc"),
            ("/a%20b", "/a b"),
            ("/%2561", "/%61"),
            ("/a%3fb", "/a?b"),
            ("/a%23b", "/a#b"),
            ("/a\\b", "/a\\b"),
        ] {
            assert_eq!(run(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn paths_that_lead_nowhere_are_refused() {
        for (path, error) in [
            ("a", PathError::NotAbsolute),
            ("**", PathError::NotAbsolute),
            ("/%", PathError::BadEscape),
            ("/%4", PathError::BadEscape),
            ("/%zz", PathError::BadEscape),
            ("/%+1", PathError::BadEscape),
            ("/a%00", PathError::Nul),
            ("/..", PathError::AboveRoot),
            ("/../a", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/a/%2e%2e/%2e%2e/b", PathError::AboveRoot),
        ] {
            assert_eq!(run(path), Err(error), "{path}");
        }
    }

    proptest! {
        #[test]
        fn results_have_nothing_left_to_normalise(path in "/([a./]|%2[ef]|%61){0,24}") {
            if let Ok(result) = run(&path) {
                prop_assert!(result.starts_with('/'));
                prop_assert!(!result.contains("//"));
                prop_assert!(result.split('/').all(|s| s != "." && s != ".."));
                prop_assert_eq!(run(&result), Ok(result.clone()));
            }
        }

        #[test]
        fn no_bytes_panic(path in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            let _ = normalise(&path, &mut out);
            let _ = normalise(&[b"/", &path[..]].concat(), &mut out);
        }
    }
}
