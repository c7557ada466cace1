//! Session tickets (RFC 5077, RFC 8446 section 4.6.1): what a client keeps so that it can resume, sealed with keys of ours.
//!
//! The keys come from files that the operator shares between boxes, or from a seed that moves on: every
//! [`EPOCH`] each process that has the seed makes the next one of it, and forgets the one before last. So a successor, told
//! the seed once, opens the tickets of the process before it, and nobody opens those of the day before yesterday.
//!
//! ```text
//! +-------------+------+------------------------------+
//! | key's name  | salt | sealed session, its tag       |
//! +-------------+------+------------------------------+
//!   16 bytes     16      AES-256-GCM, with a key of its own made of the key, the salt and what the session is bound to
//! ```
//!
//! A session is bound to what clients must show where it began (CVE-2025-23419): a ticket of a site without client
//! certificates opens nothing at one with them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::GetRandomFlags;
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Digest, provider};

/// How long keys made of a seed seal; they open for as long again.
const EPOCH: Duration = Duration::from_secs(6 * 3600);

/// How long a client may keep a ticket.
const LIFETIME: u32 = 12 * 3600;

const NAME: usize = 16;
const SALT: usize = 16;

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    name: [u8; NAME],
    secret: Digest,
}

/// Why a file has no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketKeyError;

impl fmt::Display for TicketKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key for session tickets has 48 or 80 bytes; or each line is one in base64")
    }
}

impl std::error::Error for TicketKeyError {}

impl TicketKey {
    /// The keys of a file: one of 48 or 80 bytes as nginx's `ssl_session_ticket_key`, or lines of base64 as HAProxy's
    /// `tls-ticket-keys`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(file: &[u8]) -> Result<Vec<Self>, TicketKeyError> {
        if let Some(key) = Self::of(file) {
            return Ok(vec![key]);
        }
        let lines = file.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let keys = lines.map(|line| BASE64.decode(line).ok().and_then(|key| Self::of(&key)).ok_or(TicketKeyError));
        let keys: Vec<Self> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(TicketKeyError) } else { Ok(keys) }
    }

    /// Of 48 or 80 bytes, the name first.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (name, key) = bytes.split_first_chunk::<NAME>().filter(|_| matches!(bytes.len(), 48 | 80))?;
        Some(Self { name: *name, secret: mac(key, &[b"bascule session tickets"]) })
    }

    /// That of a seed.
    fn of_seed(seed: &Digest) -> Self {
        let mut name = [0; NAME];
        name.copy_from_slice(&mac(seed, &[b"name"])[..NAME]);
        Self { name, secret: mac(seed, &[b"key"]) }
    }

    /// Tells it from others, and is no secret.
    pub(super) fn digest(&self) -> Digest {
        mac(&self.secret, &[b"digest", &self.name])
    }

    fn sealing(&self, salt: &[u8], binding: &Digest) -> Option<LessSafeKey> {
        let key = mac(&self.secret, &[salt, binding]);
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }

    fn seal(&self, plain: &[u8], salt: [u8; SALT], binding: &Digest) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        self.sealing(&salt, binding)?.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).ok()?;
        Some([&self.name[..], &salt, &sealed].concat())
    }

    fn open(&self, salt: &[u8], sealed: &[u8], binding: &Digest) -> Option<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let len = self.sealing(salt, binding)?.open_in_place(nonce(), Aad::empty(), &mut bytes).ok()?.len();
        bytes.truncate(len);
        Some(bytes)
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey({})", HEXLOWER.encode(&self.name))
    }
}

/// Every salt makes a key of its own, which seals once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Digest {
    // Of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Digest::default() };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// What a successor makes the same keys of.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSeed {
    /// Number of the epoch, from 1970.
    epoch: u64,
    /// Hex digits.
    seed: String,
}

impl fmt::Debug for TicketSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSeed").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The seed of one epoch and the keys of that and the next.
#[derive(Clone)]
struct Epoch {
    /// That which seals is the next.
    before: u64,
    seed: Digest,
    /// The one that seals first.
    keys: [TicketKey; 2],
}

