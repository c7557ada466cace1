use std::time::Instant;

use tokio::time;

use super::*;
use crate::app::runner::tests::{PATIENCE, TempDir, assert_ends, identity, shell};

fn change(router: &str, state: State, command: Option<Command>) -> Change {
    Change {
        router: router.into(),
        state,
        why: Why::PeerSilent,
        priority: 120,
        configured_priority: 150,
        node: "lb1".into(),
        at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_225_599_123_456),
        command,
        webhook: None,
    }
}

fn notifier() -> Notifier {
    Notifier::start(identity(), &Program::stand_in("/bin/true"))
}

#[tokio::test]
async fn commands_run_in_order_one_at_a_time_with_keepalived_s_arguments() {
    let dir = TempDir::new();
    let command = shell(&dir, r#"echo "begin $3" >> told; test $3 != MASTER || sleep 0.3; echo "$@" >> told"#);
    let notifier = notifier();
    for (router, state) in
        [("VI_1", State::Active), ("VI 2", State::Backup), ("VI_1", State::Fault), ("VI_1", State::Initialize)]
    {
        notifier.push(change(router, state, Some(command.clone())));
    }
    notifier.push(change("without a command", State::Active, None));
    notifier.finish(PATIENCE).await;
    let told = dir.read("told");
    let expected = [
        "begin MASTER",
        "INSTANCE VI_1 MASTER 120",
        "begin BACKUP",
        "INSTANCE VI 2 BACKUP 120",
        "begin FAULT",
        "INSTANCE VI_1 FAULT 120",
        "begin STOP",
        "INSTANCE VI_1 STOP 120",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_command_that_fails_or_is_absent_stops_nothing() {
    let dir = TempDir::new();
    let notifier = notifier();
    let absent = Command { program: dir.join("absent"), arguments: Vec::new() };
    for command in [absent, shell(&dir, "exit 1"), shell(&dir, "echo done > told")] {
        notifier.push(change("v", State::Active, Some(command)));
    }
    // Not only at the end.
    assert_eq!(dir.line("told").await, "done");
    drop(notifier);
}

#[tokio::test]
async fn the_end_is_not_waited_for_longer_than_the_limit() {
    let dir = TempDir::new();
    let notifier = notifier();
    for _ in 0..2 {
        notifier.push(change("v", State::Backup, Some(shell(&dir, "sleep 1000 & echo $! >> children; wait"))));
    }
    let child = dir.line("children").await;
    let since = Instant::now();
    notifier.finish(Duration::from_millis(100)).await;
    assert!(since.elapsed() < PATIENCE / 2, "{:?}", since.elapsed());
    assert_ends(&child);
    assert_eq!(dir.read("children").lines().count(), 1);
}

#[tokio::test]
async fn a_slow_command_does_not_delay_webhooks() {
    let dir = TempDir::new();
    let notifier = notifier();
    let mut slow = change("v", State::Active, Some(shell(&dir, "echo > begun; sleep 1000")));
    slow.webhook = Some("http://192.0.2.1/".into());
    notifier.push(slow);
    dir.line("begun").await;
    let told = async {
        while notifier.webhooks.left() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("the webhook in time");
    assert_eq!(notifier.commands.left(), 1);
}

#[tokio::test]
async fn too_many_changes_lose_the_oldest() {
    let queue = Queue::default();
    let order = |n: usize| Order { by: n, news: Arc::new(change("v", State::Active, None).into()) };
    (0..QUEUE + 3).for_each(|n| queue.push(order(n)));
    assert_eq!(queue.left(), QUEUE);
    queue.close();
    let mut left = Vec::new();
    while let Some(order) = queue.next().await {
        left.push(order.by);
    }
    assert_eq!(left, (3..QUEUE + 3).collect::<Vec<_>>());
    assert_eq!(queue.left(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_may_help_is_tried_three_times() {
    let failure = |again| Err(Undelivered { reason: "no".to_owned(), again });
    for (answers, attempts, seconds, expected) in [
        (vec![Ok(())], 1, 0, Ok(())),
        (vec![failure(false)], 1, 0, failure(false)),
        (vec![failure(true), Ok(())], 2, 1, Ok(())),
        (vec![failure(true), failure(false)], 2, 1, failure(false)),
        (vec![failure(true), failure(true), Ok(())], 3, 2, Ok(())),
        (vec![failure(true), failure(true), failure(true)], 3, 2, failure(true)),
    ] {
        let since = time::Instant::now();
        let count = answers.len();
        let mut answers = answers.into_iter();
        let done = retry(|| std::future::ready(answers.next().expect("no more attempts"))).await;
        assert_eq!(done, expected);
        assert_eq!((count - answers.len(), since.elapsed().as_secs()), (attempts, seconds));
    }
}

#[tokio::test]
async fn a_process_that_posts_says_why_it_failed() {
    let post = async |program| {
        let program = Program::stand_in(program);
        post(&program, "http://192.0.2.1/", b"{}", None).await
    };
    assert_eq!(post("/bin/true").await, Ok(()));
    // Without a word.
    assert_eq!(post("/bin/false").await, Err(Undelivered { reason: "exit status: 1".to_owned(), again: false }));
    // A shell that finds no script called `webhook`.
    let failure = post("/bin/sh").await.unwrap_err();
    assert!(failure.reason.contains("webhook") && !failure.again, "{failure:?}");
}

#[test]
fn a_webhook_is_told_everything() {
    let body = String::from_utf8(body(&change("VI_1", State::Active, None))).unwrap();
    let expected = r#"{"router":"VI_1","state":"active","keepalived_state":"MASTER","why":"no advertisement from the active router","priority":120,"configured_priority":150,"node":"lb1","time":"2025-12-31T23:59:59.123Z"}"#;
    assert_eq!(body, expected);
}
