//! A map of few values under keys that come in ascending order, from which any may be taken: what is in flight.

use std::collections::VecDeque;

/// Places of values that were taken which are kept before the others are moved together.
const MOST_EMPTY: usize = 64;

/// Values by keys, ascending. A value is not moved by what happens to the others.
#[derive(Debug, Clone)]
pub(super) struct InOrder<V> {
    /// The first is never empty.
    places: VecDeque<(u64, Option<V>)>,
    len: usize,
}

impl<V> Default for InOrder<V> {
    fn default() -> Self {
        Self { places: VecDeque::new(), len: 0 }
    }
}

impl<V> InOrder<V> {
    /// Adds a value under a key; one that was under it before is replaced.
    pub(super) fn insert(&mut self, key: u64, value: V) {
        if self.places.back().is_none_or(|(last, _)| *last < key) {
            self.places.push_back((key, Some(value)));
            self.len += 1;
            return;
        }
        match self.position(key) {
            Ok(at) => self.len += usize::from(self.places[at].1.replace(value).is_none()),
            Err(at) => {
                self.places.insert(at, (key, Some(value)));
                self.len += 1;
            }
        }
    }

    fn position(&self, key: u64) -> Result<usize, usize> {
        self.places.binary_search_by_key(&key, |(known, _)| *known)
    }

    /// Takes the value under a key.
    pub(super) fn remove(&mut self, key: u64) -> Option<V> {
        let at = self.position(key).ok()?;
        let value = self.places[at].1.take()?;
        self.len -= 1;
        while self.places.front().is_some_and(|(_, value)| value.is_none()) {
            self.places.pop_front();
        }
        if self.places.len() > 2 * self.len + MOST_EMPTY {
            self.places.retain(|(_, value)| value.is_some());
        }
        Some(value)
    }

    pub(super) fn get(&self, key: u64) -> Option<&V> {
        self.position(key).ok().and_then(|at| self.places[at].1.as_ref())
    }

    /// The lowest key with its value.
    pub(super) fn first(&self) -> Option<(u64, &V)> {
        self.iter().next()
    }

    /// All of them, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.places.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?)))
    }

    /// Everything in it, ascending.
    pub(super) fn into_values(self) -> impl Iterator<Item = (u64, V)> {
        self.places.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_is_a_map() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut map, mut plain, mut next) = (InOrder::default(), BTreeMap::new(), 0);
        for _ in 0..20_000 {
            next += rng.u64(1..4);
            let any = next.saturating_sub(rng.u64(..90));
            match rng.u8(..8) {
                0..=3 => {
                    map.insert(next, next);
                    plain.insert(next, next);
                }
                4 if rng.u8(..8) == 0 => {
                    map.insert(any, next);
                    plain.insert(any, next);
                }
                _ => {
                    let key = if rng.bool() { any } else { plain.keys().next().copied().unwrap_or(any) };
                    assert_eq!(map.remove(key), plain.remove(&key));
                }
            }
            assert_eq!(map.get(any), plain.get(&any));
            assert_eq!(map.first(), plain.iter().next().map(|(key, value)| (*key, value)));
            assert!(map.places.len() <= 2 * plain.len() + MOST_EMPTY + 1);
        }
        assert!(map.iter().map(|(key, value)| (key, *value)).eq(plain.clone()));
        assert!(map.into_values().eq(plain));
    }
}
