//! Variables of connections inside TLS, by nginx's names.

use data_encoding::BASE64;
use jiff::Timestamp;

use crate::net::clock::unix_seconds;
use crate::proxy::http::headers::decimal;
use crate::proxy::http::write_display;
use crate::proxy::preface::Preface;
use crate::template::Var;
use crate::tls::{Agreed, Client};

/// Appends the value of `var`, if it is one of these and has one; whether it has.
pub(super) fn tells(preface: &Preface, var: &Var, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    preface.agreed.iter().for_each(|agreed| write(agreed, var, out));
    out.len() > start
}

/// The same.
pub(super) fn write(agreed: &Agreed, var: &Var, out: &mut Vec<u8>) {
    let text: &str = match var {
        Var::Https => "on",
        Var::SslProtocol => agreed.protocol,
        Var::SslCipher => agreed.cipher,
        Var::SslServerName => agreed.server_name.as_deref().unwrap_or_default(),
        Var::SslSessionReused => {
            if agreed.resumed {
                "r"
            } else {
                "."
            }
        }
        Var::SslAlpnProtocol => return out.extend_from_slice(agreed.alpn.as_deref().unwrap_or_default()),
        Var::SslClientVerify => {
            if agreed.client.is_some() {
                "SUCCESS"
            } else {
                "NONE"
            }
        }
        _ => return agreed.client.iter().for_each(|client| write_client(client, var, out)),
    };
    out.extend_from_slice(text.as_bytes());
}

fn write_client(client: &Client, var: &Var, out: &mut Vec<u8>) {
    let subject = &client.subject;
    let (from, until) = subject.valid;
    let text: &str = match var {
        Var::SslClientSDn => &subject.subject,
        Var::SslClientIDn => &subject.issuer,
        Var::SslClientSerial => &subject.serial,
        Var::SslClientFingerprint => &subject.fingerprint,
        Var::SslClientVStart => return date(from, out),
        Var::SslClientVEnd => return date(until, out),
        Var::SslClientVRemain => {
            let seconds = until.saturating_sub(i64::try_from(unix_seconds()).unwrap_or(i64::MAX));
            return decimal(out, u64::try_from(seconds / 86_400).unwrap_or(0));
        }
        Var::SslClientEscapedCert => return escaped(&client.certificate, out),
        _ => return,
    };
    out.extend_from_slice(text.as_bytes());
}

/// As OpenSSL writes dates: `Nov  1 00:00:00 2026 GMT`.
fn date(seconds: i64, out: &mut Vec<u8>) {
    if let Ok(time) = Timestamp::from_second(seconds) {
        write_display(out, time.strftime("%b %e %H:%M:%S %Y GMT"));
    }
}

/// The certificate as PEM with every character escaped that is not plain in a URL.
fn escaped(certificate: &[u8], out: &mut Vec<u8>) {
    const LINE: usize = 64;
    let text = BASE64.encode(certificate);
    let lines = text.as_bytes().chunks(LINE);
    out.extend_from_slice(b"-----BEGIN%20CERTIFICATE-----%0A");
    for line in lines {
        for byte in line {
            match byte {
                b'+' => out.extend_from_slice(b"%2B"),
                b'/' => out.extend_from_slice(b"%2F"),
                b'=' => out.extend_from_slice(b"%3D"),
                plain => out.push(*plain),
            }
        }
        out.extend_from_slice(b"%0A");
    }
    out.extend_from_slice(b"-----END%20CERTIFICATE-----%0A");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_openssl_s() {
        let mut out = Vec::new();
        date(1_793_491_200, &mut out);
        assert_eq!(out, b"Nov  1 00:00:00 2026 GMT");
    }

    #[test]
    fn a_certificate_in_a_header_is_its_pem_escaped() {
        let mut out = Vec::new();
        escaped(&[0xfb, 0xff, 0xfe, 0xff], &mut out);
        let expected = "-----BEGIN%20CERTIFICATE-----%0A%2B%2F%2F%2B%2Fw%3D%3D%0A-----END%20CERTIFICATE-----%0A";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
