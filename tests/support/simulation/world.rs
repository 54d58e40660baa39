//! Time, the network, and what happens next.

use super::Traced;
use super::clients::{Client, WriteOp};
use super::disk::SimDisk;
use super::history::History;
use super::judge::{Record, Totals, limits};
use super::nemesis::Nemesis;
use super::operator::Operations;
use super::process::{Inbound, Machine};
use allocdb_node::replica::message::Ack;
use allocdb_node::replica::node::{ClientReply, PeerFailure};
use fastrand::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Replicas.
pub(super) const COUNT: usize = 3;

/// A machine, by its place from 0; replica ids are one higher.
pub(super) type At = usize;

/// Where clients are, in the network.
pub(super) const CLIENTS: At = COUNT;

/// When the seed has gone on for so long after the last fault, the cluster will not serve again. Microseconds.
const PATIENCE: u64 = 120_000_000;

/// What can happen.
pub(super) enum Happening {
    Arrive { at: At, inbound: Inbound },
    Answer { to: At, life: u64, from: At, exchange: u64, answer: Result<Ack, PeerFailure> },
    ExchangeOver { at: At, life: u64, to: At, exchange: u64 },
    Wake { at: At, life: u64 },
    Rest { at: At, life: u64, stamp: u64 },
    Alarm { at: At, life: u64, due: u64 },
    AskViews { at: At, life: u64, pause: u64 },
    ClientTurn { client: usize },
    ClientAnswer { client: usize, attempt: u64, reply: ClientReply },
    ClientGivesUp { client: usize, attempt: u64 },
    Operator,
    Nemesis,
}

/// How messages travel.
pub(super) struct Network {
    /// From, to.
    cut: [[bool; COUNT + 1]; COUNT + 1],
    /// Microseconds.
    pub(super) longest_delay: u64,
    /// Per mille.
    pub(super) lost: u32,
    /// Per mille.
    pub(super) repeated: u32,
    /// Per mille that take up to two seconds, and so are overtaken.
    pub(super) late: u32,
}

impl Network {
    fn new() -> Self {
        Self { cut: Default::default(), longest_delay: 1_000, lost: 0, repeated: 0, late: 0 }
    }

    pub(super) fn cut(&mut self, from: At, to: At) {
        self.cut[from][to] = true;
    }

    /// As good as new.
    pub(super) fn heal(&mut self) {
        *self = Self::new();
    }

    pub(super) fn join(&mut self) {
        self.cut = Default::default();
    }

    /// Whether a question and its answer get through.
    pub(super) fn is_open(&self, one: At, other: At) -> bool {
        !self.cut[one][other] && !self.cut[other][one]
    }

    pub(super) fn repeats(&self, rng: &mut Rng) -> bool {
        rng.u32(..1000) < self.repeated
    }

    /// How long one message takes; none if it gets lost.
    pub(super) fn delay(&self, from: At, to: At, rng: &mut Rng) -> Option<u64> {
        if self.cut[from][to] || rng.u32(..1000) < self.lost {
            return None;
        }
        let delay = rng.u64(50..=self.longest_delay.max(50));
        Some(if rng.u32(..1000) < self.late { delay + rng.u64(..2_000_000) } else { delay })
    }
}

/// What is going to happen: the earliest first, and of those at the same time the one that was planned first.
#[derive(Default)]
struct Agenda {
    /// Time, number, and where it lies: only these are moved about.
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
}

impl Agenda {
    fn add(&mut self, time: u64, number: u64, happening: Happening) {
        let place = match self.free.pop() {
            Some(place) => {
                self.happenings[place] = Some(happening);
                place
            }
            None => {
                self.happenings.push(Some(happening));
                self.happenings.len() - 1
            }
        };
        self.order.push(Reverse((time, number, place)));
    }

    fn next(&mut self) -> Option<(u64, Happening)> {
        let Reverse((time, _, place)) = self.order.pop()?;
        self.free.push(place);
        self.happenings[place].take().map(|happening| (time, happening))
    }
}

