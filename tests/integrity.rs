//! Bits that flip in the files of a replica at rest: none is believed. And files that another program has rewritten, which knows
//! nothing of the sums beside them: none is taken for damaged.
//!
//! `BIT_FLIPS=60000 cargo test --release --test all -- --nocapture integrity::` tries as many flips as that and prints what became of
//! them.

use allocdb_node::allocator::payload::{encode_client, encode_internal};
use allocdb_node::allocator::{AllocatorConfig, ClientCommand, Command, PayloadKind, snapshot_file};
use allocdb_node::engine::{EngineConfig, EnginePaths, record_of};
use allocdb_node::ids::{
    ClientId, HolderId, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, ShardId, Slot, View,
};
use allocdb_node::replica::staging::StagedReplica;
use allocdb_node::replica::{
    FaultReason, Identity, Metadata, PreparedEntry, Replica, ReplicaPaths, ReplicaSetup, Role, Vote,
    prepare_log,
};
use allocdb_node::sim::disk::{Fuse, SimDisk};
use allocdb_node::storage::Frame;
use allocdb_node::storage::sum::sum_path;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Flips that the normal run of all tests tries.
const FLIPS: u64 = 3_000;

fn setup_of(id: u64) -> ReplicaSetup {
    let folder = PathBuf::from("/replica");
    let engine = EnginePaths { wal: folder.join("state.wal"), snapshot: folder.join("state.snapshot") };
    ReplicaSetup {
        identity: Identity { replica: ReplicaId(id), shard: ShardId(0) },
        paths: ReplicaPaths { metadata: folder.join("replica.metadata"), engine },
        allocator: AllocatorConfig {
            shard_id: ShardId(0),
            max_resources: 16,
            max_reservations: 16,
            max_bundle_size: 2,
            max_operations: 64,
            max_ttl_slots: 8,
            max_client_retry_window_slots: 16,
            reservation_history_window_slots: 8,
            max_expiration_bucket_len: 16,
        },
        engine: EngineConfig {
            max_submission_queue: 16,
            max_command_bytes: 256,
            max_expirations_per_tick: 8,
        },
    }
}

/// The files of a replica that are not sums.
fn own_files() -> [PathBuf; 4] {
    let paths = setup_of(1).paths;
    [paths.metadata.clone(), paths.prepare_log(), paths.engine.snapshot, paths.engine.wal]
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_on(disk: &SimDisk) -> Files {
    let all = setup_of(1).paths.all().into_iter();
    all.filter_map(|path| disk.contents_of(&path).map(|bytes| (path, bytes))).collect()
}

fn disk_with(files: &Files) -> SimDisk {
    let disk = SimDisk::default();
    files.iter().for_each(|(path, bytes)| disk.put(path, Some(bytes.clone())));
    disk
}

/// The commands of one cluster: the same for each of its replicas, in one view.
struct Commands {
    rng: Rng,
    entries: Vec<PreparedEntry>,
    slot: u64,
}

impl Commands {
    fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), entries: Vec::new(), slot: 1 }
    }

    /// The entry of an LSN.
    fn entry(&mut self, lsn: u64, view: u64) -> PreparedEntry {
        while (self.entries.len() as u64) < lsn {
            let next = self.next();
            self.entries.push(next);
        }
        PreparedEntry { view: View(view), ..self.entries[lsn as usize - 1].clone() }
    }

    fn next(&mut self) -> PreparedEntry {
        self.slot += self.rng.u64(..3);
        let resource = ResourceId(self.rng.u128(1..8));
        let reservation = ReservationId(self.rng.u128(1..30));
        let holder = HolderId(self.rng.u128(1..5));
        let command = match self.rng.u8(..6) {
            0 | 1 => Command::CreateResource { resource },
            2 | 3 => Command::Reserve { resource, holder, ttl_slots: self.rng.u64(1..8) },
            4 => Command::Revoke { reservation },
            _ => Command::Expire { reservation, deadline: Slot(self.slot) },
        };
        let (kind, payload) = match command {
            Command::Expire { .. } => (PayloadKind::Internal, encode_internal(&command)),
            command => {
                let operation = OperationId(self.rng.u128(..));
                let client = ClientCommand { operation, client: ClientId(self.rng.u128(..9)), command };
                (PayloadKind::Client, encode_client(&client))
            }
        };
        let lsn = Lsn(self.entries.len() as u64 + 1);
        PreparedEntry { kind, view: View(0), lsn, slot: Slot(self.slot), payload }
    }
}

