//! Health checks by command, which a proxy says are due.

use std::ops::ControlFlow;

use super::{Flow, Supervisor};
use crate::app::child::Child;
use crate::app::commands::{Done, Subject};
use crate::ipc::ToProxy;

impl Supervisor {
    pub(super) fn on_check_due(&mut self, token: u64, subject: Subject) {
        let Some(proxy) = self.proxy.as_ref().map(Child::pid) else { return };
        self.commands.due(&self.loaded.config, (proxy, token), subject);
    }

    /// What a command says is for the proxy that wanted it; one that has been replaced wants nothing more.
    pub(super) async fn on_checked(&mut self, Done { proxy, token, outcome }: Done) -> Flow {
        if self.proxy.as_ref().is_none_or(|now| now.pid() != proxy) {
            return ControlFlow::Continue(());
        }
        self.tell(ToProxy::Checked { token, outcome }, &[]).await
    }
}
