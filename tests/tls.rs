//! TLS towards clients, end to end: OpenSSL and curl as clients of a real engine, and of the real binary.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod support;

mod tls {
    mod audit;
    mod clients;
    mod process;
    mod resumption;
    mod serving;

    use std::fs;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, LazyLock};

    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, PKCS_RSA_SHA256};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    use crate::support::TempDir;

    /// A key for all certificates of a kind.
    static ECDSA: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());
    static RSA: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());

    /// One that asks for no more than it needs, and has its connection closed.
    const GET: &str = "GET /path HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";

    /// Certificates and keys in files.
    struct Files(TempDir);

    impl Files {
        fn new() -> Self {
            Self(TempDir::new())
        }

        /// The whole path of a file.
        fn path(&self, name: &str) -> String {
            self.0.path().join(name).display().to_string()
        }

        /// Writes `name.pem`: a certificate called `name` for `hosts` with its key.
        fn server(&self, name: &str, hosts: &[&str], key: &KeyPair) -> String {
            let pem = named(name, hosts).self_signed(key).unwrap().pem() + &key.serialize_pem();
            self.write(&format!("{name}.pem"), pem)
        }

        fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
            write_secret(&self.0.path().join(name), contents.as_ref());
            self.path(name)
        }

        /// Writes `ca.pem`: who signs certificates of clients.
        fn authority(&self) -> Issuer<'static, KeyPair> {
            self.authority_called("authority")
        }

        fn authority_called(&self, name: &str) -> Issuer<'static, KeyPair> {
            let mut params = named(name, &[]);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate().unwrap();
            self.write("ca.pem", params.self_signed(&key).unwrap().pem());
            Issuer::new(params, key)
        }

        /// A client of ours that trusts the certificate in the file called `name`, which is for `shop.test`.
        fn client_of(&self, name: &str, addr: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.path(name)).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let config = config.with_root_certificates(roots).with_no_client_auth();
            let connection = ClientConnection::new(Arc::new(config), "shop.test".try_into().unwrap()).unwrap();
            StreamOwned::new(connection, TcpStream::connect(addr).unwrap())
        }

        /// Writes `name.pem`: a client's certificate with its key.
        fn client(&self, name: &str, serial: u64, authority: &Issuer<'_, KeyPair>) -> String {
            let mut params = named(name, &[]);
            params.serial_number = Some(serial.into());
            let pem = params.signed_by(&*ECDSA, authority).unwrap().pem() + &ECDSA.serialize_pem();
            self.write(&format!("{name}.pem"), pem)
        }
    }

    fn named(name: &str, hosts: &[&str]) -> CertificateParams {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// Writes a file that only its owner reads.
    fn write_secret(path: &Path, contents: &[u8]) {
        use std::os::unix::fs::OpenOptionsExt;
        let options = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        options.unwrap().write_all(contents).unwrap();
    }

    /// What `openssl s_client` prints that says `said` and listens until the server closes.
    fn openssl(addr: SocketAddr, args: &[&str], said: &str) -> String {
        let addr = addr.to_string();
        run("openssl", &[&["s_client", "-connect", &addr, "-ign_eof"][..], args].concat(), said)
    }

    /// The same that says nothing, and leaves after the handshake.
    fn handshake(addr: SocketAddr, args: &[&str]) -> String {
        let addr = addr.to_string();
        run("openssl", &[&["s_client", "-connect", &addr][..], args].concat(), "Q\n")
    }

    /// An `openssl s_client` that is talked to until it is dropped.
    struct Talking(Child);

    impl Talking {
        fn new(addr: SocketAddr, args: &[&str]) -> Self {
            let addr = addr.to_string();
            let mut command = Command::new("openssl");
            command.args(["s_client", "-connect", &addr, "-quiet"]).args(args);
            Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
        }

        fn say(&mut self, text: &str) {
            self.0.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        }

        /// What comes next is this.
        fn hear(&mut self, text: &str) {
            let mut heard = vec![0; text.len()];
            self.0.stdout.as_mut().unwrap().read_exact(&mut heard).unwrap();
            assert_eq!(String::from_utf8_lossy(&heard), text);
        }
    }

    impl Drop for Talking {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Both outputs.
    fn run(program: &str, args: &[&str], input: &str) -> String {
        let mut command = Command::new("timeout");
        command.args(["20", program]).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Who has failed already does not listen.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// The name of the certificate that a handshake shows.
    fn shown(output: &str) -> &str {
        let line = output.lines().find_map(|line| line.strip_prefix("subject=CN = "));
        line.unwrap_or_else(|| panic!("no certificate: {output}"))
    }

    /// A listener called `web` with these lines in its `tls`, in front of `server`; then `rest`.
    fn config(tls: &str, server: SocketAddr, rest: &str) -> String {
        format!(
            "[listener.web]\nbind = [\"127.0.0.1:1\"]\npool = \"p\"\n[listener.web.tls]\n{tls}\n\
             [pool.p]\nservers = [\"{server}\"]\n{rest}"
        )
    }

    /// `certificates` of these files.
    fn certificates(paths: &[String]) -> String {
        format!("certificates = {paths:?}")
    }
}