/// A replica that has lived for a while.
struct Aged {
    disk: SimDisk,
    replica: Replica,
    id: u64,
    view: u64,
}

impl Aged {
    fn begin(id: u64, view: u64, role: Role) -> Self {
        let disk = SimDisk::default();
        let mut replica = Replica::open(Arc::new(disk.clone()), &setup_of(id));
        replica.configure_normal_role(View(view), role).unwrap();
        Self { disk, replica, id, view }
    }

    fn held(&self) -> u64 {
        self.replica.highest_prepared().max(self.replica.commit_lsn()).map_or(0, Lsn::get)
    }

    fn promise(&mut self, commands: &mut Commands, count: u64) {
        let first = self.held() + 1;
        let entries = (first..first + count).map(|lsn| commands.entry(lsn, self.view)).collect();
        self.replica.append(entries).unwrap();
    }

    fn commit(&mut self, through: u64) {
        if through > 0 {
            self.replica.commit_through(Lsn(through)).unwrap();
        }
    }

    /// Does what replicas do, `steps` times.
    fn go_on(&mut self, commands: &mut Commands, rng: &mut Rng, steps: u32) {
        for _ in 0..steps {
            let room = 12u64.saturating_sub(self.replica.prepared().len() as u64);
            self.promise(commands, rng.u64(..4).min(room));
            let committed = self.replica.commit_lsn().map_or(0, Lsn::get);
            self.commit(rng.u64(committed..=self.held()));
            match rng.u8(..8) {
                0 => drop(self.replica.checkpoint().unwrap()),
                1 => self.die_in_a_checkpoint(rng),
                2 | 3 => self.replica.settle().unwrap(),
                _ => {}
            }
        }
    }

    fn die_in_a_checkpoint(&mut self, rng: &mut Rng) {
        self.disk.set_fuse(rng.u64(..20), Fuse::Kill);
        let _ = self.replica.checkpoint();
        self.disk.revive();
        self.replica = Replica::open(Arc::new(self.disk.clone()), &setup_of(self.id));
        assert!(self.replica.fault().is_none(), "{:?}", self.replica.fault());
    }

    fn rest(mut self) -> Files {
        self.replica.settle().unwrap();
        files_on(&self.disk)
    }
}

/// The files of some replica at rest.
fn at_rest(seed: u64) -> Files {
    let mut rng = Rng::with_seed(seed);
    let mut commands = Commands::new(seed);
    let role = if rng.bool() { Role::Primary } else { Role::Backup };
    let mut aged = Aged::begin(1, rng.u64(1..6), role);
    let steps = rng.u32(1..16);
    aged.go_on(&mut commands, &mut rng, steps);
    match rng.u8(..6) {
        0 => aged.replica.enter_view_uncertain().unwrap(),
        1 => {
            let vote = Vote { view: View(aged.view + rng.u64(1..3)), voted_for: ReplicaId(2) };
            aged.replica.record_durable_vote(vote).unwrap();
        }
        _ => {}
    }
    aged.rest()
}

#[test]
fn a_crash_anywhere_in_a_change_of_role_leaves_metadata_that_is_covered() {
    for power_goes in [false, true] {
        for after in 0.. {
            let mut aged = Aged::begin(1, 3, Role::Primary);
            aged.replica.settle().unwrap();
            aged.disk.set_fuse(after, Fuse::Kill);
            // The role is all that changes, and from the one to the other it is one bit.
            let _ = aged.replica.enter_view_uncertain();
            let _ = aged.replica.settle();
            let is_whole = !aged.disk.is_dead();
            aged.disk.revive();
            if power_goes {
                aged.disk.lose_power(&mut Rng::with_seed(after));
            }
            let held = open(&aged.disk, 1);
            let role = held.as_ref().map(|held| held.metadata.role);
            assert!(matches!(role, Ok(Role::Primary | Role::ViewUncertain)), "operation {after}: {held:?}");
            if is_whole {
                assert!(after > 5, "{after}");
                break;
            }
        }
    }
}

