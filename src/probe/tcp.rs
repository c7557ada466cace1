//! A server of bytes: takes a connection, and answers what it is told.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::model::TcpProbe;

use super::attempt::{Failure, beginning};

/// Bytes of an answer that are looked through.
const MOST: usize = 16 << 10;

/// Whether the server says what it should.
pub(super) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, probe: &TcpProbe) -> Result<(), Failure> {
    if let Some(text) = &probe.send {
        stream.write_all(text.as_bytes()).await.map_err(Failure::Connect)?;
        stream.flush().await.map_err(Failure::Connect)?;
    }
    let Some(expected) = &probe.expect else { return Ok(()) };
    let mut came = Vec::new();
    while came.len() < MOST {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await.map_err(Failure::Connect)?;
        came.extend_from_slice(piece.get(..read).unwrap_or_default());
        if expected.is_in(&came) {
            return Ok(());
        }
        if read == 0 {
            break;
        }
    }
    Err(Failure::Text(beginning(&came)))
}
