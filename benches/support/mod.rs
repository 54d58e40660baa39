//! What benchmarks share: a stream of commands that all succeed, and how much memory the process has used.

#![allow(dead_code, unreachable_pub, reason = "each benchmark is a crate of its own and uses its part")]

use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::{Allocator, AllocatorConfig, Body, ClientCommand, Command, Entry};
use allocdb_node::ids::{
    ClientId, HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, ShardId, Slot,
};
use allocdb_node::storage::{Frame, RecordType};
use std::time::Duration;

/// Commands in one slot.
const COMMANDS_PER_SLOT: u64 = 1_000;

/// How far the lease of a resource has come. Small, so that the mix leaves the processor's caches to what is measured.
#[derive(Clone, Copy)]
struct Phase {
    is_confirmed: bool,
    /// When it was reserved; 0 while it is free.
    reserved_at: u32,
}

const FREE: Phase = Phase { is_confirmed: false, reserved_at: 0 };

/// Creates resources, then leases them over and over, in random order: reserve, confirm, release. At any time a third of the
/// resources is in each state, and the tables hold about as many reservations and operations as there are resources.
pub struct Mix {
    last_lsn: u64,
    created: u64,
    phases: Vec<Phase>,
    random: fastrand::Rng,
}

impl Mix {
    pub fn new(resources: u32) -> Self {
        let phases = vec![FREE; resources as usize];
        Self { last_lsn: 0, created: 0, phases, random: fastrand::Rng::with_seed(7) }
    }

    /// Tables that fit the mix, and are full with it.
    pub fn config(resources: u32) -> AllocatorConfig {
        // Operations are remembered for two windows.
        let window = u64::from(resources).div_ceil(2 * COMMANDS_PER_SLOT);
        let room = resources + 4 * COMMANDS_PER_SLOT as u32;
        AllocatorConfig {
            shard_id: ShardId(0),
            max_resources: resources,
            max_reservations: room,
            max_bundle_size: 1,
            max_operations: room,
            max_ttl_slots: window,
            max_client_retry_window_slots: window,
            reservation_history_window_slots: window,
            max_expiration_bucket_len: room,
        }
    }

    /// An allocator that the mix has filled, and the mix in the middle of its work.
    pub fn filled(resources: u32) -> (Allocator, Self) {
        let mut allocator = Allocator::new(Self::config(resources)).expect("memory for the tables");
        let mut mix = Self::new(resources);
        let mut outcomes = Vec::new();
        let mut left = u64::from(resources) * 8;
        while left > 0 {
            let run: Vec<Entry> = (0..left.min(1_000)).map(|_| mix.next_entry()).collect();
            left -= run.len() as u64;
            outcomes.clear();
            allocator.apply_run(&run, &mut outcomes).expect("commands in order");
        }
        (allocator, mix)
    }

    /// The next command, and where it goes.
    pub fn next_entry(&mut self) -> Entry {
        let (lsn, slot, client) = self.next_client();
        Entry { lsn, slot, body: Body::Client(client) }
    }

    /// Appends the next command to a log.
    pub fn append_frame(&mut self, log: &mut Vec<u8>) {
        let (lsn, slot, client) = self.next_client();
        Frame { lsn, slot, record: RecordType::Client, payload: &encode_client(&client) }.encode(log);
    }

    fn next_client(&mut self) -> (Lsn, Slot, ClientCommand) {
        self.last_lsn += 1;
        let lsn = Lsn(self.last_lsn);
        let command = self.choose(lsn);
        // As clients make them: a clock reading above, a small number below.
        let operation = OperationId((1_795_423_506_660 << 64) | u128::from(lsn.0));
        (lsn, Slot(lsn.0 / COMMANDS_PER_SLOT), ClientCommand { operation, client: ClientId(7), command })
    }

    fn choose(&mut self, lsn: Lsn) -> Command {
        if self.created < self.phases.len() as u64 {
            self.created += 1;
            return Command::CreateResource { resource: ResourceId(u128::from(self.created)) };
        }
        let at = self.random.usize(..self.phases.len());
        let resource = ResourceId(at as u128 + 1);
        let (holder, epoch) = (HolderId(9), LeaseEpoch(1));
        let Phase { is_confirmed, reserved_at } = self.phases[at];
        let reservation = ReservationId::mint(ShardId(0), Lsn(reserved_at.into()));
        let (phase, command) = if reserved_at == 0 {
            let reserved_at = u32::try_from(lsn.0).expect("fewer commands than that");
            let phase = Phase { is_confirmed: false, reserved_at };
            (phase, Command::Reserve { resource, holder, ttl_slots: 1 })
        } else if is_confirmed {
            (FREE, Command::Release { reservation, holder, epoch })
        } else {
            let phase = Phase { is_confirmed: true, reserved_at };
            (phase, Command::Confirm { reservation, holder, epoch })
        };
        self.phases[at] = phase;
        command
    }
}

/// Time that the processor has spent on the calling thread.
pub fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Most memory that this process has used since [`forget_peak_memory`], in bytes.
pub fn peak_memory() -> u64 {
    peak_memory_of("self").expect("a kernel that tells")
}

/// Most memory that a process has used, in bytes; nothing if it is gone.
pub fn peak_memory_of(pid: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// From here on [`peak_memory`] counts anew, from what is used now, which is returned.
pub fn forget_peak_memory() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").expect("a kernel that forgets");
    peak_memory()
}
