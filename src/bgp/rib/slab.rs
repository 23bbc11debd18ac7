//! Storage in chunks, addressed by `u32`. It grows without copying what is there, so a million routes never need room
//! twice, and a number takes half the space of a pointer.

use std::ops::{Index, IndexMut};

const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Stands for "no entry" where an index is stored.
pub(super) const NIL: u32 = u32::MAX;

/// Items of a fixed place each; freed places are used again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// How many places there are, free ones included: every index is below.
    pub(super) fn places(&self) -> u32 {
        match self.chunks.last() {
            Some(last) => ((self.chunks.len() - 1) * CHUNK + last.len()) as u32,
            None => 0,
        }
    }

    /// How many items are stored.
    pub(super) fn len(&self) -> usize {
        self.places() as usize - self.free.len()
    }

    /// Stores an item. Never gives out [`NIL`]: that many items do not fit into memory.
    pub(super) fn insert(&mut self, item: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self[index] = item;
            return index;
        }
        let index = self.places();
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(item),
            _ => {
                // The first chunk of a small table grows as it must; later ones are allocated whole.
                let mut chunk = Vec::with_capacity(if self.chunks.is_empty() { 16 } else { CHUNK });
                chunk.push(item);
                self.chunks.push(chunk);
            }
        }
        index
    }

    /// Gives a place back. The caller has taken out of the item what must be dropped.
    pub(super) fn release(&mut self, index: u32) {
        self.free.push(index);
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize & (CHUNK - 1)]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize & (CHUNK - 1)]
    }
}

/// A map from small numbers to `u32` that costs memory only where it is used: 0 is "nothing".
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    chunks: Vec<Option<Box<SparseChunk>>>,
}

const SPARSE: usize = 1024;

#[derive(Clone, Debug)]
struct SparseChunk {
    used: u32,
    values: [u32; SPARSE],
}

impl Sparse {
    pub(super) fn get(&self, index: u32) -> u32 {
        let index = index as usize;
        match self.chunks.get(index / SPARSE) {
            Some(Some(chunk)) => chunk.values[index % SPARSE],
            _ => 0,
        }
    }

    /// Stores a value and returns the one before.
    pub(super) fn set(&mut self, index: u32, value: u32) -> u32 {
        let (place, index) = (index as usize / SPARSE, index as usize % SPARSE);
        if place >= self.chunks.len() {
            if value == 0 {
                return 0;
            }
            self.chunks.resize(place + 1, None);
        }
        let slot = &mut self.chunks[place];
        if slot.is_none() && value == 0 {
            return 0;
        }
        let chunk = slot.get_or_insert_with(|| Box::new(SparseChunk { used: 0, values: [0; SPARSE] }));
        let before = std::mem::replace(&mut chunk.values[index], value);
        chunk.used += u32::from(value != 0);
        chunk.used -= u32::from(before != 0);
        if chunk.used == 0 {
            *slot = None;
        }
        before
    }

    /// The numbers that have a value, with it, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.chunks.iter().enumerate().filter_map(|(place, chunk)| Some((place, chunk.as_ref()?))).flat_map(
            |(place, chunk)| {
                let base = place * SPARSE;
                (chunk.values.iter().enumerate())
                    .filter(|(_, value)| **value != 0)
                    .map(move |(i, value)| ((base + i) as u32, *value))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slab_uses_places_again() {
        let mut slab = Slab::default();
        for n in 0..10_000u32 {
            assert_eq!(slab.insert(n), n);
        }
        assert_eq!((slab[0], slab[4096], slab[9999], slab.len()), (0, 4096, 9999, 10_000));
        slab.release(4096);
        assert_eq!((slab.insert(7), slab[4096], slab.places()), (4096, 7, 10_000));
    }

    #[test]
    fn sparse_keeps_what_it_is_told_and_frees_chunks() {
        let mut sparse = Sparse::default();
        assert_eq!(sparse.set(5000, 1), 0);
        assert_eq!(sparse.set(5000, 2), 1);
        assert_eq!(sparse.set(3, 9), 0);
        assert_eq!(sparse.set(99_999, 0), 0);
        assert_eq!(sparse.iter().collect::<Vec<_>>(), [(3, 9), (5000, 2)]);
        assert_eq!((sparse.get(4), sparse.get(5000), sparse.get(1_000_000)), (0, 2, 0));
        assert_eq!(sparse.set(5000, 0), 2);
        assert!(sparse.chunks[4].is_none());
    }
}