/// Everything that a replica is and holds.
#[derive(Debug, PartialEq)]
struct Held {
    metadata: Metadata,
    prepared: Vec<PreparedEntry>,
    state: Vec<u8>,
}

fn open(disk: &SimDisk, id: u64) -> Result<Held, String> {
    let replica = Replica::open(Arc::new(disk.clone()), &setup_of(id));
    match replica.engine() {
        None => Err(replica.fault().map(FaultReason::to_string).unwrap_or_default()),
        Some(engine) => Ok(Held {
            metadata: *replica.metadata(),
            prepared: replica.prepared().cloned().collect(),
            state: snapshot_file::encode(&engine.allocator().snapshot()),
        }),
    }
}

/// What a failover makes of files, and what they are surveyed as.
fn taken_over(files: &Files) -> Result<(Option<Lsn>, Option<Lsn>, Held), String> {
    let staged = |disk: &SimDisk, id| {
        StagedReplica::on_disk(Arc::new(disk.clone()), ReplicaId(id), setup_of(id).paths)
    };
    let source = staged(&disk_with(files), 1);
    let survey = source.survey().map_err(|error| error.to_string())?;
    let disk = SimDisk::default();
    let view = View(survey.metadata.current_view.0 + 1);
    staged(&disk, 2)
        .rewrite_from(&source, survey.prefix, view, Role::Primary)
        .map_err(|error| error.to_string())?;
    Ok((survey.commit_lsn, survey.prefix, open(&disk, 2)?))
}

#[derive(Default)]
struct Tally {
    faulted: u64,
    same: u64,
    believed: Vec<String>,
}