/// See the module.
pub(super) struct World {
    pub(super) seed: u64,
    /// Microseconds since the beginning.
    pub(super) now: u64,
    pub(super) rng: Rng,
    agenda: Agenda,
    numbers: u64,
    pub(super) lives: u64,
    pub(super) machines: [Machine; COUNT],
    pub(super) network: Network,
    pub(super) checkpoint_bytes: u64,
    /// Many clients that do not think long, so that a backup falls behind without being hurt.
    pub(super) is_busy: bool,
    /// A machine that takes its time for everything, as one with a slow disk does.
    pub(super) slow: Option<At>,
    pub(super) clients: Vec<Client>,
    pub(super) writes: Vec<WriteOp>,
    pub(super) operator: Operations,
    pub(super) nemesis: Nemesis,
    pub(super) record: Record,
    pub(super) history: History,
    violation: Option<String>,
    traced: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, is_traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut machine = || {
            let is_other_build = rng.u8(..4) == 0;
            Machine { disk: SimDisk::default(), process: None, is_isolated: false, is_other_build }
        };
        let machines = [machine(), machine(), machine()];
        let checkpoint_bytes = [0, 200, 400, 1_500, 6_000][rng.usize(..5)];
        let is_busy = rng.u8(..4) == 0;
        let slow = (rng.u8(..3) == 0).then(|| rng.usize(..COUNT));
        let nemesis = Nemesis::new(&mut rng);
        Self {
            seed,
            now: 0,
            rng,
            agenda: Agenda::default(),
            numbers: 0,
            lives: 0,
            machines,
            network: Network::new(),
            checkpoint_bytes,
            is_busy,
            slow,
            clients: Vec::new(),
            writes: Vec::new(),
            operator: Operations::default(),
            nemesis,
            record: Record::default(),
            history: History::new(limits(), seed, is_traced),
            violation: None,
            traced: is_traced.then(Vec::new),
        }
    }

    /// Plays the seed.
    pub(super) fn run(mut self) -> Result<Totals, String> {
        self.play()
    }

    /// Plays the seed, and returns besides how it ended what happened in it.
    pub(super) fn run_traced(mut self) -> Traced {
        let result = self.play();
        Traced { lines: self.traced.take().unwrap_or_default(), history: self.history.take_lines(), result }
    }

    fn play(&mut self) -> Result<Totals, String> {
        (0..COUNT).for_each(|at| self.start(at, true));
        self.set_up_clients();
        self.schedule(0, Happening::Nemesis);
        self.schedule(0, Happening::Operator);
        let mut happened: u64 = 0;
        while self.violation.is_none() && !self.is_over() {
            let Some((time, happening)) = self.agenda.next() else {
                self.violated("nothing is going to happen any more".to_owned());
                break;
            };
            self.now = time;
            happened += 1;
            self.happen(happening);
            let calm_for = self.nemesis.calm_since.map_or(0, |since| self.now - since);
            if calm_for > PATIENCE {
                let states = self.states();
                self.violated(format!("the cluster does not serve again: {states}"));
            }
        }
        if self.violation.is_none() {
            self.judge();
        }
        match self.violation.take() {
            None => Ok(self.totals(happened)),
            Some(violation) => Err(format!("seed {} at {} us: {violation}", self.seed, self.now)),
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { at, inbound } => self.arrive(at, inbound),
            Happening::Answer { to, life, from, exchange, answer } => {
                self.exchange_over(to, life, from, exchange, answer);
            }
            Happening::ExchangeOver { at, life, to, exchange } => {
                let late = Err(PeerFailure::Unreachable("timed out".to_owned()));
                self.exchange_over(at, life, to, exchange, late);
            }
            Happening::Wake { at, life } => self.wake(at, life),
            Happening::Rest { at, life, stamp } => self.rest(at, life, stamp),
            Happening::Alarm { at, life, due } => self.alarm(at, life, due),
            Happening::AskViews { at, life, pause } => {
                if self.process(at, life).is_some() {
                    self.ask_views(at, pause);
                }
            }
            Happening::ClientTurn { client } => self.client_turn(client),
            Happening::ClientAnswer { client, attempt, reply } => {
                self.client_answered(client, attempt, Some(reply));
            }
            Happening::ClientGivesUp { client, attempt } => self.client_answered(client, attempt, None),
            Happening::Operator => self.operate(),
            Happening::Nemesis => self.strike(),
        }
    }

    /// Lets something happen after so many microseconds.
    pub(super) fn schedule(&mut self, after: u64, happening: Happening) {
        let number = self.next_number();
        self.agenda.add(self.now + after, number, happening);
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The first violation is the one that counts.
    pub(super) fn violated(&mut self, what: String) {
        self.trace(|| format!("VIOLATED {what}"));
        self.violation.get_or_insert(what);
    }

    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(traced) = &mut self.traced {
            traced.push(format!("{:>10} {}", self.now, line()));
        }
    }

    /// How every replica is, in a line.
    pub(super) fn states(&self) -> String {
        let state = |(at, machine): (usize, &Machine)| {
            let id = at + 1;
            match machine.process.as_ref().map(|process| process.node.replica()) {
                None => format!("{id}: down"),
                Some(replica) => match replica.fault() {
                    Some(fault) => format!("{id}: faulted: {fault}"),
                    None => format!(
                        "{id}: {} view {} commit {:?}",
                        replica.role().word(),
                        replica.view(),
                        replica.commit_lsn()
                    ),
                },
            }
        };
        self.machines.iter().enumerate().map(state).collect::<Vec<_>>().join(", ")
    }
}
