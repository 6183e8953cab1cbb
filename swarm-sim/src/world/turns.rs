//! Threads that take turns: all of a turn's work is done before the next one begins.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
};

/// How often a waiting thread looks before it lets others have the core.
const SPINS: u32 = 256;

/// A number of items of work in each turn, shared out among threads as they are free.
pub(super) struct Turns {
    threads: usize,
    items: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    turn: AtomicU64,
    until: AtomicU64,
    over: AtomicBool,
}

impl Turns {
    pub(super) fn new(threads: usize, items: usize) -> Self {
        Self {
            threads: threads.max(1),
            items,
            // Nothing is to be done before the first turn.
            next: AtomicUsize::new(items),
            done: AtomicUsize::new(items),
            turn: AtomicU64::new(0),
            until: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Calls `lead` on this thread with a function that does one turn: `work` with every item's
    /// number and the turn's argument, on all threads.
    pub(super) fn run(
        &self,
        work: &(dyn Fn(usize, u64) + Sync),
        lead: impl FnOnce(&mut dyn FnMut(u64)),
    ) {
        thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(|| self.follow(work));
            }
            // However this thread ends, the others must not wait for it.
            let _end = Ending(&self.over);
            lead(&mut |until| {
                self.until.store(until, Ordering::Relaxed);
                self.done.store(0, Ordering::Relaxed);
                self.next.store(0, Ordering::Release);
                self.turn.fetch_add(1, Ordering::Release);
                self.take_part(work);
                self.wait(|| self.done.load(Ordering::Acquire) == self.items);
            });
        });
    }

    fn follow(&self, work: &(dyn Fn(usize, u64) + Sync)) {
        let mut seen = 0;
        while !self.over.load(Ordering::Acquire) {
            self.wait(|| {
                self.turn.load(Ordering::Acquire) != seen || self.over.load(Ordering::Acquire)
            });
            seen = self.turn.load(Ordering::Acquire);
            self.take_part(work);
        }
    }

    fn take_part(&self, work: &(dyn Fn(usize, u64) + Sync)) {
        loop {
            let item = self.next.fetch_add(1, Ordering::AcqRel);
            if item >= self.items {
                return;
            }
            let done = Counted(&self.done);
            work(item, self.until.load(Ordering::Relaxed));
            drop(done);
        }
    }

    fn wait(&self, is_over: impl Fn() -> bool) {
        let mut spins = 0;
        while !is_over() {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

/// Counts an item as done even if its work panics: the scope passes the panic on.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_item_is_done_once_in_every_turn() {
        for threads in [1, 2, 3] {
            let seen: Vec<Mutex<Vec<u64>>> = (0..5).map(|_| Mutex::new(Vec::new())).collect();
            let turns = Turns::new(threads, seen.len());
            turns.run(
                &|item, turn| seen[item].lock().unwrap().push(turn),
                |do_turn| (0..200).for_each(do_turn),
            );
            let expected: Vec<u64> = (0..200).collect();
            assert!(seen.iter().all(|item| *item.lock().unwrap() == expected));
        }
    }
}
