use std::fs::File;
use std::os::unix::fs::MetadataExt;

use super::*;

fn pair() -> (ProxyChannel, SupervisorChannel) {
    let (a, b) = socketpair().unwrap();
    (Channel::new(a, Limits::OF_PROXY).unwrap(), Channel::new(b, Limits::OF_SUPERVISOR).unwrap())
}

/// A supervisor's channel and the raw other end, for packets that no proxy of ours sends.
fn hostile() -> (ProxyChannel, OwnedFd) {
    let (a, b) = socketpair().unwrap();
    (Channel::new(a, Limits::OF_PROXY).unwrap(), b)
}

fn start(config: String) -> ToProxy {
    ToProxy::Start(Start {
        node: "a".into(),
        setup: Setup {
            config,
            attachments: Attachments::default(),
            overrides: Overrides::default(),
            listeners: Vec::new(),
            log_files: Vec::new(),
        },
        state: None,
        guarded: false,
        purpose: Purpose::Serve,
    })
}

#[tokio::test]
async fn a_small_message_arrives() {
    let (mut supervisor, proxy) = pair();
    let workers = vec![Progress { tid: 7, ticks: 9 }];
    proxy.try_send(&FromProxy::Heartbeat { workers: workers.clone(), connections: 3 }).unwrap();
    let (message, fds) = supervisor.recv().await.unwrap().unwrap();
    assert!(matches!(message, FromProxy::Heartbeat { workers: w, connections: 3 } if w == workers));
    assert!(fds.is_empty());
}

#[tokio::test]
async fn many_descriptors_and_a_long_text_arrive_in_order() {
    let (supervisor, mut proxy) = pair();
    // The files are told apart by inode; each number is around a border of the packets.
    let files: Vec<File> = (0..600).map(|_| File::from(memfd::sealed(b"").unwrap())).collect();
    for count in [0, 1, 251, 252, 253, 254, 505, 600] {
        for config in ["x".to_owned(), "x".repeat(INLINE)] {
            let fds: Vec<_> = files[..count].iter().map(AsFd::as_fd).collect();
            supervisor.send(&start(config.clone()), &fds).await.unwrap();
            let (message, received) = proxy.recv().await.unwrap().unwrap();
            assert!(matches!(message, ToProxy::Start(s) if s.setup.config == config));
            let inode = |file: &File| file.metadata().unwrap().ino();
            let got: Vec<_> = received.into_iter().map(|fd| inode(&File::from(fd))).collect();
            assert_eq!(got, files[..count].iter().map(inode).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn the_state_is_kept_as_it_was_written() {
    let (mut supervisor, proxy) = pair();
    let text = r#"{"a": [1.50, "ä"],  "b":null}"#;
    proxy.try_send(&FromProxy::State(RawValue::from_string(text.into()).unwrap())).unwrap();
    let (message, _) = supervisor.recv().await.unwrap().unwrap();
    assert!(matches!(message, FromProxy::State(s) if s.get() == text));
}

#[tokio::test]
async fn the_end_of_the_other_side_is_seen_after_what_it_said() {
    let (mut supervisor, proxy) = pair();
    proxy.try_send(&FromProxy::Ready).unwrap();
    drop(proxy);
    assert!(matches!(supervisor.recv().await, Ok(Some((FromProxy::Ready, _)))));
    assert!(matches!(supervisor.recv().await, Ok(None)));
}

#[tokio::test]
async fn a_reader_that_does_not_read_blocks_nobody() {
    let (_supervisor, proxy) = pair();
    let full = (0..100_000).find_map(|_| proxy.try_send(&FromProxy::Ready).err());
    assert_eq!(full.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
}

#[tokio::test]
async fn bad_packets_are_errors() {
    let send = async |flags: u8, payload: &[u8], fds: &[BorrowedFd<'_>]| {
        let (mut supervisor, raw) = hostile();
        send_packet(&raw, flags, payload, fds).unwrap();
        supervisor.recv().await.unwrap_err()
    };
    let file = File::open("/dev/null").unwrap();
    let fd = file.as_fd();
    assert!(matches!(send(0, b"not json", &[]).await, RecvError::Json(_)));
    assert!(matches!(send(0, br#""Reload""#, &[]).await, RecvError::Json(_)));
    assert!(matches!(send(0, &[b' '; INLINE + 1], &[]).await, RecvError::Malformed));
    assert!(matches!(send(0, &[b' '; INLINE * 2], &[]).await, RecvError::Malformed));
    assert!(matches!(send(4, br#""Ready""#, &[]).await, RecvError::Malformed));
    assert!(matches!(send(0, br#""Ready""#, &[fd]).await, RecvError::TooManyDescriptors));
    assert!(matches!(send(MORE, b"", &[fd]).await, RecvError::TooManyDescriptors));
    assert!(matches!(send(MEMFD, b"", &[]).await, RecvError::Malformed));
    assert!(matches!(send(MEMFD, b"", &[fd, fd]).await, RecvError::TooManyDescriptors));
    assert!(matches!(send(MEMFD, b"", &[fd]).await, RecvError::Payload(MemfdError::NotSealed)));
}

#[tokio::test]
async fn another_version_is_named() {
    let (mut supervisor, raw) = hostile();
    rustix::net::send(&raw, &[VERSION + 1, 0], SendFlags::empty()).unwrap();
    assert!(matches!(supervisor.recv().await, Err(RecvError::Version(v)) if v == VERSION + 1));
    let (mut supervisor, raw) = hostile();
    rustix::net::send(&raw, &[VERSION], SendFlags::empty()).unwrap();
    assert!(matches!(supervisor.recv().await, Err(RecvError::Malformed)));
}
