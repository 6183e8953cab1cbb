//! Looks at a large stream a few viewers at a time. The shard looks after all viewers in one thread: while it
//! would look at ten thousand of them at once for a page, those who join would wait.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::question::{Question, Reply, look, see};
use crate::{server::Context, shard::Sight};

/// Viewers that are looked at before others have their turn: some tenths of a millisecond.
pub(super) const VIEWERS_A_LOOK: usize = 200;

/// What is put together by several looks. Viewers may come and go between them: each is counted at most
/// once, and those who are there all the time are.
pub(super) trait Survey: Send {
    /// Looks at `most` more viewers at the most. Whether there may be more.
    fn go_on(&mut self, sight: &Sight<'_>, most: usize) -> bool;

    /// What was found.
    fn finish(self: Box<Self>, sight: &Sight<'_>) -> Reply;
}

/// How far an answer is.
pub(super) enum Progress {
    Begun(Box<dyn Survey>),
    Looked(Box<dyn Survey>),
    Done(Reply),
}

impl Progress {
    pub(super) fn begun(survey: impl Survey + 'static) -> Self {
        Self::Begun(Box::new(survey))
    }

    pub(super) fn next(self, sight: &Sight<'_>) -> Self {
        match self {
            Self::Begun(mut survey) => {
                if survey.go_on(sight, VIEWERS_A_LOOK) {
                    Self::Begun(survey)
                } else {
                    Self::Looked(survey)
                }
            }
            Self::Looked(survey) => Self::Done(survey.finish(sight)),
            Self::Done(reply) => Self::Done(reply),
        }
    }
}

/// The answer to a question, and for how long the shard was busy with it in all; `None` if it has stopped.
pub(super) async fn answer(
    context: &Arc<Context>,
    question: &Question,
) -> Option<(Reply, Duration)> {
    let (asked, node) = (question.clone(), context.node.id.clone());
    let mut so_far = timed(context, move |sight| see(sight, &asked, &node)).await?;
    let mut took = Duration::ZERO;
    loop {
        took += so_far.1;
        let progress = match so_far.0 {
            Progress::Done(reply) => return Some((reply, took)),
            progress => progress,
        };
        // Everything else that is due comes first, what has arrived on sockets included.
        tokio::task::yield_now().await;
        so_far = timed(context, move |sight| progress.next(sight)).await?;
    }
}

async fn timed(
    context: &Context,
    read: impl FnOnce(&Sight<'_>) -> Progress + Send + 'static,
) -> Option<(Progress, Duration)> {
    look(context, move |sight| {
        let began = Instant::now();
        (read(sight), began.elapsed())
    })
    .await
}
