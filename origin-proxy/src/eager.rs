//! Answers that are ready at once are not worth a task.

use std::{
    pin::Pin,
    task::{Context, Waker},
};

use hyper::rt::Executor;

/// Polls a future where it is, and gives it a task of its own only if it has to wait: an answer from the
/// cache is there before another task would have begun.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EagerExecutor;

impl<F> Executor<F> for EagerExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let mut future = Box::pin(future);
        // Whom to wake is told by the task, which polls it once more.
        let mut context = Context::from_waker(Waker::noop());
        if Pin::new(&mut future).poll(&mut context).is_pending() {
            tokio::spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_is_done_at_once_and_what_waits_goes_on() {
        let done = Arc::new(AtomicUsize::new(0));
        let count = done.clone();
        EagerExecutor.execute(async move {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 1);
        let (go, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        EagerExecutor.execute(async move {
            let _ = gone.await;
            let _ = tell.send("gone");
        });
        go.send(()).unwrap();
        assert_eq!(told.await, Ok("gone"));
    }
}
