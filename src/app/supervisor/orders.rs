//! What the supervisor does for the operator, and for the virtual routers.

use std::ops::ControlFlow;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};
use tracing::{error, info, warn};

use super::reload::{Wanted, What};
use super::{Flow, Supervisor};
use crate::app::admin::{Answer, Asked, Request};
use crate::app::duty::{Due, Duty, DutyEvent};
use crate::config;
use crate::config::model::Overrides;
use crate::ipc::{Question, ToProxy};
use crate::net::clock;

/// For addresses to be taken off without waiting for anybody.
const AT_ONCE: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) async fn on_asked(&mut self, asked: Asked) -> Flow {
        let Asked { request, user, reply } = asked;
        if request.changes_something() {
            info!(%user, ?request, "asked by the operator");
        }
        let answer = match request {
            Request::Status => {
                let known = self.status();
                let complete = Box::new(|engine: Result<Answer, String>| {
                    Ok(complete_status(known, engine.and_then(|answer| answer)))
                });
                self.asks.ask(self.proxy.as_ref(), Question::Status, reply, complete);
                return ControlFlow::Continue(());
            }
            Request::Errors => return self.ask_proxy(Question::Errors, reply),
            Request::Explain(imagined) => return self.ask_proxy(Question::Explain(imagined), reply),
            Request::Stop { now } => {
                // Whoever asks sees the end of the process.
                let _ = reply.send(Ok(json!(self.stopping_text())));
                return if now { self.stop_now().await } else { self.stop().await };
            }
            Request::HandOver { router } => match self.hand_over(router.as_deref()).await {
                Ok(flow) => {
                    self.handover = Some(reply);
                    return flow;
                }
                Err(why) => Err(why),
            },
            Request::Maintenance { on } => self.set_maintenance(on).await,
            Request::Reload { dry_run, confirm_ms } => {
                let confirm = confirm_ms.map(Duration::from_millis);
                let wanted = Wanted { what: What::File, dry_run, confirm, by: user, reply: Some(reply) };
                return self.reload(wanted).await;
            }
            Request::Rollback { to, confirm_ms } => match self.rollback_target(to) {
                Ok(number) => {
                    let (what, confirm) = (What::Generation(number), confirm_ms.map(Duration::from_millis));
                    let wanted = Wanted { what, dry_run: false, confirm, by: user, reply: Some(reply) };
                    return self.reload(wanted).await;
                }
                Err(why) => Err(why),
            },
            Request::Confirm => self.confirm(),
            Request::History => Ok(self.history()),
            Request::Server { pool, server, order } => {
                match self.standing.say(&self.loaded.config, (&pool, &server), order, &user) {
                    Ok(text) => {
                        info!(by = user, "{text}");
                        self.overriding.push((reply, text));
                        return self.override_servers().await;
                    }
                    Err(why) => Err(why),
                }
            }
            Request::Upgrade { binary } => self.upgrade(binary),
            Request::UpgradeOutcome { number } => self.upgrade_outcome(number),
        };
        // Who asked may have left.
        let _ = reply.send(answer);
        ControlFlow::Continue(())
    }

    /// What is said of servers has changed.
    pub(super) async fn override_servers(&mut self) -> Flow {
        if !self.proxy.as_ref().is_some_and(|proxy| proxy.ready) {
            // The next one begins with it.
            self.overridden();
        }
        let token = u64::try_from(self.overriding.len()).unwrap_or(u64::MAX);
        self.tell(ToProxy::Override { token, overrides: self.overrides() }, &[]).await
    }

    /// What was said of servers is in force: who said it is told.
    pub(super) fn overridden(&mut self) {
        for (reply, text) in self.overriding.drain(..) {
            // Who asked may have left.
            let _ = reply.send(Ok(json!(text)));
        }
    }

    /// What wins over the configuration.
    pub(super) fn overrides(&self) -> Overrides {
        self.standing.overrides(&self.loaded.config)
    }

    /// The virtual routers follow the configuration.
    pub(super) async fn duty_follows(&mut self) -> Flow {
        let (loaded, bound) = (&self.loaded, self.sockets.bound());
        if let Some(duty) = &mut self.duty {
            if loaded.config.routers.is_empty() && duty.is_running() {
                // It stays, for proxies watch its guard.
                let event = duty.stop().await;
                return self.on_duty(event).await;
            }
            let event = duty.follow(loaded, bound, &self.program).await.unwrap_or_else(|e| {
                error!(error = %e, "handovers close the doors of before");
                DutyEvent::None
            });
            return self.on_duty(event).await;
        }
        match Duty::new(loaded, bound, &self.program) {
            Ok(duty) => self.duty = duty,
            Err(e) => error!(error = %e, "the virtual routers cannot be started before a restart"),
        }
        let pid = self.proxy.as_ref().map(|proxy| proxy.pid());
        if let (Some(duty), Some(pid)) = (&mut self.duty, pid) {
            duty.proxy_ready(pid, &self.program).await;
        }
        ControlFlow::Continue(())
    }

    /// Whether what runs is what is in the files.
    fn file(&self) -> Value {
        let files = &self.loaded.files;
        let is = match config::checksum(files) {
            _ if files.is_empty() => "rolled_back",
            Some(now) if now == self.loaded.checksum => "running",
            Some(_) => "changed",
            None => "unreadable",
        };
        json!({ "path": self.source.path, "is": is })
    }

    fn history(&self) -> Value {
        let all = self.history.as_ref().map(|history| history.list()).unwrap_or_default();
        json!({ "running": self.generation, "generations": all })
    }

    /// Hands on what the proxy says, or why it says nothing.
    fn ask_proxy(&mut self, question: Question, reply: oneshot::Sender<Answer>) -> Flow {
        let complete =
            Box::new(|answer: Result<Answer, String>| answer.unwrap_or_else(|why| Err(format!("proxy: {why}"))));
        self.asks.ask(self.proxy.as_ref(), question, reply, complete);
        ControlFlow::Continue(())
    }

    fn stopping_text(&self) -> String {
        let limit = self.loaded.config.global.shutdown_timeout;
        format!("stopping: addresses are handed over, connections under way are finished within {limit:?}")
    }

    async fn hand_over(&mut self, router: Option<&str>) -> Result<Flow, String> {
        if self.stop_at.is_some() || self.leaving {
            return Err("the instance stops".to_owned());
        }
        if self.upgrade.is_under_way() {
            return Err("an upgrade is under way".to_owned());
        }
        let duty = self.duty.as_mut().ok_or_else(no_routers)?;
        let event = duty.hand_over(router).await?;
        Ok(self.on_duty(event).await)
    }

    async fn set_maintenance(&mut self, on: bool) -> Answer {
        let duty = self.duty.as_mut().ok_or_else(no_routers)?;
        duty.set_maintenance(on).await;
        Ok(json!(if on {
            "maintenance: addresses go to a peer that can serve, and do not come back until `maintenance off`"
        } else {
            "maintenance is over"
        }))
    }

    /// Lets go of everything.
    pub(super) async fn stop_now(&mut self) -> Flow {
        if let Some(duty) = self.duty.as_mut().filter(|duty| duty.is_running()) {
            duty.stop_now().await;
            let stopped = timeout(AT_ONCE, async {
                loop {
                    let due = duty.next().await;
                    if let DutyEvent::Stopped = duty.handle(due, &self.program).await {
                        return;
                    }
                }
            });
            if stopped.await.is_err() {
                warn!("the addresses did not go in time");
            }
        }
        ControlFlow::Break(Ok(()))
    }

    pub(super) async fn on_due(&mut self, due: Due) -> Flow {
        let Some(duty) = &mut self.duty else { return ControlFlow::Continue(()) };
        let event = duty.handle(due, &self.program).await;
        self.on_duty(event).await
    }

    pub(super) async fn on_duty(&mut self, event: DutyEvent) -> Flow {
        match event {
            DutyEvent::None => ControlFlow::Continue(()),
            DutyEvent::Quiet(how) => self.quiet(how).await,
            DutyEvent::Abort { addresses, token } => self.abort(addresses, token).await,
            DutyEvent::Stopped if self.leaving => {
                self.leaving = false;
                self.drain().await
            }
            DutyEvent::Stopped => {
                if let Some(duty) = self.duty.as_mut().filter(|_| self.loaded.config.routers.is_empty()) {
                    duty.dissolve().await;
                }
                ControlFlow::Continue(())
            }
            DutyEvent::HandedOver(taken) => {
                if let Some(reply) = self.handover.take() {
                    let answer = if taken {
                        Ok(json!("handed over: a peer holds the addresses"))
                    } else {
                        Err("no peer took the addresses: this box keeps them".to_owned())
                    };
                    let _ = reply.send(answer);
                }
                let event = self.duty.as_mut().map_or(DutyEvent::None, Duty::resume);
                if let Some(duty) = &mut self.duty {
                    duty.change_now(&self.program).await;
                }
                Box::pin(self.on_duty(event)).await
            }
        }
    }

    fn status(&self) -> Value {
        let proxy = self.proxy.as_ref();
        let vrrp = self.duty.as_ref().map(|duty| {
            json!({
                "pid": duty.pid(),
                "scheduling": duty.scheduling(),
                "maintenance": duty.is_in_maintenance(),
                "routers": duty.status().routers,
                "drops": duty.status().drops,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "node": &*self.loaded.config.node,
            "pid": std::process::id(),
            "uptime_seconds": clock::now().since(self.started) / 1000,
            "stopping": self.leaving || self.stop_at.is_some(),
            "generation": self.generation,
            "file": self.file(),
            "unconfirmed_seconds": self.reload.unconfirmed_for(),
            "overrides": self.standing.all(),
            "certificates": self.certificates.status(&self.loaded.config),
            "proxy": {
                "pid": proxy.map(|proxy| proxy.pid()),
                "ready": proxy.is_some_and(|proxy| proxy.ready),
                "connections": proxy.map_or(0, |proxy| proxy.connections),
            },
            "retired": self
                .retired
                .list()
                .map(|(pid, connections)| json!({ "pid": pid, "connections": connections }))
                .collect::<Vec<_>>(),
            "vrrp": vrrp.unwrap_or_else(|| json!({ "routers": [] })),
        })
    }
}

/// Puts what the proxy says into what the supervisor says, or why it says nothing.
fn complete_status(mut known: Value, engine: Answer) -> Value {
    match engine {
        Ok(Value::Object(engine)) => {
            for (key, value) in engine {
                known[key] = value;
            }
            known["proxy"]["trouble"] = Value::Null;
        }
        Ok(_) => known["proxy"]["trouble"] = json!("its answer is no status"),
        Err(why) => known["proxy"]["trouble"] = json!(why),
    }
    known
}

fn no_routers() -> String {
    "there is no [vrrp.*] in the configuration".to_owned()
}
