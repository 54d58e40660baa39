//! The text of a trace as typed steps: what is done at each, and the text that must come out of it.
//!
//! Every line is read before anything is replayed, so a malformed trace is refused by line number and never half
//! compared. Doing the steps is left to `machine`.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::{FromStr, Lines, Split};

use allocdb_node::allocator::{AllocatorConfig, ClientCommand, Command};
use allocdb_node::engine::EngineConfig;
use allocdb_node::ids::{
    ClientId, HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, ShardId, Slot,
};

use super::Malformed;

/// Traces have one client; the allocator does not look at it.
const CLIENT: ClientId = ClientId(7);

/// A whole trace.
pub(crate) struct Trace<'a> {
    /// Capacities and windows.
    pub(crate) config: AllocatorConfig,
    /// Limits of the engine; absent in a trace of the bare allocator.
    pub(crate) engine: Option<EngineConfig>,
    /// In order; their numbers count from 1.
    pub(crate) steps: Vec<Step<'a>>,
}

/// One step.
pub(crate) struct Step<'a> {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// What is done.
    pub(crate) action: Action,
    /// What must come of it.
    pub(crate) result: &'a str,
    /// The whole state after it, where the trace dumps it.
    pub(crate) state: Vec<&'a str>,
}

/// What a step does. A trace of the allocator has the first two and `Restore`; one of an engine the others; both look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Apply a client's command.
    Client { lsn: Lsn, slot: Slot, command: ClientCommand },
    /// Apply a command of the system's own.
    Internal { lsn: Lsn, slot: Slot, command: Command },
    /// Go on from a snapshot, by way of its bytes.
    Restore,
    /// Submit a command.
    Submit { slot: Slot, command: ClientCommand },
    /// Only queue a command.
    Enqueue { slot: Slot, command: ClientCommand },
    /// Execute the oldest queued command.
    Process,
    /// Expire what is due.
    Tick { slot: Slot },
    /// Take a checkpoint.
    Checkpoint,
    /// Recover from the files.
    Restart { slot: Slot },
    /// Ask whether a read may be served.
    Fence { lsn: Lsn },
    /// Ask for counters and marks.
    Metrics { slot: Slot },
    /// Read something.
    Look(Look),
}

/// A read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Lease { lease: ReservationId, slot: Slot },
    Operation { operation: OperationId, slot: Slot },
    Resource { resource: ResourceId },
    Health { slot: Slot },
}

impl<'a> Trace<'a> {
    /// Reads a trace.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Malformed> {
        let mut lines = Numbered { lines: text.lines().peekable(), number: 0 };
        while lines.next_if_starts("#").is_some() {}
        let is_engine = match lines.require("kind=core or kind=engine")? {
            "kind=core" => false,
            "kind=engine" => true,
            other => {
                return Err(lines.malformed(format!("expected kind=core or kind=engine, found `{other}`")));
            }
        };
        let config = read_config(&lines.settings("config ")?).map_err(|problem| lines.malformed(problem))?;
        let engine = if is_engine {
            let settings = lines.settings("engine ")?;
            Some(read_engine_config(&settings).map_err(|problem| lines.malformed(problem))?)
        } else {
            None
        };
        let mut steps = Vec::new();
        while let Some(text) = lines.next() {
            let (line, expected) = (lines.number, steps.len() + 1);
            let (action, result) =
                read_step(text, expected, is_engine).map_err(|problem| lines.malformed(problem))?;
            let state = std::iter::from_fn(|| lines.next_if_starts("= ")).collect();
            steps.push(Step { line, action, result, state });
        }
        if steps.is_empty() {
            return Err(lines.malformed("expected at least one step, found the end of the file".to_owned()));
        }
        Ok(Self { config, engine, steps })
    }
}

struct Numbered<'a> {
    lines: Peekable<Lines<'a>>,
    /// Of the line taken last.
    number: usize,
}

impl<'a> Numbered<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.number += 1;
        self.lines.next()
    }

    /// The next line without its prefix, if it has it.
    fn next_if_starts(&mut self, prefix: &str) -> Option<&'a str> {
        let rest = self.lines.peek()?.strip_prefix(prefix)?;
        self.next();
        Some(rest)
    }

    fn require(&mut self, expected: &str) -> Result<&'a str, Malformed> {
        self.next().ok_or_else(|| self.malformed(format!("expected {expected}, found the end of the file")))
    }

    /// The `name=number` pairs of a line that begins with a word.
    fn settings(&mut self, word: &str) -> Result<BTreeMap<&'a str, &'a str>, Malformed> {
        let line = self.require(&format!("a line `{word}…`"))?;
        let wrong = |problem: String| self.malformed(problem);
        let rest =
            line.strip_prefix(word).ok_or_else(|| wrong(format!("expected `{word}…`, found `{line}`")))?;
        let mut settings = BTreeMap::new();
        for pair in rest.split(' ') {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| wrong(format!("expected name=number, found `{pair}`")))?;
            if settings.insert(name, value).is_some() {
                return Err(wrong(format!("setting `{name}` appears twice")));
            }
        }
        Ok(settings)
    }

    fn malformed(&self, problem: String) -> Malformed {
        Malformed { line: self.number, problem }
    }
}

