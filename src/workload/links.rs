//! Which links something happens to, and what: each shape and each effect has its turn before any has many.

use super::faults::{CLIENTS, Link, LinkEffect, Millis};
use super::rng::Rng;

/// What happens to links, each with the most that is drawn. What is listed twice has two turns.
const EFFECTS: &[LinkEffect] = &[
    LinkEffect::Cut,
    LinkEffect::Cut,
    LinkEffect::Cut,
    LinkEffect::Late,
    LinkEffect::Reset,
    LinkEffect::HalfOpen,
    LinkEffect::Delay(Millis(2_000)),
    LinkEffect::Slow(100_000),
];

/// Shortest delay that is drawn, in milliseconds.
const LEAST_DELAY: u64 = 10;

/// Which links something happens to at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One direction between two.
    OneWay,
    /// Both directions between two; they hear each other only through the third.
    Bridge,
    /// Each is heard by only one of the others.
    Ring,
    /// Nobody hears one, which hears everybody.
    Muted,
    /// One and the others do not hear each other.
    Minority,
    /// Nobody hears anybody.
    Apart,
    /// Clients and one replica, in one direction or both.
    Clients,
}

const SHAPES: &[Shape] = &[
    Shape::OneWay,
    Shape::OneWay,
    Shape::Bridge,
    Shape::Ring,
    Shape::Muted,
    Shape::Minority,
    Shape::Minority,
    Shape::Apart,
    Shape::Clients,
];

/// What has not had its turn yet.
#[derive(Debug, Clone)]
pub(super) struct LinkTurns {
    effects: Vec<LinkEffect>,
    shapes: Vec<Shape>,
}

impl LinkTurns {
    /// What shows most comes first: a hunt may be short.
    pub(super) fn new() -> Self {
        Self { effects: vec![LinkEffect::Cut], shapes: vec![Shape::Minority] }
    }

    /// Links between these replicas, and what happens to them. The primary, where it is known, is the one that it is about half of the
    /// time.
    pub(super) fn draw(
        &mut self,
        rng: &mut Rng,
        mut replicas: Vec<u64>,
        primary: Option<u64>,
    ) -> Option<(Vec<Link>, LinkEffect)> {
        let effect = match rng.take_turn(&mut self.effects, EFFECTS)? {
            LinkEffect::Delay(most) => LinkEffect::Delay(Millis(rng.often_short(LEAST_DELAY, most.0))),
            LinkEffect::Slow(most) => LinkEffect::Slow(rng.within(most / 100, most)),
            effect => effect,
        };
        rng.shuffle(&mut replicas);
        if let Some(primary) = primary.filter(|_| rng.one_in(2)) {
            replicas.sort_by_key(|replica| *replica != primary);
        }
        let shape = rng.take_turn(&mut self.shapes, SHAPES)?;
        Some((shape.links(rng, &replicas)?, effect))
    }
}

impl Shape {
    /// In order, none twice. The first replica is the one that it is about.
    fn links(self, rng: &mut Rng, replicas: &[u64]) -> Option<Vec<Link>> {
        let one_way = |from: u64, to: u64| Link { from, to };
        let both = |one: u64, other: u64| [one_way(one, other), one_way(other, one)];
        let (first, others) = replicas.split_first()?;
        let mut links: Vec<Link> = match self {
            Shape::OneWay => {
                let other = *others.first()?;
                vec![if rng.one_in(2) { one_way(*first, other) } else { one_way(other, *first) }]
            }
            Shape::Bridge => both(*first, *others.first()?).into(),
            Shape::Ring => {
                let next = replicas.iter().cycle().skip(1);
                replicas.iter().zip(next).map(|(from, to)| one_way(*from, *to)).collect()
            }
            Shape::Muted => others.iter().map(|other| one_way(*first, *other)).collect(),
            Shape::Minority => others.iter().flat_map(|other| both(*first, *other)).collect(),
            Shape::Apart => {
                let from_each = replicas.iter().flat_map(|from| replicas.iter().map(move |to| (*from, *to)));
                from_each.filter(|(from, to)| from != to).map(|(from, to)| one_way(from, to)).collect()
            }
            Shape::Clients => match rng.below(3) {
                0 => vec![one_way(CLIENTS, *first)],
                1 => vec![one_way(*first, CLIENTS)],
                _ => both(CLIENTS, *first).into(),
            },
        };
        links.sort_unstable();
        Some(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, HashSet};

    #[test]
    fn every_shape_and_every_effect_has_a_turn() {
        let (mut rng, mut turns) = (Rng::new(5), LinkTurns::new());
        let mut draw = || turns.draw(&mut rng, vec![1, 2, 3], Some(2)).unwrap();
        let (links, effect) = draw();
        assert_eq!((links.len(), effect), (4, LinkEffect::Cut));
        let (mut sizes, mut effects, mut nodes) = (BTreeSet::new(), HashSet::new(), BTreeSet::new());
        for _ in 0..SHAPES.len().max(EFFECTS.len()) {
            let (links, effect) = draw();
            let distinct: BTreeSet<&Link> = links.iter().collect();
            assert!(
                distinct.len() == links.len() && links.iter().all(|link| link.from != link.to),
                "{links:?}"
            );
            sizes.insert(links.len());
            nodes.extend(links.iter().flat_map(|link| [link.from, link.to]));
            effects.insert(std::mem::discriminant(&effect));
        }
        assert_eq!(effects.len(), 6);
        assert!([3, 4, 6].iter().all(|size| sizes.contains(size)), "{sizes:?}");
        assert!(nodes.contains(&CLIENTS) && nodes.len() == 4, "{nodes:?}");
    }
}
