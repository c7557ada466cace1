//! Names in certificates: whom one is for, and who a client is.

use std::fmt::Write as _;

use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// Whether the name `pattern` of a certificate is that of `host`, both in lower case (RFC 9525 section 6.3): `*` stands for
/// one whole label, the first. A `host` with a `*` of its own stands for all that it stands for.
pub fn covers(pattern: &str, host: &str) -> bool {
    if pattern == host {
        return true;
    }
    let Some(parent) = pattern.strip_prefix("*.") else { return false };
    host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && label != "*" && rest == parent)
}

/// Who a client is by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// RFC 4514, the most specific part first: `CN=alice,O=Example`.
    pub subject: Box<str>,
    /// Of who signed it, the same.
    pub issuer: Box<str>,
    /// Upper case hex digits, as OpenSSL and nginx write it.
    pub serial: Box<str>,
    /// Lower case hex digits of the SHA-1 of the certificate, as nginx's `$ssl_client_fingerprint`.
    pub fingerprint: Box<str>,
    /// First and last second of its life, seconds since 1970.
    pub valid: (i64, i64),
}

impl Subject {
    /// Of a certificate that was verified; `None`: it cannot be read.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        // A number that is positive has a zero byte before a high first bit.
        let serial = parsed.raw_serial();
        let serial = serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(serial);
        let validity = parsed.validity();
        Some(Self {
            subject: distinguished(parsed.subject()).into(),
            issuer: distinguished(parsed.issuer()).into(),
            serial: hex(serial, true).into(),
            fingerprint: hex(&<sha1::Sha1 as sha1::Digest>::digest(der), false).into(),
            valid: (validity.not_before.timestamp(), validity.not_after.timestamp()),
        })
    }
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let encoding = if upper { data_encoding::HEXUPPER } else { data_encoding::HEXLOWER };
    encoding.encode(bytes)
}

/// Short names of attributes (RFC 4514 section 3, and what OpenSSL calls others).
const SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// A distinguished name (RFC 4514): the last part first, several values of a part joined by `+`.
fn distinguished(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut out = String::new();
    for (i, part) in parts.iter().rev().enumerate() {
        out.push_str(if i > 0 { "," } else { "" });
        for (i, attribute) in part.iter().enumerate() {
            out.push_str(if i > 0 { "+" } else { "" });
            let oid = attribute.attr_type().to_id_string();
            let short = SHORT.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
            out.push_str(short.unwrap_or(&oid));
            out.push('=');
            match attribute.as_str() {
                Ok(text) => escape(text, &mut out),
                Err(_) => drop(write!(out, "#{}", hex(attribute.as_slice(), false))),
            }
        }
    }
    out
}

/// RFC 4514 section 2.4; what is no printable ASCII goes as bytes in hex, as OpenSSL writes it, so that the text is fit for
/// a header and a log.
fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (i, byte) in text.bytes().enumerate() {
        let is_edge = (byte == b' ' && (i == 0 || i == last)) || (byte == b'#' && i == 0);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            _ if is_edge => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "\\{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_whole_first_label() {
        let cases = [
            ("shop.example.com", "shop.example.com", true),
            ("*.example.com", "shop.example.com", true),
            ("*.example.com", "a.shop.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "*.example.com", true),
            ("*.com", "*.example.com", false),
            ("s*.example.com", "shop.example.com", false),
            ("shop.example.com", "*.example.com", false),
            ("*", "com", false),
        ];
        for (pattern, host, expected) in cases {
            assert_eq!(covers(pattern, host), expected, "{pattern} for {host}");
        }
    }

    #[test]
    fn no_character_of_a_name_can_end_it() {
        let mut out = String::new();
        escape(" a,b+c\"d\\e<f>g;h\r\né ", &mut out);
        assert_eq!(out, "\\ a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h\\0D\\0A\\C3\\A9\\ ");
        out.clear();
        escape("#a#", &mut out);
        assert_eq!(out, "\\#a#");
    }
}
