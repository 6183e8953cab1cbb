//! A vector with holes: stable small keys, places used again. It grows by a chunk at a time: nothing
//! is ever moved, so no single join pays for a million that came before it.

use alloc::vec::Vec;

/// Places that are made at once. So many of viewers are some megabytes, which the allocator asks the system
/// for as they are: no memory is used before a place is, large pages are possible, and the table of chunks
/// is small.
const CHUNK_LEN: usize = 8_192;

/// The place of something in a [`Slab`]. Given out again after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) u32);

#[derive(Debug)]
pub(super) struct Slab<T> {
    /// All full but the last.
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Key>,
    count: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            count: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        self.count += 1;
        if let Some(key) = self.free.pop() {
            if let Some(place) = self.place(key) {
                *place = Some(value);
            }
            return key;
        }
        if self
            .chunks
            .last()
            .is_none_or(|last| last.len() == CHUNK_LEN)
        {
            self.chunks.push(Vec::with_capacity(CHUNK_LEN));
        }
        let before = (self.chunks.len() - 1) * CHUNK_LEN;
        let last = &mut self.chunks[before / CHUNK_LEN];
        last.push(Some(value));
        Key((before + last.len() - 1) as u32)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let value = self.place(key)?.take()?;
        self.free.push(key);
        self.count -= 1;
        Some(value)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let at = key.0 as usize;
        self.chunks
            .get(at / CHUNK_LEN)?
            .get(at % CHUNK_LEN)?
            .as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.place(key)?.as_mut()
    }

    fn place(&mut self, key: Key) -> Option<&mut Option<T>> {
        let at = key.0 as usize;
        self.chunks.get_mut(at / CHUNK_LEN)?.get_mut(at % CHUNK_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::new();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.insert('c'), a);
        assert_eq!((slab.get(a), slab.get(b)), (Some(&'c'), Some(&'b')));
        assert_eq!(slab.len(), 2);
    }

    #[test]
    fn what_is_there_stays_where_it_is_as_more_comes() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..3 * CHUNK_LEN + 1).map(|n| slab.insert(n)).collect();
        let first = core::ptr::from_ref(slab.get(keys[0]).unwrap());
        for key in &keys[CHUNK_LEN..2 * CHUNK_LEN] {
            assert_eq!(slab.remove(*key), Some(key.0 as usize));
        }
        for _ in 0..2 * CHUNK_LEN {
            slab.insert(0);
        }
        assert_eq!(slab.len(), 4 * CHUNK_LEN + 1);
        assert_eq!(core::ptr::from_ref(slab.get(keys[0]).unwrap()), first);
        assert_eq!(slab.get(keys[3 * CHUNK_LEN]), Some(&(3 * CHUNK_LEN)));
        assert_eq!(slab.get(Key(u32::MAX)), None);
    }
}
