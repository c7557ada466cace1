//! Probes of gRPC against a server of tonic, and against servers that answer something else.

use hyper::body::Bytes;
use hyper::{HeaderMap, Response};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use super::*;

/// A gRPC server with these services, on a port of its own, until the runtime ends.
async fn serve(routes: Routes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(TcpIncoming::from(listener)));
    address
}

async fn ask(address: SocketAddr, service: &str) -> Result<(), String> {
    probe(address, &format!("type = \"grpc\"\nservice = \"{service}\"")).await
}

#[tokio::test]
async fn a_service_says_whether_it_serves() {
    let (reporter, service) = health_reporter();
    let address = serve(Routes::new(service)).await;
    assert_eq!(ask(address, "").await, Ok(()));
    assert_eq!(ask(address, "shop.Cart").await, Err("grpc-status 5: the server knows no service \"shop.Cart\"".into()));
    for (status, result) in [
        (ServingStatus::Serving, Ok(())),
        (ServingStatus::NotServing, Err("the service says NOT_SERVING".to_owned())),
        (ServingStatus::Unknown, Err("the service says UNKNOWN".to_owned())),
    ] {
        reporter.set_service_status("shop.Cart", status).await;
        assert_eq!(ask(address, "shop.Cart").await, result);
    }
    assert_eq!(ask(address, "").await, Ok(()), "the server as a whole is another matter");
}

#[tokio::test]
async fn a_server_without_the_health_service_is_bad_and_says_what_it_lacks() {
    let address = serve(Routes::default()).await;
    let failure = ask(address, "").await.unwrap_err();
    assert!(failure.starts_with("grpc-status 12: the server has no grpc.health.v1.Health service"), "{failure}");
}

/// A server of HTTP/2 that answers once with `head`, the pieces of a body, and `trailers`.
async fn answering_h2(head: Response<()>, body: Vec<Bytes>, trailers: Option<HeaderMap>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let Some(Ok((_, mut respond))) = connection.accept().await else { return };
        let mut stream = respond.send_response(head, body.is_empty() && trailers.is_none()).unwrap();
        for (i, piece) in body.iter().enumerate() {
            let last = i + 1 == body.len() && trailers.is_none();
            let _ = stream.send_data(piece.clone(), last);
        }
        if let Some(trailers) = trailers {
            let _ = stream.send_trailers(trailers);
        }
        // Until the client has gone.
        while connection.accept().await.is_some() {}
    });
    address
}

fn head(content_type: &str, more: &[(&'static str, &str)]) -> Response<()> {
    let mut head = Response::new(());
    for (name, value) in [("content-type", content_type)].iter().chain(more) {
        head.headers_mut().insert(*name, value.parse().unwrap());
    }
    head
}

fn trailers(status: &str, message: &str) -> Option<HeaderMap> {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", status.parse().unwrap());
    fields.insert("grpc-message", message.parse().unwrap());
    Some(fields)
}

#[tokio::test]
async fn what_is_not_a_good_answer_of_grpc_is_a_failure_that_says_why() {
    const GRPC: &str = "application/grpc+proto";
    let good = || Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
    let mut unavailable = head(GRPC, &[]);
    *unavailable.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
    let halves = vec![good().slice(..3), good().slice(3..)];
    for (head, body, trailers, result) in [
        (head(GRPC, &[]), vec![good()], trailers("0", ""), Ok(())),
        (head(GRPC, &[]), halves, trailers("0", ""), Ok(())),
        (unavailable, vec![], None, Err("status 503")),
        (head("text/html", &[]), vec![good()], trailers("0", ""), Err("the answer is not that of gRPC")),
        (head(GRPC, &[]), vec![good()], trailers("14", "try\tlater"), Err("grpc-status 14 try\\tlater")),
        (head(GRPC, &[("grpc-status", "7")]), vec![], None, Err("grpc-status 7")),
        (head(GRPC, &[("grpc-status", "0")]), vec![], None, Err("the answer has no message")),
        (head(GRPC, &[]), vec![good()], None, Err("the answer ends without grpc-status")),
        (head(GRPC, &[]), vec![], trailers("0", ""), Err("the answer is no HealthCheckResponse")),
        (head(GRPC, &[]), vec![Bytes::from(vec![0; 30_000])], trailers("0", ""), Err("the answer is too long")),
    ] {
        let address = answering_h2(head, body, trailers).await;
        assert_eq!(ask(address, "").await, result.map_err(str::to_owned));
    }
}

#[tokio::test]
async fn what_does_not_speak_http_2_is_a_failure() {
    let old: &'static str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let endless: &'static str = Box::leak("a".repeat(1 << 20).into_boxed_str());
    for response in ["", old, endless] {
        let (address, _) = answering(response).await;
        let failure = ask(address, "").await.unwrap_err();
        assert!(failure.starts_with("no gRPC: "), "{failure}");
    }
    let (address, _) = answering(old).await;
    let failure = ask(address, "").await.unwrap_err();
    assert!(failure.ends_with("does it speak HTTP/2 in clear text?"), "{failure}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_eq!(ask(listener.local_addr().unwrap(), "").await, Err("silence".into()));
}