fn setting<T: FromStr>(settings: &BTreeMap<&str, &str>, name: &str) -> Result<T, String> {
    let value = settings.get(name).ok_or_else(|| format!("setting `{name}` is missing"))?;
    number(name, value)
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: expected an unsigned number in range, found `{value}`"))
}

fn read_config(settings: &BTreeMap<&str, &str>) -> Result<AllocatorConfig, String> {
    expect_count(settings, 9)?;
    Ok(AllocatorConfig {
        shard_id: ShardId(setting(settings, "shard_id")?),
        max_resources: setting(settings, "max_resources")?,
        max_reservations: setting(settings, "max_reservations")?,
        max_bundle_size: setting(settings, "max_bundle_size")?,
        max_operations: setting(settings, "max_operations")?,
        max_ttl_slots: setting(settings, "max_ttl_slots")?,
        max_client_retry_window_slots: setting(settings, "max_client_retry_window_slots")?,
        reservation_history_window_slots: setting(settings, "reservation_history_window_slots")?,
        max_expiration_bucket_len: setting(settings, "max_expiration_bucket_len")?,
    })
}

fn read_engine_config(settings: &BTreeMap<&str, &str>) -> Result<EngineConfig, String> {
    expect_count(settings, 3)?;
    Ok(EngineConfig {
        max_submission_queue: setting(settings, "max_submission_queue")?,
        max_command_bytes: setting(settings, "max_command_bytes")?,
        max_expirations_per_tick: setting(settings, "max_expirations_per_tick")?,
    })
}

fn expect_count(settings: &BTreeMap<&str, &str>, count: usize) -> Result<(), String> {
    let found = settings.len();
    if found == count { Ok(()) } else { Err(format!("expected {count} settings, found {found}")) }
}

/// Reads `s=<number> <action> => <result>`.
fn read_step(text: &str, expected: usize, is_engine: bool) -> Result<(Action, &str), String> {
    let (action, result) =
        text.split_once(" => ").ok_or_else(|| format!("expected `<action> => <result>`, found `{text}`"))?;
    let mut tokens = Tokens(action.split(' ').peekable());
    let found: usize = tokens.number("s")?;
    if found != expected {
        return Err(format!("expected step {expected}, found step {found}"));
    }
    let action = if is_engine { tokens.engine_action()? } else { tokens.core_action()? };
    tokens.end()?;
    Ok((action, result))
}

/// The words of an action.
struct Tokens<'a>(Peekable<Split<'a, char>>);

impl<'a> Tokens<'a> {
    fn word(&mut self, expected: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("expected {expected}, found the end of the action"))
    }

    /// The value of the next word, which must be `key=value`.
    fn value(&mut self, key: &str) -> Result<&'a str, String> {
        let word = self.word(&format!("{key}=…"))?;
        let value = word.strip_prefix(key).and_then(|rest| rest.strip_prefix('='));
        value.ok_or_else(|| format!("expected {key}=…, found `{word}`"))
    }

    fn number<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        number(key, self.value(key)?)
    }

    fn slot(&mut self) -> Result<Slot, String> {
        self.number("slot").map(Slot)
    }

    fn end(&mut self) -> Result<(), String> {
        self.0.next().map_or(Ok(()), |word| Err(format!("expected the end of the action, found `{word}`")))
    }

    fn core_action(&mut self) -> Result<Action, String> {
        match self.word("an action")? {
            "via=client" => {
                let command = self.client_command()?;
                Ok(Action::Client { command, slot: self.slot()?, lsn: Lsn(self.number("lsn")?) })
            }
            "via=internal" => {
                let command = self.command()?;
                Ok(Action::Internal { command, slot: self.slot()?, lsn: Lsn(self.number("lsn")?) })
            }
            "restore" => Ok(Action::Restore),
            other => self.look(other),
        }
    }

    fn engine_action(&mut self) -> Result<Action, String> {
        match self.word("an action")? {
            "submit" => Ok(Action::Submit { command: self.client_command()?, slot: self.slot()? }),
            "enqueue" => Ok(Action::Enqueue { command: self.client_command()?, slot: self.slot()? }),
            "process" => Ok(Action::Process),
            "tick" => Ok(Action::Tick { slot: self.slot()? }),
            "checkpoint" => Ok(Action::Checkpoint),
            "restart" => Ok(Action::Restart { slot: self.slot()? }),
            "fence" => Ok(Action::Fence { lsn: Lsn(self.number("lsn")?) }),
            "metrics" => Ok(Action::Metrics { slot: self.slot()? }),
            other => self.look(other),
        }
    }

    fn look(&mut self, word: &str) -> Result<Action, String> {
        Ok(Action::Look(match word {
            "look=lease" => Look::Lease { lease: ReservationId(self.number("lease")?), slot: self.slot()? },
            "look=op" => Look::Operation { operation: OperationId(self.number("op")?), slot: self.slot()? },
            "look=resource" => Look::Resource { resource: ResourceId(self.number("resource")?) },
            "look=health" => Look::Health { slot: self.slot()? },
            other => return Err(format!("expected an action of this kind of trace, found `{other}`")),
        }))
    }

    fn client_command(&mut self) -> Result<ClientCommand, String> {
        let operation = OperationId(self.number("op")?);
        Ok(ClientCommand { operation, client: CLIENT, command: self.command()? })
    }

    fn lease(&mut self) -> Result<ReservationId, String> {
        self.number("lease").map(ReservationId)
    }

    fn holder(&mut self) -> Result<HolderId, String> {
        self.number("holder").map(HolderId)
    }

    fn command(&mut self) -> Result<Command, String> {
        Ok(match self.value("cmd")? {
            "create_resource" => Command::CreateResource { resource: ResourceId(self.number("resource")?) },
            "reserve" => Command::Reserve {
                resource: ResourceId(self.number("resource")?),
                holder: self.holder()?,
                ttl_slots: self.number("ttl")?,
            },
            "reserve_bundle" => Command::ReserveBundle {
                resources: resource_list(self.value("resources")?)?,
                holder: self.holder()?,
                ttl_slots: self.number("ttl")?,
            },
            "confirm" => Command::Confirm {
                reservation: self.lease()?,
                holder: self.holder()?,
                epoch: LeaseEpoch(self.number("epoch")?),
            },
            "release" => Command::Release {
                reservation: self.lease()?,
                holder: self.holder()?,
                epoch: LeaseEpoch(self.number("epoch")?),
            },
            "revoke" => Command::Revoke { reservation: self.lease()? },
            "reclaim" => Command::Reclaim { reservation: self.lease()? },
            "expire" => {
                Command::Expire { reservation: self.lease()?, deadline: Slot(self.number("deadline")?) }
            }
            other => return Err(format!("cmd: expected a command, found `{other}`")),
        })
    }
}

