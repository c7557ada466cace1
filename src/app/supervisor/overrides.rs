//! What the operator says of servers while the instance runs, kept on disk: it outlives reloads, upgrades and restarts, until it
//! is taken back or the file changes the same value.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::app::admin::ServerOrder;
use crate::config::model::{Config, Duty, Override, Overrides, ServerSpec};
use crate::net::clock::unix_seconds;
use crate::sys::replace::{Lasting, replace};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Standing {
    path: PathBuf,
    said: Vec<Said>,
}

/// What is said of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    pool: Arc<str>,
    server: Arc<str>,
    duty: Option<Duty>,
    weight: Option<u32>,
    /// What the file said at that time: a file that says something else since then wins.
    file_weight: u32,
    file_down: bool,
    /// Seconds since 1970.
    at: u64,
    by: String,
}

impl Standing {
    /// What is kept in `dir`, as far as it still holds for `config`.
    pub(super) fn open(dir: &Path, config: &Config) -> Self {
        let path = dir.join("overrides.json");
        let said = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                warn!(file = %path.display(), error = %e, "what was said of servers cannot be read: as in the file");
                Vec::new()
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => {
                warn!(file = %path.display(), error = %e, "what was said of servers cannot be read: as in the file");
                Vec::new()
            }
        };
        let mut this = Self { path, said };
        this.follow(config);
        this
    }

    /// What wins over `config`, which may not be in force yet.
    pub(super) fn overrides(&self, config: &Config) -> Overrides {
        let one = |said: &Said| Override {
            pool: Arc::clone(&said.pool),
            server: Arc::clone(&said.server),
            duty: said.duty,
            weight: said.weight,
        };
        Overrides(self.still_said(config).iter().map(one).collect())
    }

    /// All that is said, with its age, for status.
    pub(super) fn all(&self) -> Vec<serde_json::Value> {
        let now = unix_seconds();
        let one = |said: &Said| {
            serde_json::json!({
                "pool": said.pool,
                "server": said.server,
                "duty": said.duty,
                "weight": said.weight,
                "for_seconds": now.saturating_sub(said.at),
                "by": said.by,
            })
        };
        self.said.iter().map(one).collect()
    }

    /// Says something of a server; the sentence that confirms it.
    ///
    /// # Errors
    /// There is no such server.
    pub(super) fn say(
        &mut self,
        config: &Config,
        (pool, server): (&str, &str),
        order: ServerOrder,
        by: &str,
    ) -> Result<String, String> {
        let spec = find(config, pool, server).ok_or_else(|| unknown(config, pool, server))?;
        let at = unix_seconds();
        let known = self.said.iter().position(|said| *said.pool == *pool && *said.server == *server);
        let mut said = known.map_or_else(
            || Said {
                pool: pool.into(),
                server: Arc::clone(&spec.name),
                duty: None,
                weight: None,
                file_weight: spec.weight,
                file_down: spec.down,
                at,
                by: by.to_owned(),
            },
            |known| self.said.remove(known),
        );
        let text = match order {
            ServerOrder::Drain => {
                said.duty = Some(Duty::Drain);
                "gets nothing new; what it has goes on".to_owned()
            }
            ServerOrder::Maintenance => {
                said.duty = Some(Duty::Maintenance);
                "gets nothing new and is not checked; what it has goes on".to_owned()
            }
            ServerOrder::Ready => {
                said.duty = None;
                if spec.down { "is as the file has it: down".to_owned() } else { "gets work again".to_owned() }
            }
            ServerOrder::Weight(weight) => {
                said.weight = weight.filter(|weight| *weight != spec.weight);
                format!("has weight {}", weight.unwrap_or(spec.weight))
            }
        };
        (said.at, said.by) = (at, by.to_owned());
        if said.duty.is_some() || said.weight.is_some() {
            self.said.push(said);
        }
        self.write();
        Ok(format!("{pool}/{server} {text}"))
    }

    /// Another configuration is in force: what it says of the same values wins.
    pub(super) fn follow(&mut self, config: &Config) {
        let still = self.still_said(config);
        if self.said != still {
            info!(before = self.said.len(), now = still.len(), "the file says something else of servers: it wins");
            self.said = still;
            self.write();
        }
    }

    fn still_said(&self, config: &Config) -> Vec<Said> {
        let mut still = self.said.clone();
        still.retain_mut(|said| {
            let Some(spec) = find(config, &said.pool, &said.server) else { return false };
            if spec.weight != said.file_weight {
                (said.weight, said.file_weight) = (None, spec.weight);
            }
            if spec.down != said.file_down {
                (said.duty, said.file_down) = (None, spec.down);
            }
            said.duty.is_some() || said.weight.is_some()
        });
        still
    }

    fn write(&self) {
        let written = serde_json::to_vec_pretty(&self.said).map_err(io::Error::from);
        if let Err(e) = written.and_then(|content| replace(&self.path, &content, Lasting::Machine)) {
            error!(file = %self.path.display(), error = %e, "what is said of servers holds until this instance ends");
        }
    }
}

