//! A backend of the demo: an HTTP/1.1 server that says who it is, and can be told to be gone for a while.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONNECTION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

/// How long a backend that was stopped is gone.
pub(super) const PAUSE: Duration = Duration::from_secs(15);

/// A backend that is bound, and not yet served.
#[derive(Debug)]
pub(super) struct Backend {
    name: &'static str,
    listener: std::net::TcpListener,
}

/// What the connections of a backend share.
struct Shared {
    name: &'static str,
    answered: Cell<u64>,
    stop: Notify,
}

impl Backend {
    /// On a free port of loopback.
    pub(super) fn bind(name: &'static str) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self { name, listener })
    }

    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }
}

/// Serves `backends` until the process ends, away from the main thread: that one watches the proxy.
pub(super) fn serve_on_a_thread(backends: Vec<Backend>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        let local = LocalSet::new();
        for backend in backends {
            local.spawn_local(async move {
                if let Err(e) = backend.serve(PAUSE).await {
                    eprintln!("demo backend: {e}");
                }
            });
        }
        runtime.block_on(local);
    };
    std::thread::Builder::new().name("demo-backends".to_owned()).spawn(serve)?;
    Ok(())
}

impl Backend {
    async fn serve(self, pause: Duration) -> io::Result<()> {
        let addr = self.listener.local_addr()?;
        let mut listener = TcpListener::from_std(self.listener)?;
        let shared = Rc::new(Shared { name: self.name, answered: Cell::new(0), stop: Notify::new() });
        loop {
            serve_until_stopped(listener, &shared).await;
            sleep(pause).await;
            listener = bind_again(addr).await;
        }
    }
}

/// When it returns, the listener and all connections are closed.
async fn serve_until_stopped(listener: TcpListener, shared: &Rc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn_local(serve_connection(stream, Rc::clone(shared)));
            },
            Some(_) = connections.join_next() => {}
            () = shared.stop.notified() => return,
        }
    }
}

/// Somebody else may have taken the port meanwhile, and may give it back.
async fn bind_again(addr: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, shared: Rc<Shared>) {
    let stop = Cell::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &shared, &stop);
        async { Ok::<_, Infallible>(response) }
    });
    // A client that breaks off is the demo's purpose.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if stop.get() {
        shared.stop.notify_one();
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared, stop: &Cell<bool>) -> Response<Full<Bytes>> {
    let (method, path, name) = (request.method(), request.uri().path(), shared.name);
    if method == Method::POST && path == "/stop" {
        stop.set(true);
        let text = format!("{name} is gone for {} seconds\n", PAUSE.as_secs());
        let mut response = Response::new(Full::from(text));
        // The backend stops when this connection has ended, so that the answer arrives.
        response.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
        return response;
    }
    shared.answered.set(shared.answered.get() + 1);
    Response::new(Full::from(format!("{name}: answer {} to {method} {path}\n", shared.answered.get())))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn exchange(addr: SocketAddr, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn a_backend_says_who_it_is_stops_and_comes_back() {
        let backend = Backend::bind("red").unwrap();
        let addr = backend.listener.local_addr().unwrap();
        let get = "GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let test = async {
            assert!(exchange(addr, get).await.unwrap().ends_with("\r\n\r\nred: answer 1 to GET /x\n"));
            let mut idle = TcpStream::connect(addr).await.unwrap();
            let stop = exchange(addr, "POST /stop HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            assert!(stop.ends_with("red is gone for 15 seconds\n"), "{stop}");
            assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
            while exchange(addr, get).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        let local = LocalSet::new();
        local.spawn_local(backend.serve(Duration::from_millis(1)));
        tokio::time::timeout(Duration::from_secs(10), local.run_until(test)).await.unwrap();
    }
}
