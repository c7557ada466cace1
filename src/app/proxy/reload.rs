//! A configuration that is prepared while another runs: parsed and built on a thread of its own, which gives way to the
//! workers, so that nothing waits for it.

use std::future::pending;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::sync::oneshot;

use crate::app::background::in_background;
use crate::app::proxy::names::Names;
use crate::config;
use crate::ipc::{FromProxy, Setup};
use crate::proxy::{BoundListener, Builder};
use crate::snapshot::{Addresses, Snapshot};

/// What is being prepared, and what is.
#[derive(Default)]
pub(super) struct Reload {
    coming: Option<(u64, oneshot::Receiver<Result<Apply, String>>)>,
    prepared: Option<(u64, Apply)>,
}

/// Ready to be made current.
pub(super) struct Apply {
    pub(super) next: Snapshot,
    pub(super) listeners: Vec<BoundListener>,
    pub(super) log_files: Vec<(PathBuf, OwnedFd)>,
    /// Addresses of names, also of new ones.
    pub(super) found: Addresses,
}

/// Sockets, and files of access logs.
type Opened = (Vec<BoundListener>, Vec<(PathBuf, OwnedFd)>);

impl Reload {
    /// Begins; [`Self::next`] has the answer.
    pub(super) fn prepare(
        &mut self,
        token: u64,
        node: String,
        setup: Setup,
        descriptors: Vec<OwnedFd>,
        builder: Builder,
        names: &Names,
    ) {
        self.forget();
        let (tell, told) = oneshot::channel();
        self.coming = Some((token, told));
        let Some((listeners, log_files)) = take(&setup, descriptors) else {
            return drop(tell.send(Err("descriptors are missing".to_owned())));
        };
        let Setup { config: text, attachments, overrides, .. } = setup;
        // First the configuration, for its names; then the rest.
        let parsed = in_background(move || config::parse_with(&text, &node, &attachments).map_err(|e| e.to_string()));
        let names = names.finder();
        tokio::spawn(async move {
            let built = async {
                let config = parsed.await.map_err(|_| "the thread that parses has ended".to_owned())??;
                let found = names.look_up(&config).await;
                let addresses = found.clone();
                let next = in_background(move || builder.build(config, overrides, &addresses));
                let next = next.await.map_err(|_| "the thread that builds has ended".to_owned())?;
                Ok(Apply { next, listeners, log_files, found })
            };
            // Nobody waits any more: it was forgotten.
            let _ = tell.send(built.await);
        });
    }

    /// Drops what is prepared, or will be.
    pub(super) fn forget(&mut self) {
        (self.coming, self.prepared) = (None, None);
    }

    /// What is prepared under `token`.
    pub(super) fn take_prepared(&mut self, token: u64) -> Option<Apply> {
        self.prepared.take().filter(|(prepared, _)| *prepared == token).map(|(_, apply)| apply)
    }

    /// The answer to what was last begun; never without. Cancel-safe.
    pub(super) async fn next(&mut self) -> FromProxy {
        let Some((token, coming)) = &mut self.coming else { return pending().await };
        let (token, built) = (*token, coming.await);
        self.coming = None;
        match built {
            Ok(Ok(apply)) => {
                self.prepared = Some((token, apply));
                FromProxy::Prepared { token }
            }
            Ok(Err(reason)) => FromProxy::Refused { token, reason },
            Err(_) => FromProxy::Refused { token, reason: "preparing it failed".to_owned() },
        }
    }
}

/// The sockets and files of a setup; `None`: their number is not what it says.
pub(super) fn take(setup: &Setup, descriptors: Vec<OwnedFd>) -> Option<Opened> {
    let shards: usize = setup.listeners.iter().map(|l| l.shards).sum();
    if descriptors.len() != shards + setup.log_files.len() {
        return None;
    }
    let mut descriptors = descriptors.into_iter();
    let bound = setup.listeners.iter().map(|l| BoundListener {
        name: l.name.clone(),
        addr: l.addr,
        shards: descriptors.by_ref().take(l.shards).map(TcpListener::from).collect(),
    });
    let bound = bound.collect();
    Some((bound, setup.log_files.iter().cloned().zip(descriptors).collect()))
}
