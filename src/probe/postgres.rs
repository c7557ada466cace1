//! Asks PostgreSQL whether it is in recovery, and how far behind.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use super::attempt::{Failure, beside, in_full};
use super::bounded::Bounded;
use crate::config::model::DatabaseProbe;
use crate::health::Role;

/// Recovery; whether everything received is replayed while the sender is there; seconds since the last replayed commit.
///
/// Without writes on the primary, the last commit grows old and nothing is behind: then receive and replay are equal, which
/// says nothing of a replica that has lost its primary, so that a sender must be known too. Who may not see
/// pg_stat_wal_receiver's columns (no pg_monitor) still sees whether it has a row.
const QUESTION: &str = "SELECT pg_is_in_recovery(), \
    COALESCE(pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn(), false) \
    AND EXISTS (SELECT 1 FROM pg_stat_wal_receiver), \
    EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp())::bigint";

/// What the server on `stream` is.
pub(super) async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, probe: &DatabaseProbe) -> Result<Role, Failure> {
    let mut config = Config::new();
    config.user(probe.user.as_deref().unwrap_or("bascule")).dbname(&*probe.database).application_name("bascule");
    if let Some(password) = &probe.password {
        config.password(&**password);
    }
    let says = |e: tokio_postgres::Error| {
        let text = e.as_db_error().map_or_else(|| in_full(&e), |e| e.message().to_owned());
        Failure::Database(text)
    };
    let (client, connection) = config.connect_raw(Bounded::new(stream), NoTls).await.map_err(says)?;
    let answer = beside(connection, client.simple_query(QUESTION)).await.map_err(says)?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some([0, 1, 2].map(|i| row.try_get(i).ok().flatten())),
        _ => None,
    });
    match row {
        Some([Some("f"), ..]) => Ok(Role::Primary),
        Some([Some("t"), current, age]) => {
            judge(current == Some("t"), age.and_then(|age| age.parse().ok()), probe.max_lag).map(|()| Role::Replica)
        }
        _ => Err(Failure::Database("the answer is not that of PostgreSQL".to_owned())),
    }
}

/// Whether a replica is near enough.
fn judge(current: bool, seconds: Option<i64>, max_lag: Option<Duration>) -> Result<(), Failure> {
    let Some(max) = max_lag.filter(|_| !current) else { return Ok(()) };
    match seconds {
        Some(behind) if u64::try_from(behind).unwrap_or(0) <= max.as_secs() => Ok(()),
        Some(behind) => Err(Failure::Lag(Some(u64::try_from(behind).unwrap_or(0)))),
        None => Err(Failure::Lag(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_has_all_is_not_behind_however_old_the_last_write() {
        let max = Some(Duration::from_secs(10));
        for (current, seconds, max_lag, good) in [
            (true, Some(9999), max, true),
            (true, None, max, true),
            (false, Some(10), max, true),
            (false, Some(-3), max, true),
            (false, Some(11), max, false),
            (false, None, max, false),
            (false, Some(11), None, true),
        ] {
            assert_eq!(judge(current, seconds, max_lag).is_ok(), good, "{current} {seconds:?} {max_lag:?}");
        }
    }
}
