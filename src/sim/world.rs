//! One seed while it is played: what the replicas, the clients, the operator and the nemesis are up to, and what happens next.

mod clients;
mod hunted;
mod judge;
mod nemesis;
mod network;
mod operator;
mod process;
mod script;

use super::clock::{Clock, clocks_of};
use super::coverage::{Coverage, Recoveries};
use super::disk::SimDisk;
use super::history::History;
use super::noise::{Dice, Noise, SEQUENCES, Source};
use super::plan::{Plan, Setup};
use super::setup::{At, COUNT, Tables, limits, work};
use super::story::Note;
use super::{Played, Recorded};
use crate::check::{Anomaly, AnomalyKind, Judgement};
use crate::ids::Slot;
use crate::planted::PlantedFault;
use crate::replica::message::Ack;
use crate::replica::node::{ClientReply, PeerFailure};
use crate::workload::Generator;
use clients::{Client, WriteOp};
use fastrand::Rng;
use judge::Record;
use nemesis::Nemesis;
use network::{Agenda, Network};
use operator::Operations;
use process::{Inbound, Machine};
use script::Script;
use std::collections::HashMap;

/// When the seed has gone on for so long after the last fault, the cluster will not serve again. Microseconds.
const PATIENCE: u64 = 120_000_000;

/// How long after its last moment a seed that ended early is healed when it is played as a plan. Microseconds.
const AFTERMATH: u64 = 10_000_000;

/// What can happen, and what has to be known when it does.
enum Happening {
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
    SecondOperator,
    Nemesis,
}

/// Everything that a seed has, as of `now`.
pub(super) struct World {
    seed: u64,
    /// Microseconds since the beginning.
    now: u64,
    rng: Rng,
    agenda: Agenda,
    numbers: u64,
    lives: u64,
    machines: [Machine; COUNT],
    network: Network,
    checkpoint_bytes: u64,
    tables: Tables,
    /// Many clients that do not think long, so that a backup falls behind without being hurt.
    is_busy: bool,
    /// A machine that takes its time for everything, as one with a slow disk does.
    slow: Option<At>,
    clients: Vec<Client>,
    /// What clients ask, drawn as for hunts.
    generator: Generator,
    writes: Vec<WriteOp>,
    /// The place of each of them, by what it was sent as.
    sent: HashMap<(Slot, Vec<u8>), usize>,
    operator: Operations,
    /// One who does not know of the other, for the fault `two-operators`.
    second_operator: Operations,
    nemesis: Nemesis,
    record: Record,
    history: History,
    judgement: Judgement,
    traced: Option<Vec<String>>,
    /// Whether the operator's tools know no sums beside files.
    old_tools: bool,
    /// What is left to chance.
    noise: Source,
    /// What is played instead of what the seed would draw.
    script: Option<Script>,
    recoveries: Recoveries,
    coverage: Coverage,
    /// What happened besides what clients asked.
    notes: Vec<Note>,
    /// Everything that was decided, for a plan.
    tape: Option<Box<Plan>>,
}

