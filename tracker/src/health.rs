//! Whether the tracker still does what it is there for.

use std::{future::Future, time::Duration};

use futures_util::future::select_all;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time,
};

use crate::shard::Command;

/// Whether the directory looks after viewers: it answers within this time, and so does, in a cluster,
/// whatever brings words to it.
pub(crate) async fn answers(shard: &mpsc::Sender<Command>, within: Duration) -> bool {
    let (sender, answer) = oneshot::channel();
    let look = Command::Look(Box::new(move |_| {
        // Whoever asked may be gone by now.
        let _ = sender.send(());
    }));
    let asked = async { shard.send(look).await.is_ok() && answer.await.is_ok() };
    time::timeout(within, asked).await == Ok(true)
}

/// Waits for `shutdown`, or for one of the tasks to end before: that is our fault, and nothing works
/// without it. Whether one has; it is taken out.
pub(crate) async fn until_broken(
    tasks: &mut Vec<JoinHandle<()>>,
    shutdown: impl Future<Output = ()>,
) -> bool {
    let (ended, index) = tokio::select! {
        () = shutdown => return false,
        (ended, index, _) = select_all(tasks.iter_mut()) => (ended, index),
    };
    tracing::error!(?ended, "a part of the tracker has ended: it cannot go on");
    drop(tasks.swap_remove(index));
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        config::Config,
        farewell::Places,
        names::Names,
        shard::{COMMANDS_MAX, Shard},
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    fn serve() -> (mpsc::Sender<Command>, JoinHandle<()>, CancellationToken) {
        let config = Config::default();
        let places = Arc::new(Places::new(&config.drain));
        let names = Names::new(None).unwrap();
        let shard = Shard::new(Arc::new(config), names, Arc::default(), places, 1);
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let stop = CancellationToken::new();
        let task = tokio::spawn(shard.serve(commands, stop.clone()));
        (sender, task, stop)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_directory_that_hangs_or_is_gone_is_noticed() {
        let (shard, task, _stop) = serve();
        assert!(answers(&shard, PATIENCE).await);
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let hang = Command::Look(Box::new(move |_| assert!(wait.recv().is_err())));
        assert!(shard.send(hang).await.is_ok());
        assert!(!answers(&shard, Duration::from_millis(50)).await);
        drop(go_on);
        assert!(answers(&shard, PATIENCE).await, "it has come back");
        let break_off = Command::Look(Box::new(|_| panic!("what must not happen")));
        assert!(shard.send(break_off).await.is_ok());
        let mut tasks = vec![tokio::spawn(std::future::pending()), task];
        let broken = until_broken(&mut tasks, std::future::pending());
        assert!(time::timeout(PATIENCE, broken).await.unwrap());
        assert_eq!(tasks.len(), 1, "the other one");
        assert!(!answers(&shard, PATIENCE).await);
    }

    #[tokio::test]
    async fn who_is_told_to_stop_is_not_broken() {
        let (shard, task, stop) = serve();
        let mut tasks = vec![task];
        let shutdown = async { assert!(answers(&shard, PATIENCE).await) };
        assert!(!until_broken(&mut tasks, shutdown).await);
        stop.cancel();
        for task in tasks {
            task.await.unwrap();
        }
    }
}