/// Flips one bit of a file and tells what becomes of it.
fn flip(files: &Files, path: &Path, bit: usize, sound: &Held, tally: &mut Tally) {
    let mut files = files.clone();
    let bytes = files.get_mut(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    let place = format!("{} byte {} bit {}", path.display(), bit / 8, bit % 8);
    let disk = disk_with(&files);
    match open(&disk, 1) {
        Err(_) => {
            tally.faulted += 1;
            assert_eq!(files_on(&disk), files, "{place}: a faulted replica has changed its files");
        }
        Ok(held) if held == *sound => tally.same += 1,
        Ok(held) => tally.believed.push(format!("{place}: {:?}", held.metadata)),
    }
}

fn flips() -> u64 {
    std::env::var("BIT_FLIPS").map_or(FLIPS, |count| count.parse().expect("BIT_FLIPS is a number"))
}

/// Flips bits one at a time in files that `is_tried`, the same number in each, of replicas that `prepare` has had in hand.
fn try_flips(
    count: u64,
    is_tried: impl Fn(&Path) -> bool,
    prepare: impl Fn(&mut Files),
) -> (BTreeMap<PathBuf, Tally>, Tally) {
    let mut tallies: BTreeMap<PathBuf, Tally> = BTreeMap::new();
    let mut staged = Tally::default();
    let mut rng = Rng::with_seed(count);
    let mut done = 0;
    for seed in 0.. {
        let mut files = at_rest(seed);
        prepare(&mut files);
        let sound = open(&disk_with(&files), 1).unwrap();
        let taken = taken_over(&files).unwrap();
        let tried: Vec<_> =
            files.iter().filter(|(path, bytes)| is_tried(path) && !bytes.is_empty()).collect();
        for _ in 0..8 {
            for (path, bytes) in &tried {
                let bit = rng.usize(..bytes.len() * 8);
                flip(&files, path, bit, &sound, tallies.entry((*path).clone()).or_default());
                let mut flipped = files.clone();
                flipped.get_mut(*path).unwrap()[bit / 8] ^= 1 << (bit % 8);
                match taken_over(&flipped) {
                    Err(_) => staged.faulted += 1,
                    Ok(found) if found == taken => staged.same += 1,
                    Ok(found) => {
                        let place = format!("{} byte {} bit {}", path.display(), bit / 8, bit % 8);
                        staged.believed.push(format!("seed {seed} {place}: {:?}", (found.0, found.1)));
                    }
                }
                done += 1;
                if done == count {
                    return (tallies, staged);
                }
            }
        }
    }
    unreachable!("there are more seeds than flips")
}

fn told(tallies: &BTreeMap<PathBuf, Tally>, staged: &Tally) -> String {
    let mut text = String::new();
    for (path, Tally { faulted, same, believed }) in tallies {
        let believed = believed.len();
        let _ = writeln!(
            text,
            "{}: {faulted} faulted, {same} without effect, {believed} believed",
            path.display()
        );
    }
    let Tally { faulted, same, believed } = staged;
    let believed = believed.len();
    let _ = writeln!(text, "failovers: {faulted} refused, {same} without effect, {believed} believed");
    text
}

fn believed(tallies: &BTreeMap<PathBuf, Tally>, staged: &Tally) -> Vec<String> {
    tallies.values().chain([staged]).flat_map(|tally| &tally.believed).cloned().collect()
}

#[test]
fn no_bit_that_flips_in_a_replica_at_rest_is_believed() {
    let (tallies, staged) = try_flips(flips(), |path| own_files().contains(&path.to_owned()), |_| {});
    println!("{}", told(&tallies, &staged));
    let believed = believed(&tallies, &staged);
    assert!(
        believed.is_empty(),
        "{} believed:\n{}",
        believed.len(),
        believed[..10.min(believed.len())].join("\n")
    );
    for path in own_files() {
        assert!(tallies[&path].faulted > 0, "{}", path.display());
    }
}

#[test]
fn no_bit_that_flips_in_a_sum_changes_anything() {
    let (tallies, staged) = try_flips(flips() / 4, |path| !own_files().contains(&path.to_owned()), |_| {});
    println!("{}", told(&tallies, &staged));
    assert!(believed(&tallies, &staged).is_empty());
    assert!(tallies.values().all(|tally| tally.faulted == 0), "a sum speaks for others, not for itself");
}

#[test]
fn without_sums_flips_are_believed_in_every_file_but_the_log() {
    let remove_sums = |files: &mut Files| files.retain(|path, _| own_files().contains(path));
    let (tallies, staged) = try_flips(1_000, |path| own_files().contains(&path.to_owned()), remove_sums);
    println!("{}", told(&tallies, &staged));
    for path in own_files() {
        let is_log = path.ends_with("state.wal");
        assert_eq!(tallies[&path].believed.is_empty(), is_log, "{}", path.display());
    }
}

/// The entries that files list as prepared.
fn prepared_in(files: &Files) -> Vec<PreparedEntry> {
    let bytes = files.get(&own_files()[1]);
    bytes.map(|bytes| prepare_log::decode(bytes, &setup_of(1).engine).unwrap()).unwrap_or_default()
}

/// What the reference's staging makes of the target's folder: it rewrites the four files and knows of no others.
fn rewritten_by_reference(
    source: &Files,
    target: &Files,
    commit: Option<Lsn>,
    view: u64,
    role: Role,
) -> Files {
    let [metadata_path, prepare_log_path, snapshot_path, wal_path] = own_files();
    let mut files = target.clone();
    for path in [&prepare_log_path, &snapshot_path, &wal_path] {
        match source.get(path) {
            Some(bytes) => drop(files.insert(path.clone(), bytes.clone())),
            None => drop(files.remove(path)),
        }
    }
    let of_source = Metadata::decode(&source[&metadata_path]).unwrap();
    let of_target = Metadata::decode(&target[&metadata_path]).unwrap();
    let through = commit.max(of_source.commit_lsn);
    for entry in prepared_in(source).iter().filter(|entry| Some(entry.lsn) <= through) {
        let record = record_of(entry.kind);
        let frame = Frame { lsn: entry.lsn, slot: entry.slot, record, payload: &entry.payload };
        frame.encode(files.get_mut(&wal_path).unwrap());
    }
    files.insert(prepare_log_path, prepare_log::encode([].iter()));
    let metadata = Metadata {
        identity: of_target.identity,
        current_view: View(view),
        role,
        commit_lsn: through,
        active_snapshot_lsn: of_source.active_snapshot_lsn,
        last_normal_view: Some(View(view)),
        durable_vote: None,
    };
    files.insert(metadata_path, metadata.encode());
    files
}

/// Three replicas of one cluster, each as far as it has come, and each with the files of an earlier moment of its own.
fn cluster(seed: u64) -> Vec<(Files, Files)> {
    let mut rng = Rng::with_seed(seed);
    let view = rng.u64(1..9);
    (1..=3)
        .map(|id| {
            // All of them have the same commands.
            let mut commands = Commands::new(seed);
            let role = if id == 1 { Role::Primary } else { Role::Backup };
            let mut aged = Aged::begin(id, view, role);
            let steps = rng.u32(1..10);
            aged.go_on(&mut commands, &mut rng, steps);
            aged.replica.settle().unwrap();
            let earlier = files_on(&aged.disk);
            let steps = rng.u32(..10);
            aged.go_on(&mut commands, &mut rng, steps);
            (earlier, aged.rest())
        })
        .collect()
}

fn committed(files: &Files) -> Option<Lsn> {
    Metadata::decode(&files[&own_files()[0]]).unwrap().commit_lsn
}

fn view_of(files: &Files) -> u64 {
    Metadata::decode(&files[&own_files()[0]]).unwrap().current_view.0
}

#[test]
fn what_another_program_has_rewritten_beside_old_sums_is_not_damaged() {
    for seed in 0..400 {
        let cluster = cluster(seed);
        for (at, (_, target)) in cluster.iter().enumerate() {
            for (from, (_, source)) in cluster.iter().enumerate() {
                let id = at as u64 + 1;
                let view = view_of(source);
                let ahead = committed(source).max(committed(target));
                let held = prepared_in(source);
                let reach = held.last().map(|entry| entry.lsn).max(committed(source));
                let mut cases = vec![
                    // A failover with everything the source has committed, and with all that it holds.
                    (committed(source), view + 1, Role::Primary),
                    (ahead.min(reach), view + 2, Role::Backup),
                ];
                if from == 0 && at > 0 {
                    // A rejoin of a backup.
                    cases.push((committed(source), view, Role::Backup));
                }
                for (commit, view, role) in cases {
                    let files = rewritten_by_reference(source, target, commit, view, role);
                    let bare: Files = files
                        .iter()
                        .filter(|(path, _)| own_files().contains(path))
                        .map(|(path, bytes)| (path.clone(), bytes.clone()))
                        .collect();
                    let expected = open(&disk_with(&bare), id).unwrap();
                    let disk = disk_with(&files);
                    let found = open(&disk, id);
                    assert_eq!(found.as_ref(), Ok(&expected), "seed {seed}, replica {id}, {view} {role:?}");
                    // From now on the sums are about these files.
                    assert_eq!(open(&disk, id).as_ref(), Ok(&expected));
                    let surveyed = StagedReplica::on_disk(
                        Arc::new(disk_with(&files)),
                        ReplicaId(id),
                        setup_of(id).paths,
                    );
                    assert_eq!(surveyed.survey().unwrap().prefix, expected.metadata.commit_lsn);
                }
            }
        }
    }
}

#[test]
fn files_of_another_time_than_their_sums_are_not_damaged() {
    for seed in 0..400 {
        for (at, (earlier, later)) in cluster(seed).iter().enumerate() {
            // An archive without sums unpacked over later files, and one taken while the replica went on.
            for (files, sums) in [(earlier, later), (later, earlier)] {
                let mut mixed = files.clone();
                for path in setup_of(1).paths.summed().map(|path| sum_path(&path)) {
                    match sums.get(&path) {
                        Some(bytes) => drop(mixed.insert(path, bytes.clone())),
                        None => drop(mixed.remove(&path)),
                    }
                }
                let id = at as u64 + 1;
                assert_eq!(open(&disk_with(&mixed), id), open(&disk_with(files), id), "seed {seed}, {id}");
            }
        }
    }
}
