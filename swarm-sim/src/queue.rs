//! The event queue: a total order by (time, sequence), cheap for the near future.

use std::{cmp::Ordering, collections::BinaryHeap};

/// Microseconds that one bucket of the wheel covers.
const BUCKET_US: u64 = 1024;
/// Buckets of the wheel: about four seconds.
const BUCKETS: usize = 4096;
/// Entries of one chunk of a bucket.
const CHUNK_LEN: usize = 16;

struct Entry<E> {
    at: u64,
    seq: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Reversed, so that the heap's greatest is the earliest.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// Some of a bucket's entries. Buckets fill in turn, and viewers' bursts with them: chunks go from one
/// to the next, where each bucket would keep the memory of its largest burst.
type Chunk<E> = Vec<Entry<E>>;

/// What happens within [`BUCKET_US`], in no order.
struct Bucket<E> {
    open: Chunk<E>,
    full: Vec<Chunk<E>>,
}

/// Events in the order of their time; those of the same time in the order in which they were
/// pushed. A wheel of buckets for the next seconds, and a heap for what is later. A bucket is sorted when
/// its time comes; what is pushed into it after that, which is little, is in a small heap. So the usual push
/// and pop touch little memory.
pub(crate) struct Queue<E> {
    bucket: u64,
    /// The bucket under way, the earliest last.
    current: Vec<Entry<E>>,
    /// What was pushed into it since.
    added: BinaryHeap<Entry<E>>,
    wheel: Vec<Bucket<E>>,
    in_wheel: usize,
    spare: Vec<Chunk<E>>,
    far: BinaryHeap<Entry<E>>,
    seq: u64,
}

impl<E> Bucket<E> {
    const fn empty() -> Self {
        Self {
            open: Vec::new(),
            full: Vec::new(),
        }
    }
}

impl<E> Queue<E> {
    pub(crate) fn new(start_us: u64) -> Self {
        Self {
            bucket: start_us / BUCKET_US,
            current: Vec::new(),
            added: BinaryHeap::new(),
            wheel: (0..BUCKETS).map(|_| Bucket::empty()).collect(),
            in_wheel: 0,
            spare: Vec::new(),
            far: BinaryHeap::new(),
            seq: 0,
        }
    }

    pub(crate) fn push(&mut self, at: u64, event: E) {
        self.seq += 1;
        let seq = self.seq;
        self.place(Entry { at, seq, event });
    }

    fn place(&mut self, entry: Entry<E>) {
        let bucket = entry.at / BUCKET_US;
        if bucket <= self.bucket {
            self.added.push(entry);
        } else if bucket - self.bucket < BUCKETS as u64 {
            self.in_wheel += 1;
            let bucket = &mut self.wheel[(bucket % BUCKETS as u64) as usize];
            if bucket.open.len() == bucket.open.capacity() {
                let spare = self.spare.pop();
                let spare = spare.unwrap_or_else(|| Vec::with_capacity(CHUNK_LEN));
                let full = std::mem::replace(&mut bucket.open, spare);
                bucket.full.extend((!full.is_empty()).then_some(full));
            }
            bucket.open.push(entry);
        } else {
            self.far.push(entry);
        }
    }

    /// The time of the earliest event.
    pub(crate) fn next_at(&mut self) -> Option<u64> {
        while self.current.is_empty() && self.added.is_empty() {
            self.advance()?;
        }
        let next = self.added.peek().max(self.current.last());
        next.map(|entry| entry.at)
    }

    /// The earliest event and its time, if it comes before `until`.
    pub(crate) fn pop_before(&mut self, until: u64) -> Option<(u64, E)> {
        if self.next_at()? >= until {
            return None;
        }
        let next = match self.added.peek() {
            Some(added) if self.current.last().is_none_or(|entry| added > entry) => {
                self.added.pop()
            }
            _ => self.current.pop(),
        };
        next.map(|entry| (entry.at, entry.event))
    }

    /// Moves on to the next bucket that may hold something; `None` if nothing is left.
    fn advance(&mut self) -> Option<()> {
        if self.in_wheel == 0 {
            self.bucket = self.far.peek()?.at / BUCKET_US;
        } else {
            self.bucket += 1;
        }
        let horizon = self.bucket + BUCKETS as u64;
        while self
            .far
            .peek()
            .is_some_and(|entry| entry.at / BUCKET_US < horizon)
        {
            if let Some(entry) = self.far.pop() {
                self.place(entry);
            }
        }
        let index = (self.bucket % BUCKETS as u64) as usize;
        let bucket = &mut self.wheel[index];
        let open = std::mem::take(&mut bucket.open);
        for mut chunk in bucket.full.drain(..).chain([open]) {
            if chunk.capacity() == 0 {
                continue;
            }
            self.in_wheel -= chunk.len();
            self.current.append(&mut chunk);
            self.spare.push(chunk);
        }
        self.current.sort_unstable();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_core::rng::Rng;

    #[test]
    fn events_come_by_time_then_in_the_order_of_pushing() {
        let mut rng = Rng::new(3);
        let mut queue = Queue::new(0);
        let mut expected = Vec::new();
        for index in 0..20_000u64 {
            let at = rng.at_most(20_000) * 1000;
            queue.push(at, index);
            expected.push((at, index));
        }
        expected.sort_unstable();
        for item in expected {
            assert_eq!(queue.pop_before(u64::MAX), Some(item));
        }
        assert_eq!(queue.pop_before(u64::MAX), None);
    }

    #[test]
    fn what_is_pushed_while_popping_keeps_its_place() {
        let mut queue = Queue::new(0);
        queue.push(10, 'a');
        queue.push(10_000_000, 'd');
        assert_eq!(queue.pop_before(u64::MAX), Some((10, 'a')));
        queue.push(10, 'b');
        queue.push(11, 'c');
        assert_eq!(queue.pop_before(u64::MAX), Some((10, 'b')));
        assert_eq!(queue.pop_before(u64::MAX), Some((11, 'c')));
        assert_eq!(queue.pop_before(u64::MAX), Some((10_000_000, 'd')));
    }
}
