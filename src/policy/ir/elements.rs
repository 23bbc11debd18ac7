//! The elements of a set, in order of their keys.

use super::{Data, Key};

/// Keys in ascending order, each once, and what they map to. There can be hundreds of thousands, nearly all of them in
/// plain sets: so sorted lists instead of trees, and no data where no key has any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    keys: Vec<Key>,
    /// Empty, or as long as `keys`.
    data: Vec<Data>,
}

impl Elements {
    /// The elements of a plain set.
    pub fn of_keys(mut keys: Vec<Key>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        Self { keys, data: Vec::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What a key maps to.
    pub fn get(&self, key: &Key) -> Option<&Data> {
        self.place(key).ok().map(|at| self.data_at(at))
    }

    /// All in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { elements: self, at: 0 }
    }

    /// Adds an element; the answer is what the key mapped to before. Quick at the end.
    pub fn insert(&mut self, key: Key, data: Data) -> Option<Data> {
        if data != Data::None && self.data.is_empty() {
            self.data.resize(self.keys.len(), Data::None);
        }
        let with_data = data != Data::None || !self.data.is_empty();
        let place = match self.keys.last() {
            Some(last) if *last >= key => self.place(&key),
            _ => Err(self.keys.len()),
        };
        match place {
            Ok(at) if with_data => {
                let before = std::mem::replace(&mut self.data[at], data);
                self.forget_empty_data();
                Some(before)
            }
            Ok(_) => Some(Data::None),
            Err(at) => {
                self.keys.insert(at, key);
                if with_data {
                    self.data.insert(at, data);
                }
                None
            }
        }
    }

    /// Removes an element; the answer is what it mapped to.
    pub fn remove(&mut self, key: &Key) -> Option<Data> {
        let at = self.place(key).ok()?;
        self.keys.remove(at);
        let data = if self.data.is_empty() { Data::None } else { self.data.remove(at) };
        self.forget_empty_data();
        Some(data)
    }

    /// Two sets with the same elements are equal, whatever was in them before.
    fn forget_empty_data(&mut self) {
        if self.data.iter().all(|d| *d == Data::None) {
            self.data.clear();
        }
    }

    fn place(&self, key: &Key) -> Result<usize, usize> {
        self.keys.binary_search(key)
    }

    fn data_at(&self, at: usize) -> &Data {
        self.data.get(at).unwrap_or(&Data::None)
    }
}

/// Elements in order.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    elements: &'a Elements,
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Key, &'a Data);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.elements.keys.get(self.at)?;
        self.at += 1;
        Some((key, self.elements.data_at(self.at - 1)))
    }
}

impl<'a> IntoIterator for &'a Elements {
    type Item = (&'a Key, &'a Data);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<(Key, Data)> for Elements {
    fn from_iter<I: IntoIterator<Item = (Key, Data)>>(iter: I) -> Self {
        let mut elements = Self::default();
        for (key, data) in iter {
            elements.insert(key, data);
        }
        elements
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((0u16..20, prop::option::of(0u8..3), any::<bool>()), 0..60)) {
            let (mut elements, mut map) = (Elements::default(), BTreeMap::new());
            for (key, value, removes) in steps {
                let key = Key::port(key);
                let data = value.map_or(Data::None, |v| Data::Value(Key::byte(v)));
                if removes {
                    prop_assert_eq!(elements.remove(&key), map.remove(&key));
                } else {
                    prop_assert_eq!(elements.insert(key.clone(), data.clone()), map.insert(key, data));
                }
                prop_assert!(elements.iter().eq(map.iter()));
                prop_assert_eq!(elements.len(), map.len());
            }
            let again: Elements = map.clone().into_iter().rev().collect();
            prop_assert_eq!(&again, &elements);
            if map.values().all(|d| *d == Data::None) {
                prop_assert_eq!(Elements::of_keys(map.keys().rev().cloned().collect()), elements);
            }
        }
    }
}