impl World {
    pub(super) fn new(seed: u64, is_traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let clocks = clocks_of(seed);
        let mut machine = |at: At| {
            let is_other_build = rng.u8(..4) == 0;
            Machine {
                disk: SimDisk::default(),
                process: None,
                is_isolated: false,
                paused_until: 0,
                is_other_build,
                clock: Clock(clocks[at]),
            }
        };
        let machines = [machine(0), machine(1), machine(2)];
        let checkpoint_bytes = [0, 200, 400, 1_500, 6_000][rng.usize(..5)];
        let is_busy = rng.u8(..4) == 0;
        let slow = (rng.u8(..3) == 0).then(|| rng.usize(..COUNT));
        let nemesis = Nemesis::new(&mut rng, seed);
        let generator = Generator::new(&work(&mut rng, seed));
        let old_tools = !seed.is_multiple_of(2);
        let old_builds = machines.iter().zip(1..).filter(|(machine, _)| machine.is_other_build);
        let setup = Setup {
            checkpoint_bytes,
            slow: slow.map(|at| at as u64 + 1),
            old_builds: old_builds.map(|(_, number)| number).collect(),
            old_tools,
            clocks: if clocks == [0; COUNT] { Vec::new() } else { clocks.to_vec() },
            tables: Tables::OF_SEEDS,
        };
        let tape = || {
            let noise = Noise::Recorded(vec![Vec::new(); SEQUENCES]);
            let (operations, faults) = (Vec::new(), Vec::new());
            Box::new(Plan { seed, planted_fault: None, setup, noise, calm: 0, operations, faults })
        };
        let tape = is_traced.then(tape);
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
            tables: Tables::OF_SEEDS,
            is_busy,
            slow,
            clients: Vec::new(),
            generator,
            writes: Vec::new(),
            sent: HashMap::new(),
            operator: Operations::default(),
            second_operator: Operations::default(),
            nemesis,
            record: Record::default(),
            history: History::new(limits(Tables::OF_SEEDS), seed, is_traced),
            judgement: Judgement::default(),
            traced: is_traced.then(Vec::new),
            old_tools,
            noise: Source::Seed,
            script: None,
            recoveries: Recoveries::default(),
            coverage: Coverage::default(),
            notes: Vec::new(),
            tape,
        }
    }

    /// A world in which this happens, and nothing is drawn but the noise.
    pub(super) fn of_plan(plan: &Plan, is_traced: bool) -> Self {
        let Setup { checkpoint_bytes, slow, old_builds, old_tools, clocks, tables } = &plan.setup;
        let mut world = Self::new(plan.seed, is_traced);
        world.tape = None;
        for (machine, number) in world.machines.iter_mut().zip(1..) {
            machine.is_other_build = old_builds.contains(&number);
            machine.clock = Clock(clocks.get(number as usize - 1).copied().unwrap_or(0));
        }
        world.checkpoint_bytes = *checkpoint_bytes;
        world.tables = *tables;
        world.history = History::new(limits(*tables), plan.seed, is_traced);
        world.slow = slow.map(|number| number.saturating_sub(1) as At);
        world.old_tools = *old_tools;
        world.nemesis = Nemesis::idle();
        world.noise = Source::of(&plan.noise, plan.seed);
        world.script = Some(Script::new(plan));
        world
    }

    /// What is left to chance, from wherever this world has it.
    fn chance(&mut self, dice: Dice, draw: impl FnOnce(&mut Rng) -> Option<u64>) -> Option<u64> {
        let drawn = self.noise.next(dice, &mut self.rng, draw);
        if let Some(Noise::Recorded(lists)) = self.tape.as_mut().map(|tape| &mut tape.noise) {
            lists[dice.place()].push(drawn);
        }
        drawn
    }

    /// How long a message takes; none if it never arrives.
    fn delay(&mut self, from: At, to: At) -> Option<u64> {
        if self.network.is_cut(from, to) {
            return None;
        }
        let network = &self.network;
        let drawn = self.noise.next(Dice::Delay(from, to), &mut self.rng, |rng| network.delay(rng));
        if let Some(Noise::Recorded(lists)) = self.tape.as_mut().map(|tape| &mut tape.noise) {
            lists[Dice::Delay(from, to).place()].push(drawn);
        }
        drawn
    }

    /// Plays the seed to its end, or to the first thing that is wrong.
    pub(super) fn run(mut self) -> Played {
        self.play()
    }

    /// The same with all that happened on the way; only a world that was made to be traced has it.
    pub(super) fn run_recorded(mut self) -> Recorded {
        let played = self.play();
        let trace = self.traced.take().unwrap_or_default();
        let plan = self.tape.take().map(|mut tape| {
            if self.nemesis.calm_since.is_none() {
                // What ended the seed came before anything was healed.
                tape.calm = self.now.saturating_add(AFTERMATH);
            }
            *tape
        });
        let notes = std::mem::take(&mut self.notes);
        Recorded { trace, history: self.history.take_lines(), notes, plan, played }
    }

    fn play(&mut self) -> Played {
        (0..COUNT).for_each(|at| self.start(at, true));
        self.set_up_clients();
        self.schedule(0, Happening::Nemesis);
        self.schedule(0, Happening::Operator);
        if PlantedFault::TwoOperators.is_enabled() {
            self.schedule(0, Happening::SecondOperator);
        }
        let mut happened: u64 = 0;
        while self.judgement.anomalies.is_empty() && !self.is_over() {
            let Some((time, happening)) = self.agenda.next() else {
                self.does_not_serve("nothing is going to happen any more".to_owned());
                break;
            };
            self.now = time;
            happened += 1;
            self.happen(happening);
            let served_from = self.nemesis.calm_since.map(|since| since.max(self.last_asked()));
            let calm_for = served_from.map_or(0, |from| self.now.saturating_sub(from));
            if calm_for > PATIENCE {
                let states = self.states();
                self.does_not_serve(states);
            }
        }
        if self.judgement.anomalies.is_empty() {
            self.judge();
        }
        let judgement = std::mem::take(&mut self.judgement);
        let coverage = std::mem::take(&mut self.coverage);
        Played { seed: self.seed, micros: self.now, totals: self.totals(happened), coverage, judgement }
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
            Happening::SecondOperator => self.operate_as_second(),
            Happening::Nemesis => self.strike(),
        }
    }

    /// Lets something happen after so many microseconds.
    fn schedule(&mut self, after: u64, happening: Happening) {
        let number = self.next_number();
        self.agenda.add(self.now + after, number, happening);
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Something is wrong. The first that is ends the seed.
    fn report(&mut self, anomaly: Anomaly) {
        self.trace(|| {
            format!("ANOMALY {anomaly}: expected {}, observed {}", anomaly.expected, anomaly.observed)
        });
        self.judgement.anomalies.push(anomaly);
    }

    /// The same, of what is seen in the replicas and in no answer.
    fn violated(&mut self, kind: AnomalyKind, at: Option<At>, expected: &str, observed: String) {
        self.report(anomaly(kind, at, expected, observed));
    }

    fn does_not_serve(&mut self, states: String) {
        let expected = "the cluster serves again once nothing is wrong any more";
        self.violated(AnomalyKind::Unavailable, None, expected, states);
    }

    /// Takes note of what a story tells besides the operations of clients.
    fn note(&mut self, who: &'static str, what: impl FnOnce() -> String) {
        if self.traced.is_some() {
            let what = what();
            self.trace(|| format!("{who}: {what}"));
            self.notes.push(Note { micros: self.now, who, what });
        }
    }

    fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(traced) = &mut self.traced {
            traced.push(format!("{:>10} {}", self.now, line()));
        }
    }

    /// How every replica is, in a line.
    fn states(&self) -> String {
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

fn anomaly(kind: AnomalyKind, at: Option<At>, expected: &str, observed: String) -> Anomaly {
    let fields = at.map(|at| ("replica", (at + 1).to_string())).into_iter().collect();
    Anomaly { kind, operations: Vec::new(), fields, expected: expected.to_owned(), observed }
}