/// `1,2,3`, or `-` for none.
fn resource_list(text: &str) -> Result<Vec<ResourceId>, String> {
    if text == "-" {
        return Ok(Vec::new());
    }
    text.split(',').map(|id| number("resources", id).map(ResourceId)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# any words\nkind=engine\n\
        config shard_id=7 max_resources=3 max_reservations=2 max_bundle_size=2 max_operations=5 max_ttl_slots=3 \
        max_client_retry_window_slots=1 reservation_history_window_slots=2 max_expiration_bucket_len=1\n\
        engine max_submission_queue=4 max_command_bytes=512 max_expirations_per_tick=2\n";

    fn problem(steps: &str) -> String {
        let text = format!("{HEAD}{steps}");
        Trace::parse(&text).err().expect("the trace should be refused").to_string()
    }

    #[test]
    fn settings_steps_and_dumps_are_read() {
        let text = format!(
            "{HEAD}s=1 submit op=9 cmd=reserve_bundle resources=1,2 holder=3 ttl=4 slot=5 => x y\n= w a\n= b 1 2\n\
             s=2 look=lease lease=8 slot=6 => retired\n"
        );
        let trace = Trace::parse(&text).unwrap();
        assert_eq!((trace.config.shard_id, trace.config.max_expiration_bucket_len), (ShardId(7), 1));
        assert_eq!(trace.engine.map(|engine| engine.max_command_bytes), Some(512));
        let [first, second] = trace.steps.as_slice() else { panic!("two steps") };
        assert_eq!(
            (first.line, first.result, first.state.as_slice()),
            (5, "x y", ["w a", "b 1 2"].as_slice())
        );
        let bundle = Command::ReserveBundle {
            resources: vec![ResourceId(1), ResourceId(2)],
            holder: HolderId(3),
            ttl_slots: 4,
        };
        let command = ClientCommand { operation: OperationId(9), client: CLIENT, command: bundle };
        assert_eq!(first.action, Action::Submit { slot: Slot(5), command });
        assert_eq!(second.line, 8);
    }

    #[test]
    fn malformed_lines_are_named() {
        assert_eq!(problem(""), "line 5: expected at least one step, found the end of the file");
        assert_eq!(problem("s=2 process => empty\n"), "line 5: expected step 1, found step 2");
        assert_eq!(problem("s=1 process\n"), "line 5: expected `<action> => <result>`, found `s=1 process`");
        assert_eq!(
            problem("s=1 process => empty\ns=2 tick slot=-1 => x\n"),
            "line 6: slot: expected an unsigned number in range, found `-1`"
        );
        assert_eq!(problem("s=1 tick slot=1 2 => x\n"), "line 5: expected the end of the action, found `2`");
        assert_eq!(
            problem("s=1 restore => x\n"),
            "line 5: expected an action of this kind of trace, found `restore`"
        );
        assert_eq!(
            Trace::parse("kind=core\nconfig shard_id=0\n").err().map(|error| error.to_string()).as_deref(),
            Some("line 2: expected 9 settings, found 1")
        );
    }
}
