//! tonic on both sides of an engine in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut};
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::codegen::tokio_stream::{StreamExt, iter};
use tonic::codegen::{BoxFuture, Context, Poll, Service};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::support::free_addr;
use crate::support::proxy::Proxy;

/// Longest that anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages are bytes.
#[derive(Debug, Default, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let len = buf.remaining();
        Ok(Some(buf.copy_to_bytes(len).to_vec()))
    }
}

/// Does what the method's name says. All kinds of calls are the same to a server: messages come, and messages go.
#[derive(Debug, Clone, Default)]
struct Echo {
    /// Calls of `wait` that are over.
    left: Arc<AtomicUsize>,
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

/// Counts when it goes.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Answers = ReceiverStream<Result<Vec<u8>, Status>>;

#[derive(Debug, Clone)]
struct Method {
    name: String,
    echo: Echo,
}

impl tonic::server::StreamingService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let (method, came) = (self.clone(), request.metadata().get("x-client").cloned());
        let mut messages = request.into_inner();
        Box::pin(async move {
            let (answers, stream) = mpsc::channel(4);
            if method.name == "missing" {
                let mut details = MetadataMap::new();
                details.insert("x-why", "no such thing".parse().unwrap());
                return Err(Status::with_metadata(Code::NotFound, "nothing, \"at all\" \u{e4}", details));
            }
            tokio::spawn(async move {
                match method.name.as_str() {
                    "echo" => {
                        while let Some(Ok(message)) = messages.next().await {
                            if answers.send(Ok(message)).await.is_err() {
                                return;
                            }
                        }
                    }
                    "join" => {
                        let mut all = Vec::new();
                        while let Some(Ok(message)) = messages.next().await {
                            all.extend(message);
                        }
                        let _ = answers.send(Ok(all)).await;
                    }
                    "count" => {
                        let most = messages.next().await.unwrap().unwrap()[0];
                        for n in 0..most {
                            let _ = answers.send(Ok(vec![n; 1000])).await;
                        }
                        let _ = answers.send(Err(Status::data_loss("that was all"))).await;
                    }
                    "wait" => {
                        let _waiting = Waiting(method.echo.left);
                        let _ = answers.send(Ok(b"waiting".to_vec())).await;
                        answers.closed().await;
                    }
                    other => panic!("{other}"),
                }
            });
            let mut response = Response::new(ReceiverStream::new(stream));
            came.into_iter().for_each(|value| drop(response.metadata_mut().insert("x-server", value)));
            Ok(response)
        })
    }
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let method = Method { name, echo: self.clone() };
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).streaming(method, request).await) })
    }
}

/// A server, the proxy before it, and a client of the proxy.
struct Stage {
    echo: Echo,
    proxy: Proxy,
    client: Grpc<Channel>,
}

fn config(server: SocketAddr) -> String {
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\nhttp2 = true\npool = \"p\"\n\
         [pool.p]\nservers = [\"{server}\"]\nhttp_version = \"2\"\nretries = 0\n\
         max_body_size = \"off\"\n"
    )
}

async fn client(addr: SocketAddr) -> Grpc<Channel> {
    let channel = Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    client
}

async fn stage() -> Stage {
    let echo = Echo::default();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let routes = Routes::new(echo.clone());
    tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(TcpIncoming::from(listener)));
    let proxy = Proxy::start(&config(addr));
    let client = client(proxy.addr()).await;
    Stage { echo, proxy, client }
}

fn path(method: &str) -> PathAndQuery {
    format!("/test.Echo/{method}").parse().unwrap()
}

/// Runs `test`, which hangs when something is lost.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("an end in time") });
}

async fn wait_for_left(echo: &Echo, calls: usize) {
    while echo.left.load(Ordering::SeqCst) < calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_call_passes_with_its_metadata() {
    run(async {
        let mut stage = stage().await;
        let mut request = Request::new(b"hello".to_vec());
        request.metadata_mut().insert("x-client", "me".parse().unwrap());
        let answer = stage.client.unary(request, path("echo"), Raw).await.unwrap();
        assert_eq!(answer.metadata().get("x-server").unwrap(), "me");
        assert_eq!(answer.into_inner(), b"hello");
        stage.client.ready().await.unwrap();
        let big = vec![7; 3 << 20];
        let answer = stage.client.unary(Request::new(big.clone()), path("echo"), Raw).await.unwrap();
        assert!(answer.into_inner() == big);
        assert!(stage.proxy.log_line().starts_with("POST /test.Echo/echo 200 reason=-"));
    });
}

#[test]
fn streams_pass_in_both_directions() {
    run(async {
        let mut stage = stage().await;
        let parts = iter([b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
        let joined = stage.client.client_streaming(Request::new(parts), path("join"), Raw).await.unwrap();
        assert_eq!(joined.into_inner(), b"abc");

        stage.client.ready().await.unwrap();
        let counted = stage.client.server_streaming(Request::new(vec![200]), path("count"), Raw).await.unwrap();
        let mut counted = counted.into_inner();
        for n in 0..200 {
            assert_eq!(counted.message().await.unwrap().unwrap(), vec![n; 1000]);
        }
        let end = counted.message().await.unwrap_err();
        assert_eq!((end.code(), end.message()), (Code::DataLoss, "that was all"));

        stage.client.ready().await.unwrap();
        let (ask, asked) = mpsc::unbounded_channel();
        let asked = Request::new(UnboundedReceiverStream::new(asked));
        let mut answers = stage.client.streaming(asked, path("echo"), Raw).await.unwrap().into_inner();
        // Each question waits for the answer to the one before.
        for n in 0..100_u32 {
            ask.send(n.to_be_bytes().to_vec()).unwrap();
            assert_eq!(answers.message().await.unwrap().unwrap(), n.to_be_bytes());
        }
        drop(ask);
        assert_eq!(answers.message().await.unwrap(), None);
    });
}

#[test]
fn a_status_without_messages_passes_with_its_details() {
    run(async {
        let mut stage = stage().await;
        let status = stage.client.unary(Request::new(Vec::new()), path("missing"), Raw).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "nothing, \"at all\" \u{e4}"));
        assert_eq!(status.metadata().get("x-why").unwrap(), "no such thing");
    });
}

#[test]
fn a_client_that_leaves_is_told_to_the_server() {
    run(async {
        let mut stage = stage().await;
        let request = Request::new(Vec::new());
        let mut answers = stage.client.server_streaming(request, path("wait"), Raw).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap(), b"waiting");
        drop(answers);
        wait_for_left(&stage.echo, 1).await;
        stage.client.ready().await.unwrap();
        let (ask, asked) = mpsc::unbounded_channel::<Vec<u8>>();
        let asked = Request::new(UnboundedReceiverStream::new(asked));
        let mut answers = stage.client.streaming(asked, path("wait"), Raw).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap(), b"waiting");
        drop((ask, answers));
        wait_for_left(&stage.echo, 2).await;
        // The connection is as good as before.
        stage.client.ready().await.unwrap();
        let answer = stage.client.unary(Request::new(b"still".to_vec()), path("echo"), Raw).await.unwrap();
        assert_eq!(answer.into_inner(), b"still");
    });
}

#[test]
fn no_server_is_unavailable_in_words_of_grpc() {
    run(async {
        let proxy = Proxy::start(&config(free_addr()));
        let mut client = client(proxy.addr()).await;
        let status = client.unary(Request::new(Vec::new()), path("echo"), Raw).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    });
}
