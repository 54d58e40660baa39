//! Every test that needs no process of its own, as one program, which is linked once: each file beside this one is a module of it, and
//! what they share is compiled with them. `cargo test --test all hunt::` plays those of one file.
//!
//! Programs of their own are `decoders` and `recovery_memory`, which measure the memory of their process, and `shape`, which needs
//! nothing of the package but its text.

#![allow(unreachable_pub, reason = "what is shared is compiled into benchmarks and examples as well")]

mod support;

// What the stand-in for Kubernetes, which is an example as well, looks for beside itself.
use support::skipped;

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/hunts.rs"]
mod hunts;
#[path = "support/indexed_job.rs"]
mod indexed_job;
#[path = "support/kubernetes/mod.rs"]
mod kubernetes;
#[path = "support/short_histories.rs"]
mod short_histories;
#[path = "support/tmux.rs"]
mod tmux;
#[path = "support/watched.rs"]
mod watched;

mod allocator_model;
mod anomalies;
mod answers;
mod bad_input;
mod blockers;
mod bundles;
mod check;
mod check_files;
mod checker;
mod cloud_program;
mod cluster_identity;
mod control_script;
mod defects;
mod disks;
mod evidence;
mod faultnet;
mod faults;
mod gate;
mod gate_guests;
mod gate_job;
mod gate_local;
mod hostile_client;
mod hostile_names;
mod hunt;
mod hunt_guests;
mod imports;
mod inspect;
mod integrity;
mod interrupts;
mod json;
mod kubevirt;
mod limits;
mod links;
mod live_script;
mod local_cluster;
mod odd_hosts;
mod planted_faults;
mod qemu_machines;
mod qemu_runs;
mod qemu_testbed;
mod remote_testbeds;
mod repair;
mod report;
mod shelf;
mod sigkill;
mod simulate;
mod simulate_job;
mod simulation;
mod state_digest;
mod surroundings;
mod topology;
mod transport;
mod watch;
mod watch_guests;
mod watch_terminal;
mod wrong_answers;
