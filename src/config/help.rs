//! Advice for keys and values that are not known: the nearest known one, the right table, our word for a foreign one.

use super::schema;

/// Names of nginx, HAProxy and keepalived, and what does the same here.
const FOREIGN: &[(&str, &str)] = &[
    ("acl", "conditions are `path`, `methods` and `headers` of a route"),
    ("appsession", "`sticky = { type = \"cookie\", ... }` of a pool sets a cookie of its own"),
    ("backend", "a group of servers is `[pool.NAME]`"),
    ("balance", "`algorithm` of a pool"),
    ("base_ejection_time", "`ejection_time` in `ejection` of a pool"),
    ("canary", "`pools` of a route, with `weight`, `headers` or `cookies`"),
    ("check", "`health_check` of a pool"),
    ("agent_check", "`health_check = { type = \"exec\", command = [...] }` of a pool can ask an agent"),
    ("client_body_buffer_size", "`request_buffering`, in a pool, site or route"),
    ("client_body_timeout", "`body_timeout` of a listener"),
    ("client_header_buffer_size", "`max_header_size` of a listener"),
    ("client_header_timeout", "`header_timeout` of a listener"),
    ("client_max_body_size", "`max_body_size`, in a pool, site or route"),
    ("cookie", "`sticky = { type = \"cookie\", cookie = ..., secret = ... }` of a pool"),
    ("default_server", "a site without `hosts` takes every host not named elsewhere"),
    ("error_log", "`[global.log]`; it goes to stderr"),
    ("error_page", "`error_pages = { \"502\" = ... }`, in a pool, site or route"),
    ("consecutive_gateway_failure", "`consecutive_gateway_errors` in `ejection` of a pool"),
    (
        "error_limit",
        "`consecutive_5xx` in `ejection` of a pool; for the pool as a whole `error_rate` in `circuit_breaker`",
    ),
    ("errorfile", "`error_pages = { \"502\" = { file = ... } }`, in a pool, site or route"),
    ("frontend", "an address to listen on is `[listener.NAME]`, hosts and paths are in `[site.NAME]`"),
    (
        "fullconn",
        "`max_requests` or `max_connections` in `circuit_breaker` of a pool; `max_conns` of a server does not grow",
    ),
    ("group", "the proxy takes the main group of `global.user`"),
    (
        "http_request",
        "`request_headers`, `redirect` and `respond` of a route; `redirect_https` of a listener or site for `redirect` \
         scheme https; `allow`, `deny` and `limits` for who comes in",
    ),
    ("redirect_scheme", "`redirect_https` of a listener or site"),
    ("ssl_redirect", "`redirect_https` of a listener or site"),
    ("force_ssl_redirect", "`redirect_https` of a listener or site"),
    ("strict_transport_security", "`hsts` of a listener or site"),
    ("webroot", "`acme_challenge_dir` of a listener"),
    ("http_response", "`response_headers`, in a pool, site or route"),
    ("httpchk", "`health_check = { type = \"http\", path = \"/\" }` of a pool"),
    ("fastinter", "`fast_interval` in `health_check` of a pool"),
    (
        "downinter",
        "`interval` in `health_check` of a pool is for servers that are down too; `fast_interval` while they come up",
    ),
    ("external_check", "`health_check = { type = \"exec\", command = [...] }` of a pool"),
    ("grpc_pass", "`pool` of a route, and `http_version = \"2\"` of the pool"),
    ("grpc_service", "`service` in `health_check = { type = \"grpc\" }` of a pool"),
    (
        "init_state",
        "`initial_state` in `health_check` of a pool: fully-up is \"up\", up is \"unknown\", fully-down is \"down\"",
    ),
    ("inter", "`interval` in `health_check` of a pool"),
    ("mandatory", "`initial_state = \"down\"` in `health_check` of a pool"),
    ("misc_check", "`health_check = { type = \"exec\", command = [...] }` of a pool"),
    ("misc_path", "`health_check = { type = \"exec\", command = [...] }` of a pool"),
    ("passes", "`rise` in `health_check` of a pool"),
    ("fails", "`fall` in `health_check` of a pool"),
    ("spread_checks", "`jitter` in `health_check` of a pool"),
    ("tcp_check", "`health_check = { type = \"tcp\", send = ..., expect_text = ... }` of a pool"),
    ("http2_body_preread_size", "`http2_stream_window` of a listener"),
    ("http2_chunk_size", "there is nothing to set: what there is to send goes out in frames of 16 KiB at most"),
    ("http2_idle_timeout", "`keepalive_timeout` of a listener"),
    ("http2_max_requests", "`keepalive_requests` of a listener"),
    ("http2_recv_timeout", "`header_timeout` and `body_timeout` of a listener"),
    ("http2_max_field_size", "`max_header_size` of a listener"),
    ("http2_max_header_size", "`max_header_size` of a listener"),
    ("http2_recv_buffer_size", "`http2_connection_window` of a listener"),
    ("http2_push", "there is no server push: browsers have given it up"),
    ("glitches_threshold", "`http2_max_glitches` of a listener"),
    ("initial_window_size", "`http2_stream_window` of a listener"),
    ("keepalive_requests", "of clients: in a listener; of servers: in a pool"),
    ("keepalive_timeout", "of clients: in a listener; of servers: in a pool"),
    ("large_client_header_buffers", "`max_header_size` and `max_uri_size` of a listener"),
    ("limit_conn", "`limits` of a listener, site or route names a `[limit.NAME]` with `concurrent`"),
    ("limit_conn_dry_run", "`dry_run` of `[limit.NAME]`"),
    ("limit_conn_status", "`status` of `[limit.NAME]`"),
    ("limit_conn_zone", "`[limit.NAME]` with `key`, `concurrent` and `max_keys`"),
    ("limit_req", "`limits` of a listener, site or route names a `[limit.NAME]`, which has `burst` and `delay`"),
    ("limit_req_dry_run", "`dry_run` of `[limit.NAME]`"),
    ("limit_req_log_level", "there is nothing to set: what is refused is in the `access_log`, and counted"),
    ("limit_req_status", "`status` of `[limit.NAME]`"),
    ("limit_req_zone", "`[limit.NAME]` with `key`, `rate` and `max_keys`"),
    ("listen", "`bind` of a listener"),
    ("location", "`[[site.NAME.route]]` with `path`, `path_prefix`, `path_exact` or `path_regex`"),
    ("log_format", "`format` of `[access_log]`"),
    ("nodelay", "`delay = \"none\"` of `[limit.NAME]`, which is the default"),
    ("max_conn", "`max_conns` of a server, `max_connections` of a listener"),
    ("max_conns", "`max_conns` of a server, `max_connections` of a listener"),
    ("maxconn", "`max_connections` of `[global]`, a listener or `circuit_breaker` of a pool; `max_conns` of a server"),
    ("maxqueue", "`queue` of a pool; with what waits for its connection: `max_pending` in `circuit_breaker`"),
    ("mirror_request_body", "a body that is held is copied: `request_buffering`"),
    ("mode", "`protocol` of a listener"),
    ("multi_accept", "there is nothing to set"),
    ("nbthread", "`workers` of `[global]`"),
    ("observe", "`ejection` of a pool; for tcp and http the same"),
    ("persist", "`sticky` of a pool"),
    ("on_error", "`ejection` of a pool leaves a server out"),
    ("option", "each option is a key of its own; see conf/full.toml"),
    ("outlier_detection", "`ejection` of a pool"),
    ("circuit_breakers", "`circuit_breaker` of a pool, without priorities"),
    ("thresholds", "`max_connections`, `max_pending`, `max_requests` and `max_retries` in `circuit_breaker` of a pool"),
    ("max_pending_requests", "`max_pending` in `circuit_breaker` of a pool"),
    ("budget_percent", "`percent` in `retry_budget` of a pool"),
    ("min_retry_concurrency", "`min` in `retry_budget` of a pool"),
    ("healthy_panic_threshold", "`panic_threshold` of a pool"),
    ("max_ejection_percent", "`max_ejected` in `ejection` of a pool"),
    ("pid", "there is no pid file; the service manager knows the process"),
    ("proto", "`http_version = \"2\"` of a pool, `http2 = true` of a listener"),
    ("proxy_add_header", "`response_headers`, in a pool, site or route"),
    (
        "add_header",
        "`response_headers`, in a pool, site or route; Strict-Transport-Security is `hsts` of a listener or site",
    ),
    ("proxy_bind", "`source_addresses` of a pool"),
    ("proxy_buffer_size", "`response_buffering`, in a pool, site or route"),
    ("proxy_buffering", "`response_buffering`, in a pool, site or route"),
    ("proxy_buffers", "`response_buffering`, in a pool, site or route"),
    ("proxy_connect_timeout", "`connect_timeout`, in a pool, site or route"),
    ("proxy_hide_header", "`response_headers = { remove = [...] }`, in a pool, site or route"),
    ("proxy_http_version", "`http_version` of a pool"),
    ("proxy_next_upstream", "`retry_on`, in a pool, site or route"),
    ("proxy_next_upstream_timeout", "`retry_timeout`, in a pool, site or route"),
    ("proxy_next_upstream_tries", "`retries`, in a pool, site or route; it does not count the first try"),
    ("proxy_pass", "`pool` of a route or listener names a `[pool.NAME]`"),
    ("proxy_protocol", "from clients: `proxy_protocol` of a listener; to servers: `send_proxy_protocol` of a pool"),
    ("proxy_read_timeout", "`read_timeout`, in a pool, site or route"),
    ("proxy_request_buffering", "`request_buffering`, in a pool, site or route"),
    ("proxy_send_timeout", "`send_timeout`, in a pool, site or route"),
    ("proxy_set_header", "`request_headers = { set = { ... } }`, in a pool, site or route"),
    ("proxy_timeout", "`idle_timeout` of a listener"),
    (
        "real_ip_header",
        "X-Forwarded-For is read from `trusted_proxies` of a listener, PROXY headers with `proxy_protocol`",
    ),
    ("rate_limit", "`limits` of a listener, site or route names a `[limit.NAME]`"),
    ("real_server", "`servers` of a pool"),
    ("resolver", "`resolvers` of `[dns]`"),
    ("resolver_timeout", "`timeout` of `[dns]`"),
    ("return", "`respond`, `redirect` or `close` of a route; to https: `redirect_https` of a listener or site"),
    ("reuseport", "it is always on"),
    ("rewrite", "`strip_prefix`, `replace_prefix`, `replace_path` or `redirect` of a route"),
    ("accept_proxy", "`proxy_protocol = \"required\"` and `trusted_proxies` of a listener"),
    ("expect_proxy", "`proxy_protocol = \"optional\"` and `trusted_proxies` of a listener"),
    ("send_proxy", "`send_proxy_protocol = \"v1\"` of a pool"),
    ("send_proxy_v2", "`send_proxy_protocol = \"v2\"` of a pool"),
    ("proxy_protocol_timeout", "`header_timeout` of a listener"),
    ("server", "servers are `servers` of a pool; nginx's server block is `[site.NAME]`"),
    ("server_name", "`hosts` of a site"),
    ("set_real_ip_from", "`trusted_proxies` of a listener"),
    ("split_clients", "`pools` of a route, with `weight` and `split_key`"),
    ("req_ssl_sni", "`sni` of `[[listener.NAME.tls_route]]`, with protocol = \"tls_passthrough\""),
    ("ssl_preread", "protocol = \"tls_passthrough\" of a listener, and `[[listener.NAME.tls_route]]`"),
    ("stick", "`sticky = { type = \"source\" }` of a pool, or \"header\""),
    ("stick_on", "`sticky = { type = \"source\" }` of a pool, or \"header\""),
    ("sticky_cookie_insert", "`sticky = { type = \"cookie\", ... }` of a pool"),
    ("slowstart", "`slow_start` of a pool or a server"),
    ("so_keepalive", "`tcp_keepalive` of a listener"),
    ("src_conn_cur", "`concurrent` of `[limit.NAME]`"),
    (
        "stick_table",
        "to count: `[limit.NAME]` with `key`, `rate`, `concurrent` and `max_keys`; to stick: `sticky` of a pool",
    ),
    ("tcp_request", "`deny` of a listener closes at accept; `limits` of it names a `[limit.NAME]`"),
    ("timeout", "each timeout is a key of its own: `header_timeout`, `connect_timeout`, `read_timeout`, ..."),
    ("timeout_client", "`header_timeout`, `body_timeout` and `send_timeout`, for tcp `idle_timeout`, of a listener"),
    ("timeout_connect", "`connect_timeout`, in a pool, site or route"),
    ("timeout_http_request", "`header_timeout` of a listener"),
    ("timeout_queue", "`queue_timeout` of a pool"),
    ("timeout_server", "`read_timeout` and `send_timeout`, in a pool, site or route"),
    ("timeout_tunnel", "`tunnel_timeout`, in a pool, site or route"),
    ("use_backend", "`pool` of a route; `pools` for several by weight, headers or cookies"),
    ("upstream", "a group of servers is `[pool.NAME]`"),
    ("virtual_server", "`[listener.NAME]` with `protocol = \"tcp\"` and a `pool`"),
    ("worker_connections", "`max_connections` of `[global]`"),
    ("worker_processes", "`workers` of `[global]`"),
    (
        "ca_file",
        "of clients: `client_ca` of `[listener.NAME.tls]` or `[site.NAME.tls]`; of servers: `ca` of `[pool.NAME.tls]`",
    ),
    ("check_ssl", "`tls` of a pool holds for its health checks too; `tls` of `health_check` is other"),
    ("proxy_ssl", "`tls = true` of a pool"),
    ("proxy_ssl_certificate", "`client_certificate` of `[pool.NAME.tls]`"),
    ("proxy_ssl_certificate_key", "`client_key` of `[pool.NAME.tls]`"),
    ("proxy_ssl_ciphers", "`profile` of `[pool.NAME.tls]`"),
    ("proxy_ssl_crl", "`crl` of `[pool.NAME.tls]`"),
    ("proxy_ssl_name", "`server_name` of `[pool.NAME.tls]`"),
    ("proxy_ssl_protocols", "`profile` of `[pool.NAME.tls]`"),
    ("proxy_ssl_server_name", "it is always on; `server_name` of `[pool.NAME.tls]` is another name"),
    ("proxy_ssl_session_reuse", "it is always on"),
    ("proxy_ssl_trusted_certificate", "`ca` of `[pool.NAME.tls]`"),
    ("proxy_ssl_verify", "`verify` of `[pool.NAME.tls]`, which is true by itself"),
    ("sni", "`server_name` of `[pool.NAME.tls]`"),
    ("verifyhost", "`server_name` of `[pool.NAME.tls]`"),
    ("crl_file", "`client_crl` of `[listener.NAME.tls]` or `[site.NAME.tls]`"),
    ("crt", "`certificates` of `[listener.NAME.tls]`; a folder is fine"),
    ("crt_list", "`certificates` of each `[site.NAME.tls]`"),
    ("no_tls_tickets", "`session_tickets = false` of `[listener.NAME.tls]`"),
    ("ssl", "`[listener.NAME.tls]` makes a listener speak TLS"),
    ("ssl_certificate", "`certificates` of `[listener.NAME.tls]` or `[site.NAME.tls]`"),
    ("ssl_certificate_key", "`key` beside `cert` in `certificates` of `[listener.NAME.tls]` or `[site.NAME.tls]`"),
    ("ssl_ciphers", "`profile` of `[listener.NAME.tls]`"),
    ("ssl_client_certificate", "`client_ca` of `[listener.NAME.tls]` or `[site.NAME.tls]`"),
    ("ssl_crl", "`client_crl` of `[listener.NAME.tls]` or `[site.NAME.tls]`"),
    ("ssl_min_ver", "`profile` of `[listener.NAME.tls]`"),
    ("ssl_prefer_server_ciphers", "there is nothing to set"),
    ("ssl_protocols", "`profile` of `[listener.NAME.tls]`"),
    ("ssl_reject_handshake", "it is so where `certificates` are in `[site.NAME.tls]` only"),
    ("ssl_session_cache", "sessions are resumed by tickets: `session_tickets` of `[listener.NAME.tls]`"),
    ("ssl_session_ticket_key", "`ticket_key_file` of `[listener.NAME.tls]`"),
    ("ssl_session_tickets", "`session_tickets` of `[listener.NAME.tls]`"),
    ("ssl_stapling", "`ocsp` of one of `certificates` is a file; responses are not fetched"),
    ("ssl_stapling_file", "`ocsp` of one of `certificates`"),
    ("ssl_verify_client", "`client_auth` of `[listener.NAME.tls]` or `[site.NAME.tls]`"),
    ("strict_sni", "it is so where `certificates` are in `[site.NAME.tls]` only"),
    ("tls_ticket_keys", "`ticket_key_file` of `[listener.NAME.tls]`"),
    ("verify", "`client_auth` of `[listener.NAME.tls]` or `[site.NAME.tls]`"),
    // keepalived
    ("persistence_timeout", "`sticky = { type = \"source\", ttl = ... }` of a pool"),
    ("persistence_granularity", "`mask` in `sticky` of a pool"),
    ("accept", "the addresses are always answered"),
    ("advert_int", "`advert_interval` of a virtual router"),
    ("auth_hmac", "it is not spoken; `authentication` of a virtual router with version 2"),
    ("auth_pass", "`authentication = { password = ... }` of a virtual router"),
    ("auth_type", "`authentication = { type = ... }` of a virtual router"),
    ("check_unicast_src", "`check_source` of a virtual router"),
    ("dont_track_primary", "a box whose `interface` is down never holds the addresses"),
    ("down_timer_adverts", "it is three, as the protocol says"),
    ("enable_script_security", "scripts run as `script_user` of `[global]`"),
    ("garp_lower_prio_delay", "`repeat` in `announce` of a virtual router"),
    ("garp_lower_prio_repeat", "`burst` in `announce` of a virtual router"),
    ("garp_master_delay", "`repeat` in `announce` of a virtual router"),
    ("garp_master_refresh", "`refresh` in `announce` of a virtual router"),
    ("garp_master_refresh_repeat", "there is nothing to set; `refresh` in `announce` of a virtual router"),
    ("garp_master_repeat", "`burst` in `announce` of a virtual router"),
    ("global_defs", "`[global]`, and `[defaults.vrrp]` for all virtual routers"),
    ("higher_prio_send_advert", "it is always on"),
    ("lower_prio_no_advert", "a lower priority is always answered"),
    ("lvs_sync_daemon", "connections are not known to the other box"),
    ("mcast_src_ip", "`unicast_source` of a virtual router, for multicast too"),
    ("no_accept", "the addresses are always answered"),
    ("nopreempt", "`preempt = \"never\"` of a virtual router"),
    ("notification_email", "there is no mail; `notify` and `webhook` of a virtual router"),
    ("notify_backup", "`notify` of a virtual router runs at each change and is told the state"),
    ("notify_fault", "`notify` of a virtual router runs at each change and is told the state"),
    ("notify_fifo", "`notify` of a virtual router runs at each change, in order"),
    ("notify_master", "`notify` of a virtual router runs at each change and is told the state"),
    ("notify_stop", "`notify` of a virtual router runs at each change and is told the state"),
    ("old_unicast_checksum", "`v3_checksum` of a virtual router"),
    ("router_id", "there is nothing to set; `virtual_router_id` of a virtual router"),
    ("skip_check_adv_addr", "a list that differs is accepted, with a warning, if it shares an address"),
    ("smtp_alert", "there is no mail; `notify` and `webhook` of a virtual router"),
    ("state", "there is nothing to set: every box starts as backup, and `priority` decides"),
    ("strict_mode", "there is nothing to set"),
    ("track_file", "`track_files` of a virtual router"),
    ("track_interface", "`track_interfaces` of a virtual router"),
    ("track_process", "the proxy is always tracked; `proxy_grace` of a virtual router"),
    ("track_script", "`track_scripts` of a virtual router; `track_pools` needs no script"),
    ("unicast_peer", "`unicast_peers` of a virtual router"),
    ("unicast_src_ip", "`unicast_source` of a virtual router"),
    ("unicast_ttl", "it is 255; `check_ttl` of a virtual router"),
    ("use_vmac", "virtual MAC addresses are not used; `announce` of a virtual router tells the network"),
    ("v3_checksum_as_v2", "`v3_checksum = \"rfc9568\"` of a virtual router"),
    ("virtual_ipaddress", "`virtual_addresses` of a virtual router"),
    ("virtual_ipaddress_excluded", "`excluded_addresses` of a virtual router"),
    ("virtual_routes", "routes do not move; `notify` of a virtual router can run a command"),
    ("virtual_rules", "rules do not move; `notify` of a virtual router can run a command"),
    ("vrrp_garp_interval", "`interval` in `announce` of a virtual router"),
    ("vrrp_instance", "`[vrrp.NAME]`"),
    ("vrrp_script", "`track_scripts` of a virtual router; `track_pools` needs no script"),
    ("vrrp_startup_delay", "`startup_delay` of a virtual router"),
    ("vrrp_strict", "there is nothing to set"),
    ("vrrp_sync_group", "`sync_group` of each virtual router that moves with the others"),
    ("vrrp_track_process", "the proxy is always tracked; `proxy_grace` of a virtual router"),
    ("vrrp_version", "`version` of a virtual router, or of `[defaults.vrrp]`"),
];

