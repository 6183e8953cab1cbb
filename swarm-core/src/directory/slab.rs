//! A vector with holes: stable small keys, places used again, iteration in a fixed order.

use alloc::vec::Vec;

/// The place of something in a [`Slab`]. Given out again after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) u32);

#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<Key>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        if let Some(key) = self.free.pop() {
            self.places[key.0 as usize] = Some(value);
            return key;
        }
        self.places.push(Some(value));
        Key(self.places.len() as u32 - 1)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let value = self.places.get_mut(key.0 as usize)?.take()?;
        self.free.push(key);
        Some(value)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.places.get(key.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places.get_mut(key.0 as usize)?.as_mut()
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
}
