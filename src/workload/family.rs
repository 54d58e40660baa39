//! Families of faults: what is injected and healed by the same means.

/// Faults that are injected and healed by the same means. The words are those of `--nemesis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Processes end without warning.
    Kill,
    /// Processes stand still, and go on as if nothing had been.
    Pause,
    /// A replica is cut off from clients and peers.
    Isolate,
    /// Messages between two replicas are lost, late or slow, in one direction or both.
    Link,
    /// Another replica is made primary.
    Failover,
    /// Machines lose power, and what was not flushed.
    Power,
    /// Files are damaged, lost, old, or cannot be written.
    Disk,
    /// Wall clocks jump.
    Clock,
    /// Checkpoints come often.
    Checkpoint,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 9] = [
        Family::Kill,
        Family::Pause,
        Family::Isolate,
        Family::Link,
        Family::Failover,
        Family::Power,
        Family::Disk,
        Family::Clock,
        Family::Checkpoint,
    ];

    /// The word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Family::Kill => "kill",
            Family::Pause => "pause",
            Family::Isolate => "isolate",
            Family::Link => "link",
            Family::Failover => "failover",
            Family::Power => "power",
            Family::Disk => "disk",
            Family::Clock => "clock",
            Family::Checkpoint => "checkpoint",
        }
    }

    /// `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.word() == word)
    }
}

/// A set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Families(u16);

impl Families {
    const fn bit(family: Family) -> u16 {
        1 << family as u16
    }

    /// Puts one in.
    pub fn add(&mut self, family: Family) {
        self.0 |= Self::bit(family);
    }

    /// Puts all of another set in.
    pub fn add_all(&mut self, others: Families) {
        self.0 |= others.0;
    }

    /// Takes one out.
    pub fn remove(&mut self, family: Family) {
        self.0 &= !Self::bit(family);
    }

    /// Whether it is in.
    #[must_use]
    pub const fn holds(self, family: Family) -> bool {
        self.0 & Self::bit(family) != 0
    }

    /// Those in it, in the order of [`Family::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.holds(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<T: IntoIterator<Item = Family>>(families: T) -> Self {
        let mut set = Families::default();
        families.into_iter().for_each(|family| set.add(family));
        set
    }
}