/// Words that nginx, HAProxy and keepalived have for a value.
const FOREIGN_WORDS: &[(&str, &str)] = &[
    ("error", "\"connect\" and \"reset\""),
    ("non_idempotent", "`retry_non_idempotent = true`"),
    ("off", "`retries = 0`"),
    ("conn-failure", "\"connect\""),
    ("empty-response", "\"reset\""),
    ("response-timeout", "\"timeout\""),
    ("source", "\"ip_hash\""),
    ("uri", "\"hash\" with `hash_key = \"$uri\"`"),
    ("random", "\"random_two\""),
    ("nopreempt", "\"never\""),
    ("https", "\"http\", with `tls` beside it"),
];

/// Advice for the word `found` where only the words `known` are possible.
pub(super) fn for_unknown_word<'k>(found: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    if let Some((_, ours)) = FOREIGN_WORDS.iter().find(|(foreign, _)| *foreign == found) {
        return Some(format!("here: {ours}"));
    }
    nearest(found, known).map(|near| format!("did you mean \"{near}\"?"))
}

/// Advice for the key `name` in a table that has only the keys `known`.
pub(super) fn for_unknown_key<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let word = name.to_ascii_lowercase().replace(['-', ' '], "_");
    let known: Vec<&str> = known.collect();
    if let Some(key) = known.iter().find(|key| **key == word) {
        return Some(format!("did you mean `{key}`?"));
    }
    if let Some((_, ours)) = FOREIGN.iter().find(|(foreign, _)| *foreign == word) {
        return Some(format!("here: {ours}"));
    }
    let tables = schema::tables_with(&word);
    if !tables.is_empty() {
        return Some(format!("`{word}` belongs in {}", any_of(&tables)));
    }
    nearest(&word, known.iter().copied()).map(|near| format!("did you mean `{near}`?"))
}