fn find<'a>(config: &'a Config, pool: &str, server: &str) -> Option<&'a ServerSpec> {
    let pool = config.pools.iter().find(|p| *p.name == *pool)?;
    pool.servers.iter().find(|s| *s.name == *server)
}

fn unknown(config: &Config, pool: &str, server: &str) -> String {
    let Some(pool) = config.pools.iter().find(|p| *p.name == *pool) else {
        let names: Vec<&str> = config.pools.iter().map(|p| &*p.name).collect();
        return format!("there is no pool \"{pool}\"; there are {}", names.join(", "));
    };
    let names: Vec<&str> = pool.servers.iter().map(|s| &*s.name).collect();
    format!("pool {} has no server \"{server}\"; it has {}", pool.name, names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn config(servers: &str) -> Config {
        let text = format!("[global]\nrun_dir = \"/r\"\nstate_dir = \"/s\"\n[pool.p]\nservers = [{servers}]\n");
        config::parse_effective(&text, "box").unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn what_is_said_holds_until_it_is_taken_back_or_the_file_says_something_else() {
        let dir = std::env::temp_dir().join(format!("bascule-overrides-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let two = config("{ address = \"10.0.0.1:80\", name = \"a\" }, { address = \"10.0.0.2:80\", name = \"b\" }");
        let mut standing = Standing::open(&dir, &two);
        let mut say = |server: &str, order| standing.say(&two, ("p", server), order, "root");
        say("a", ServerOrder::Drain).unwrap();
        say("a", ServerOrder::Weight(Some(7))).unwrap();
        say("b", ServerOrder::Maintenance).unwrap();
        assert_eq!(say("c", ServerOrder::Drain).unwrap_err(), "pool p has no server \"c\"; it has a, b");

        // A restart.
        let mut standing = Standing::open(&dir, &two);
        let a = standing.overrides(&two).of("p", "a").cloned().unwrap();
        assert_eq!((a.duty, a.weight), (Some(Duty::Drain), Some(7)));
        standing.say(&two, ("p", "b"), ServerOrder::Ready, "root").unwrap();
        assert_eq!(standing.overrides(&two).of("p", "b"), None);

        // The file changes one of the two values.
        let heavier = config("{ address = \"10.0.0.1:80\", name = \"a\", weight = 3 }");
        assert_eq!(standing.overrides(&heavier).of("p", "a").unwrap().weight, None);
        standing.follow(&heavier);
        let a = standing.overrides(&heavier).of("p", "a").cloned().unwrap();
        assert_eq!((a.duty, a.weight), (Some(Duty::Drain), None));
        // The server goes.
        standing.follow(&config("{ address = \"10.0.0.2:80\", name = \"b\" }"));
        assert_eq!(standing.overrides(&two), Overrides::default());
        fs::write(dir.join("overrides.json"), "{").unwrap();
        assert_eq!(Standing::open(&dir, &two).overrides(&two), Overrides::default());
        fs::remove_dir_all(dir).unwrap();
    }
}
