//! `[pool.NAME.health_check]`.

use super::*;

table! {
    /// `[pool.NAME.health_check]`
    struct RawHealthCheck with tcp: RawTcpCheck, http: RawHttpCheck, grpc: RawGrpcCheck, exec: RawExecCheck, db: RawDatabaseCheck {
        /// "tcp": a connection is made, and may be talked to; "http": a request is answered; "grpc": the server says that it
        /// serves, by grpc.health.v1.Health over HTTP/2; "mysql" (MariaDB too), "postgres", "redis": the database
        /// answers, and says whether it is a primary or a replica; "exec": a command ends with status 0.
        r#type: CheckType = "tcp",
        /// From the start of one probe of a server to the start of the next.
        interval: Period = "2s",
        /// The same while results speak against the present state, or a server says that it is primary or replica and was the
        /// other before: HAProxy's fastinter. Default: the interval.
        fast_interval: Period,
        /// A probe may come sooner by up to this share of the interval, at random: "1%" to "50%". Never later, so that a dead
        /// server is still out in time. HAProxy's spread-checks.
        jitter: OrOff<Percent> = "off",
        /// A probe without an answer by then has failed. The default is never more than the interval.
        timeout: Period = "1s",
        /// Good probes in a row until a server that is down is up. The first probe of all decides alone.
        rise: Int<1, 1000> = 2,
        /// Bad probes in a row until a server that is up is down.
        fall: Int<1, 1000> = 3,
        /// What a server counts as that is new or back from maintenance: "unknown", it is used, and the first probe decides
        /// alone; "up", until `fall` bad probes; "down", it gets nothing until `rise` good ones.
        initial_state: InitialState = "unknown",
        /// Port to probe. Default: the server's.
        port: Int<1, 65_535>,
        /// Address to probe. Default: the server's.
        address: IpAddr,
        /// tcp, http, grpc: whether TLS is spoken. Default: as the pool has it.
        tls: bool,
        /// tcp, http: a good answer holds this text, or what matches { regex = "..." }; of an http response, its body within
        /// the first 64 KiB.
        expect_text: ExpectText,
    }
}

table! {
    /// `expect_text` of a health check
    struct RawTextRegex {
        /// Found anywhere in the answer unless anchored: HAProxy's rstring. tcp: in what has come so far; http: in the whole
        /// body.
        regex: String,
    }
}

table! {
    /// Keys of health checks with `type = "tcp"`
    struct RawTcpCheck {
        /// Sent once connected, as it is written: "PING\\r\\n". Without, and without expect_text, the connection is closed.
        send: String,
    }
}

table! {
    /// Keys of health checks with `type = "http"`
    struct RawHttpCheck {
        /// Method of the request, which has no body.
        method: String = "GET",
        /// Path that is asked for, a query included.
        path: String = "/",
        /// Value of the Host field. Default: the server's address as written.
        host: String,
        /// Statuses of a good answer: a number such as 204, a class such as "2xx", or a list of them.
        expect: Several<Statuses> = ["2xx", "3xx"],
        /// Further fields of the request: NAME = "value"; a value may be a secret: { file }, { env } or { credential }.
        headers: Named<HeaderValue> = {},
    }
}

table! {
    /// Keys of health checks with `type = "grpc"`
    struct RawGrpcCheck {
        /// The service that is asked about: nginx Plus' grpc_service. "": the server as a whole.
        service: String = "",
    }
}

table! {
    /// Keys of health checks with `type = "exec"`
    struct RawExecCheck {
        /// The whole path of a program and its arguments, run as script_user with BASCULE_POOL, BASCULE_SERVER,
        /// BASCULE_ADDRESS and BASCULE_PORT in its environment: HAProxy's external-check. Status 0 is good; otherwise the first
        /// line that it writes is the reason in the log and in status.
        command: List<String>,
    }
}

table! {
    /// Keys of health checks with `type = "mysql"`, `"postgres"` and `"redis"`
    struct RawDatabaseCheck {
        /// Who logs in; needs no rights on data. Default: "bascule"; redis: nobody, or the default user when there is a
        /// password.
        user: String,
        /// Its password: text, or { file }, { env } or { credential }.
        password: Password,
        /// postgres: the database to log in to.
        database: String = "postgres",
        /// A replica that is further behind than this, or does not replicate, is bad. "off": its lag does not count.
        max_lag: OrOff<Period> = "off",
    }
}
