use std::fs;
use std::io::{PipeReader, Read};

use super::*;

fn pipe_output() -> (PipeReader, Output) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, file_output(writer.into()))
}

fn file_output(file: OwnedFd) -> Output {
    let mut output = Output::new(&LogTarget::File("/log".into()), &TimeZone::UTC);
    output.replace_file(file);
    output
}

/// A path for a socket in a directory of its own, removed at the end.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("bascule-output-{}-{test}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory.join("socket"))
    }

    fn bind(&self) -> UnixDatagram {
        let _ = fs::remove_file(&self.0);
        let socket = UnixDatagram::bind(&self.0).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    }

    fn syslog(&self) -> Output {
        Output::new(&LogTarget::Syslog(SyslogTarget::Unix(self.0.clone())), &TimeZone::UTC)
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = self.0.parent().map(fs::remove_dir_all);
    }
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = vec![0; 128 * 1024];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

fn is_ok((done, result): (usize, io::Result<()>), length: usize) -> bool {
    result.is_ok() && done == length
}

#[test]
fn a_reader_that_stalls_costs_lines_and_one_wait_and_the_torn_line_is_ended() {
    let (mut reader, mut output) = pipe_output();
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let lines = line.repeat(1000);
    let (done, result) = output.write(&lines);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(done > 0 && done < lines.len() && done % 100 != 0, "{done} bytes: the pipe ends within a line");
    assert!(output.is_failing() && output.patience.stalled);

    let (more, result) = output.write(b"lost\n");
    assert!(more == 0 && result.is_err());

    let mut taken = vec![0; done];
    reader.read_exact(&mut taken).unwrap();
    assert!(is_ok(output.write(b"next\n"), 5));
    assert!(!output.is_failing() && !output.patience.stalled);
    drop(output);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "\nnext\n");
}

#[test]
fn a_reader_that_is_gone_is_an_error() {
    let (reader, mut output) = pipe_output();
    drop(reader);
    let (done, result) = output.write(b"lost\n");
    assert_eq!((done, result.unwrap_err().kind()), (0, io::ErrorKind::BrokenPipe));
}

#[test]
fn a_file_that_is_full_is_an_error() {
    let mut output = file_output(fs::File::options().write(true).open("/dev/full").unwrap().into());
    let (done, result) = output.write(b"lost\n");
    assert_eq!((done, result.unwrap_err().kind()), (0, io::ErrorKind::StorageFull));
}

#[test]
fn a_new_file_does_not_begin_with_the_end_of_a_torn_line() {
    let (_stalled, mut output) = pipe_output();
    let (done, result) = output.write(&[b'x'; 100_000]);
    assert!(done > 0 && result.is_err());
    let (mut reader, writer) = io::pipe().unwrap();
    output.replace_file(writer.into());
    assert!(is_ok(output.write(b"line\n"), 5));
    drop(output);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "line\n");
}

#[test]
fn syslog_gets_each_line_as_nginx_sends_it() {
    let path = SocketPath::new("syslog");
    let socket = path.bind();
    assert!(is_ok(path.syslog().write(b"one\ntwo\n"), 8));
    let host = rustix::system::uname();
    let host = host.nodename().to_str().unwrap();
    for text in ["one", "two"] {
        let datagram = receive(&socket);
        let (time, rest) = datagram.strip_prefix("<190>").unwrap().split_at("Nov 21 11:22:33".len());
        assert!(time.as_bytes()[6] == b' ' && time.matches(':').count() == 2, "{datagram}");
        assert_eq!(rest, format!(" {host} bascule: {text}"));
    }
}

#[test]
fn the_head_of_syslog_has_the_day_padded_by_a_space_in_local_time() {
    let zone = TimeZone::posix("CET-1").unwrap();
    let to = SyslogTarget::Unix("/dev/log".into());
    let target = DatagramTarget::Syslog { to, host: b"lb1".to_vec(), zone };
    let mut head = Vec::new();
    target.write_head(UNIX_EPOCH + Duration::from_secs(1_793_532_153), &mut head);
    assert_eq!(String::from_utf8(head).unwrap(), "<190>Nov  1 12:22:33 lb1 bascule: ");
}

#[test]
fn syslog_may_be_over_udp() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let target = LogTarget::Syslog(SyslogTarget::Udp(socket.local_addr().unwrap()));
        assert!(is_ok(Output::new(&target, &TimeZone::UTC).write(b"line\n"), 5));
        let mut buffer = [0; 1000];
        let length = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"<190>") && buffer[..length].ends_with(b" bascule: line"));
    }
}

#[test]
fn lines_too_long_for_syslog_are_cut() {
    let path = SocketPath::new("long");
    let socket = path.bind();
    let long = [&[b'x'; SYSLOG_LINE + 1][..], b"\nshort\n"].concat();
    assert!(is_ok(path.syslog().write(&long), long.len()));
    assert_eq!(receive(&socket).matches('x').count(), SYSLOG_LINE);
    assert!(receive(&socket).ends_with(": short"));
}

#[test]
fn the_journal_gets_fields() {
    let path = SocketPath::new("journal");
    let socket = path.bind();
    let mut journal = Datagrams::journal(&path.0);
    assert!(is_ok(journal.write(b"GET / 200\n", &mut Patience::default()), 10));
    assert_eq!(receive(&socket), "PRIORITY=6\nSYSLOG_IDENTIFIER=bascule\nMESSAGE=GET / 200");
    let long = vec![b'x'; JOURNAL_LINE + 1];
    assert!(is_ok(journal.write(&long, &mut Patience::default()), long.len()));
    assert_eq!(receive(&socket).matches('x').count(), JOURNAL_LINE);
}

#[test]
fn a_daemon_that_is_not_there_costs_lines_until_it_is_and_its_restart_costs_none() {
    let path = SocketPath::new("restart");
    let mut output = path.syslog();
    let (done, result) = output.write(b"lost\n");
    assert_eq!((done, result.unwrap_err().kind()), (0, io::ErrorKind::NotFound));

    let socket = path.bind();
    assert!(is_ok(output.write(b"first\n"), 6));
    assert!(receive(&socket).ends_with(": first"));

    drop(socket);
    let socket = path.bind();
    assert!(is_ok(output.write(b"second\n"), 7));
    assert!(receive(&socket).ends_with(": second"));
}

#[test]
fn a_daemon_that_stalls_costs_the_lines_that_its_queue_does_not_take() {
    let path = SocketPath::new("stall");
    let socket = path.bind();
    let mut output = path.syslog();
    let lines = [&[b'x'; 4000][..], b"\n"].concat().repeat(1000);
    let (done, result) = output.write(&lines);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(done > 0 && done < lines.len() && done % 4001 == 0, "{done}");
    for _ in 0..done / 4001 {
        assert!(receive(&socket).ends_with('x'));
    }
    assert!(is_ok(output.write(b"next\n"), 5));
    assert!(receive(&socket).ends_with(": next"));
}