/// `a, b or c`.
fn any_of(names: &[String]) -> String {
    match names {
        [one] => one.clone(),
        [some @ .., last] => format!("{} or {last}", some.join(", ")),
        [] => String::new(),
    }
}

/// Advice for an address to listen on that cannot be parsed.
pub(super) fn for_address(text: &str) -> Option<String> {
    let port = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Some(for_all_addresses(port.into())),
        Err(_) if text.parse::<std::net::Ipv6Addr>().is_ok() => Some(format!("write \"[{text}]:80\"")),
        Err(_) if text.parse::<std::net::Ipv4Addr>().is_ok() => Some(format!("write \"{text}:80\"")),
        Err(_) if text.starts_with("unix:") || text.starts_with('/') => Some("only TCP addresses are supported".into()),
        Err(_) => Some("names are not resolved here; write the address".into()),
    }
}

/// How to listen on every address of the box.
pub(super) fn for_all_addresses(port: i64) -> String {
    format!("write \"0.0.0.0:{port}\" for every IPv4 address, \"[::]:{port}\" for every IPv6 address")
}

/// Advice for a server's address that has no port.
pub(super) fn for_server(text: &str) -> Option<String> {
    if text.starts_with("unix:") || text.starts_with('/') {
        return Some("only TCP addresses are supported".into());
    }
    if text.contains("://") {
        return Some("an address has no scheme: \"10.0.0.1:80\"".into());
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some(format!("write \"[{text}]:80\""));
    }
    Some(format!("write \"{text}:80\""))
}

