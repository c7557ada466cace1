//! A server of HTTP/2 that the test plays itself, exchange by exchange.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Waker};

use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::wire::PATIENCE;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct H2Origin {
    addr: SocketAddr,
    exchanges: mpsc::Receiver<Exchange>,
    connections: Arc<AtomicUsize>,
    runtime: tokio::runtime::Runtime,
}

/// One request, to be answered.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) head: Parts,
    pub(crate) body: RecvStream,
    respond: SendResponse<Bytes>,
    /// Which connection it came on, from 1.
    pub(crate) connection: usize,
    goodbye: Arc<Notify>,
}

/// Runs a future of h2, whose connection goes on elsewhere.
pub(crate) fn wait<T>(what: &str, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let limited = runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await });
    limited.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Whether the other end has reset the stream.
pub(crate) fn is_reset(stream: &mut SendStream<Bytes>) -> bool {
    stream.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl H2Origin {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// One with other settings.
    pub(crate) fn with(change: impl Fn(&mut Builder)) -> Self {
        let mut builder = Builder::new();
        change(&mut builder);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, exchanges) = mpsc::channel();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = count.fetch_add(1, Ordering::SeqCst) + 1;
                let (builder, tell) = (builder.clone(), tell.clone());
                tokio::spawn(async move {
                    let goodbye = Arc::<Notify>::default();
                    let Ok(mut streams) = builder.handshake::<_, Bytes>(stream).await else { return };
                    loop {
                        tokio::select! {
                            () = goodbye.notified() => streams.graceful_shutdown(),
                            next = streams.accept() => {
                                let Some(Ok((request, respond))) = next else { return };
                                let (head, body) = request.into_parts();
                                let goodbye = Arc::clone(&goodbye);
                                let _ = tell.send(Exchange { head, body, respond, connection, goodbye });
                            }
                        }
                    }
                });
            }
        });
        Self { addr, exchanges, connections, runtime }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next request.
    pub(crate) fn request(&self) -> Exchange {
        self.exchanges.recv_timeout(PATIENCE).expect("a request to the server")
    }

    /// Whether a request waits.
    pub(crate) fn try_request(&self) -> Option<Exchange> {
        self.exchanges.try_recv().ok()
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The runtime of its connections.
    pub(crate) fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }
}

impl Exchange {
    /// The value of a field as text.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// All of the request's body that is still to come, and its trailers.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let body = &mut self.body;
        wait("the request's body", async {
            let mut all = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                all.extend_from_slice(&data);
            }
            (all, body.trailers().await.unwrap())
        })
    }

    /// The next data of the request.
    pub(crate) fn data(&mut self) -> Bytes {
        let data = wait("data of the request", self.body.data()).expect("data, not the end").unwrap();
        self.body.flow_control().release_capacity(data.len()).unwrap();
        data
    }

    /// Sends an interim response.
    pub(crate) fn interim(&mut self, response: Response<()>) {
        self.respond.send_informational(response).unwrap();
    }

    /// Sends a response head.
    pub(crate) fn head(&mut self, response: Response<()>, ended: bool) -> SendStream<Bytes> {
        self.respond.send_response(response, ended).unwrap()
    }

    /// Answers with 200 and this body.
    pub(crate) fn ok(mut self, body: &str) {
        let mut stream = self.head(Response::new(()), false);
        stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    }

    /// Resets the stream.
    pub(crate) fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Waits until the other end has reset the stream.
    pub(crate) fn reset_reason(&mut self) -> Reason {
        wait("a reset", std::future::poll_fn(|cx| self.respond.poll_reset(cx))).unwrap()
    }

    /// Lets its connection take no more streams.
    pub(crate) fn say_goodbye(&self) {
        self.goodbye.notify_one();
    }
}