impl Epoch {
    /// Those with which `seed` is the last but one.
    fn new(before: u64, seed: Digest) -> Self {
        let keys = [TicketKey::of_seed(&next(&seed)), TicketKey::of_seed(&seed)];
        Self { before, seed, keys }
    }

    /// The keys of the epoch `now`: as many steps on as have passed. A clock that went back changes nothing; after so long
    /// that no ticket is left, everything begins anew.
    fn at(&self, now: u64) -> Self {
        const FAR: u64 = 1000;
        let steps = now.saturating_sub(self.before + 1);
        if steps > FAR {
            return Self::new(now.saturating_sub(1), random());
        }
        let seed = (0..steps).fold(self.seed, |seed, _| next(&seed));
        Self::new(self.before + steps, seed)
    }
}

/// One way: no seed tells of those before it.
fn next(seed: &Digest) -> Digest {
    mac(seed, &[b"next"])
}

/// Of the kernel: a process that speaks no TLS does not wait until the library for it has gathered randomness of its own.
fn random() -> Digest {
    let mut bytes = Digest::default();
    if rustix::rand::getrandom(&mut bytes[..], GetRandomFlags::empty()) != Ok(bytes.len()) {
        provider().secure_random.fill(&mut bytes).expect("there are random numbers, or nothing here works");
    }
    bytes
}

/// The keys of a process.
pub struct Tickets(ArcSwap<Epoch>);

impl Tickets {
    /// New ones.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Epoch::new(epoch(SystemTime::now()).saturating_sub(1), random()))))
    }

    /// Those that `seed` is for, instead of these. One that cannot be read is as good as none.
    pub fn adopt(&self, seed: &TicketSeed) {
        let bytes = HEXLOWER.decode(seed.seed.as_bytes()).ok().and_then(|bytes| Digest::try_from(bytes).ok());
        if let Some(bytes) = bytes {
            self.0.store(Arc::new(Epoch::new(seed.epoch, bytes)));
        }
    }

    /// For a successor.
    pub fn seed(&self) -> TicketSeed {
        let epoch = self.current(SystemTime::now());
        TicketSeed { epoch: epoch.before, seed: HEXLOWER.encode(&epoch.seed) }
    }

    /// The keys at the time `now`.
    fn current(&self, now: SystemTime) -> Arc<Epoch> {
        let known = self.0.load_full();
        let now = epoch(now);
        if now <= known.before + 1 {
            return known;
        }
        // Whoever comes at the same time makes the same.
        let next = Arc::new(known.at(now));
        self.0.store(Arc::clone(&next));
        next
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

fn epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / EPOCH.as_secs()
}

/// What rustls seals and opens tickets with, for sessions that are bound to the same.
#[derive(Debug)]
pub(super) struct Ticketer {
    /// Of the operator, the one that seals first; none: those of `own`.
    pub(super) keys: Vec<TicketKey>,
    pub(super) own: Arc<Tickets>,
    pub(super) binding: Digest,
}