/// The word of `known` that is nearest to `word`, if it is near enough to be what was meant.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_ascii_lowercase();
    known
        .map(|known| (distance(word.as_bytes(), known.to_ascii_lowercase().as_bytes()), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= 1 + known.len().min(word.len()) / 4)
        .map(|(_, known)| known)
}

/// How many bytes must be put in, taken out, changed, or swapped with the next (optimal string alignment).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = change.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_letters_are_one_mistake() {
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"retires", b"retries"), 1);
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(nearest("retires", ["retry_on", "retries"].into_iter()), Some("retries"));
        assert_eq!(nearest("colour", ["weight", "backup"].into_iter()), None);
    }

    #[test]
    fn each_foreign_name_is_there_once() {
        for (i, (foreign, _)) in FOREIGN.iter().enumerate() {
            assert!(FOREIGN[..i].iter().all(|(other, _)| other != foreign), "{foreign}");
        }
    }

    #[test]
    fn advice_names_only_keys_that_exist() {
        for (foreign, advice) in FOREIGN {
            for word in advice.split('`').skip(1).step_by(2) {
                let key = word.split([' ', '=']).next().unwrap_or_default();
                let key = key.trim_matches(['[', ']']).replace("global.user", "user");
                let last = key.rsplit('.').find(|part| *part != "NAME").unwrap_or_default();
                assert!(!schema::tables_with(last).is_empty(), "{foreign}: {key} is no key");
            }
        }
    }

    #[test]
    fn the_right_table_goes_before_a_similar_key() {
        let help = |name| for_unknown_key(name, ["send_timeout", "bind"].into_iter()).unwrap();
        assert_eq!(help("read_timeout"), "`read_timeout` belongs in [site.NAME], [[site.NAME.route]] or [pool.NAME]");
        assert_eq!(help("backup"), "`backup` belongs in [[pool.NAME.servers]]");
        assert_eq!(help("proxy_read_timeout"), "here: `read_timeout`, in a pool, site or route");
        assert_eq!(help("Bind"), "did you mean `bind`?");
        assert_eq!(help("sent_timeout"), "did you mean `send_timeout`?");
    }
}
