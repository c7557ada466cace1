//! What the HTTP/1 codec costs on the request path. Prints `group/case/size` and nanoseconds for an operation: the
//! median, and the least, of rounds of a fixed duration. `cargo bench --bench http1 [FILTER]`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bascule::http1::{Chunked, Limits, Method, Parse, Piece, RequestHead, ResponseHead, path};

const ROUNDS: usize = 21;
const ROUND: Duration = Duration::from_millis(20);

const WRK: &str = "GET /index.html HTTP/1.1\r\nHost: 192.0.2.100:8080\r\nUser-Agent: wrk\r\nAccept: */*\r\n\r\n";

const BROWSER: &str = "GET /assets/js/app.5f2c1b.js?v=20240611&lang=en HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://shop.example.com/catalogue/lamps?page=3\r\n\
    Cookie: session=0a1b2c3d4e5f60718293a4b5c6d7e8f9; theme=dark; consent=analytics%3D0%26ads%3D0\r\n\
    Connection: keep-alive\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Cache-Control: max-age=0\r\n\r\n";

const RESPONSE: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 11 Jun 2024 10:00:00 GMT\r\n\
    Content-Type: text/html\r\nContent-Length: 612\r\nLast-Modified: Mon, 10 Jun 2024 09:00:00 GMT\r\n\
    Connection: keep-alive\r\nETag: \"6666c2d0-264\"\r\nAccept-Ranges: bytes\r\n\r\n";

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let bench = |name: &str, work: &mut dyn FnMut()| {
        if name.contains(&filter) {
            report(name, work);
        }
    };
    let limits = Limits::default();

    let mut head = RequestHead::new();
    for (name, text) in [("wrk", WRK), ("browser", BROWSER)] {
        let bytes = text.as_bytes();
        bench(&format!("request/{name}/{}", bytes.len()), &mut || {
            assert_eq!(head.parse(black_box(bytes), &limits), Ok(Parse::Complete));
        });
        bench(&format!("request/{name}_partial/{}", bytes.len() - 1), &mut || {
            assert_eq!(head.parse(black_box(&bytes[..bytes.len() - 1]), &limits), Ok(Parse::Partial));
        });
        let mut fields = [httparse::EMPTY_HEADER; 32];
        bench(&format!("request/{name}_httparse/{}", bytes.len()), &mut || {
            let mut request = httparse::Request::new(&mut fields);
            assert!(request.parse(black_box(bytes)).is_ok_and(|s| s.is_complete()));
        });
    }

    let mut head = ResponseHead::new();
    bench(&format!("response/nginx/{}", RESPONSE.len()), &mut || {
        assert_eq!(head.parse(black_box(RESPONSE.as_bytes()), Method::Get, &limits), Ok(Parse::Complete));
    });

    for (chunk, count) in [(16, 1024), (1024, 16), (16 * 1024, 1)] {
        let mut body = format!("{chunk:x}\r\n{}\r\n", "x".repeat(chunk)).repeat(count);
        body.push_str("0\r\n\r\n");
        bench(&format!("chunked/chunks_of_{chunk}/{}", body.len()), &mut || decode(black_box(body.as_bytes())));
    }

    let mut out = Vec::new();
    for (name, path) in [("normal", "/assets/js/app.5f2c1b.js"), ("escaped", "/assets/%6as/../js/./app.5f2c1b.js")] {
        bench(&format!("path/{name}/{}", path.len()), &mut || {
            assert!(path::normalise(black_box(path.as_bytes()), &mut out).is_ok());
        });
    }
}

fn decode(mut bytes: &[u8]) {
    let mut decoder = Chunked::new();
    loop {
        match decoder.step(bytes) {
            Ok(Piece::Data(n) | Piece::Framing(n)) => bytes = &bytes[n..],
            Ok(Piece::End(_)) => return,
            other => panic!("{other:?}"),
        }
    }
}

fn report(name: &str, work: &mut dyn FnMut()) {
    // As many calls between two looks at the clock as take some microseconds.
    let mut batch = 1u32;
    loop {
        let start = Instant::now();
        (0..batch).for_each(|_| work());
        if start.elapsed() > Duration::from_micros(20) {
            break;
        }
        batch *= 2;
    }
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let mut calls = 0u64;
            while start.elapsed() < ROUND {
                (0..batch).for_each(|_| work());
                calls += u64::from(batch);
            }
            start.elapsed().as_nanos() as f64 / calls as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<40} {:>10.1} ns/op   least {:>10.1}", rounds[ROUNDS / 2], rounds[0]);
}