impl Ticketer {
    /// Does `f` with the keys, the one that seals first.
    fn with<T>(&self, f: impl FnOnce(&[TicketKey]) -> T) -> T {
        match &*self.keys {
            [] => f(&self.own.current(SystemTime::now()).keys),
            keys => f(keys),
        }
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut salt = [0; SALT];
        provider().secure_random.fill(&mut salt).ok()?;
        self.with(|keys| keys.first()?.seal(plain, salt, &self.binding))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_first_chunk::<NAME>()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT>()?;
        self.with(|keys| {
            let key = keys.iter().find(|key| key.name == *name)?;
            key.open(salt, sealed, &self.binding)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Digest = [7; 32];

    fn ticketer(keys: Vec<TicketKey>, own: &Arc<Tickets>, binding: Digest) -> Ticketer {
        Ticketer { keys, own: Arc::clone(own), binding }
    }

    fn file(byte: u8, len: usize) -> Vec<u8> {
        (0..len).map(|i| byte ^ u8::try_from(i).unwrap()).collect()
    }

    #[test]
    fn keys_are_read_as_nginx_and_haproxy_write_them() {
        for len in [48, 80] {
            let binary = TicketKey::parse(&file(1, len)).unwrap();
            let lines = format!("{}\n\n{}\n", BASE64.encode(&file(1, len)), BASE64.encode(&file(2, 80)));
            let text = TicketKey::parse(lines.as_bytes()).unwrap();
            assert_eq!((binary.len(), text.len()), (1, 2));
            assert_eq!(binary[0], text[0]);
        }
        for bad in [&b""[..], b"\n", b"key", &[0; 47], &[0; 81], b"AAAA\n"] {
            assert_eq!(TicketKey::parse(bad), Err(TicketKeyError));
        }
        assert_ne!(
            TicketKey::parse(&file(1, 48)).unwrap()[0].secret,
            TicketKey::parse(&file(1, 80)).unwrap()[0].secret
        );
    }

    #[test]
    fn whoever_has_the_key_opens_what_another_sealed_though_it_seals_with_a_newer_one() {
        let keys =
            |files: &[u8]| files.iter().flat_map(|b| TicketKey::parse(&file(*b, 80)).unwrap()).collect::<Vec<_>>();
        let [here, there] = [&[1][..], &[2, 1]].map(|files| ticketer(keys(files), &Tickets::new(), BOUND));
        let ticket = here.encrypt(b"session").unwrap();
        assert_eq!(there.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(here.decrypt(&there.encrypt(b"session").unwrap()), None);
    }

    #[test]
    fn a_ticket_opens_only_where_clients_must_show_the_same() {
        let own = Tickets::new();
        let [here, there] = [BOUND, [8; 32]].map(|binding| ticketer(Vec::new(), &own, binding));
        let ticket = here.encrypt(b"session").unwrap();
        assert_eq!(here.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(there.decrypt(&ticket), None);
    }

    #[test]
    fn no_ticket_that_was_touched_opens_and_none_panics() {
        let ticketer = ticketer(Vec::new(), &Tickets::new(), BOUND);
        let ticket = ticketer.encrypt(b"session").unwrap();
        for i in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[i] ^= 1;
            assert_eq!(ticketer.decrypt(&touched), None, "byte {i}");
            assert_eq!(ticketer.decrypt(&ticket[..i]), None, "cut at {i}");
        }
    }

    #[test]
    fn no_two_tickets_of_a_session_are_alike() {
        let ticketer = ticketer(Vec::new(), &Tickets::new(), BOUND);
        assert_ne!(ticketer.encrypt(b"session"), ticketer.encrypt(b"session"));
    }

    #[test]
    fn a_successor_opens_old_tickets_until_the_epoch_after_their_own_is_over() {
        let first = Epoch::new(99, [1; 32]);
        let sealed = first.keys[0].seal(b"session", [0; SALT], &BOUND).unwrap();
        let opens = |epoch: &Epoch| {
            let key = epoch.keys.iter().find(|key| key.name[..] == sealed[..NAME]);
            key.is_some_and(|key| key.open(&sealed[NAME..NAME + SALT], &sealed[NAME + SALT..], &BOUND).is_some())
        };
        assert!(opens(&first.at(100)) && opens(&first.at(101)) && !opens(&first.at(102)));
        // Clocks go back, too.
        assert!(opens(&first.at(50)));
        let steps = first.at(101).at(103);
        assert!(steps.keys == first.at(103).keys && steps.before == 102);
        assert!(first.at(100_000).keys != first.at(100_000).keys, "begins anew");
    }

    #[test]
    fn a_seed_goes_over_as_text_and_shows_itself_in_no_log() {
        let [one, other] = [Tickets::new(), Tickets::new()];
        let text = serde_json::to_string(&one.seed()).unwrap();
        other.adopt(&serde_json::from_str(&text).unwrap());
        assert_eq!(one.seed(), other.seed());
        assert!(!format!("{:?}", one.seed()).contains(&one.seed().seed));
        let before = other.seed();
        other.adopt(&TicketSeed { epoch: 1, seed: "zz".to_owned() });
        assert_eq!(other.seed(), before);
    }
}
