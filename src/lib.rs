//! AllocDB, a replicated database of leases, and the parts of its release gate that do not need a testbed.
//!
//! The modules, in reading order; each leans only on those above it:
//!
//! - [`ids`]: the numbers everything is named by; [`bytes`]: the fixed-width fields of every binary format;
//!   [`keyvalue`]: text of lines `key=value`; [`printable`]: text from elsewhere that no terminal obeys; [`exchange`]: one request over one
//!   connection, with a deadline.
//! - [`planted`]: defects that prove that tests can fail; asleep, and absent from ordinary builds.
//! - [`history`]: what processes asked and what became of it, as lines of JSON; knows no database.
//! - [`check`]: holding a history against a model; knows no database.
//! - [`faultnet`]: TCP links that break on purpose, and heal; knows no database.
//! - [`build_info`]: which program this is, and what may make it behave in another way.
//! - [`allocator`]: the deterministic state machine, who holds what.
//! - [`storage`]: bytes that outlive the process, write-ahead log and files that are replaced as a whole.
//! - [`api`]: what clients ask and replicas answer, and the words for both. [`client`]: what a client may conclude from an
//!   answer, and the model of what the database promises, which shares no code with it.
//! - [`engine`]: one node, an allocator behind a log.
//! - [`workload`]: what the clients and the nemesis of a hunt do, drawn from a seed.
//! - [`replica`]: one of three copies, its promises, roles and views.
//! - [`cluster`]: three replicas on one machine, their files and addresses, and what can be done to them.
//! - [`daemon`]: the process of one replica.
//! - [`operator`]: what is done to a cluster from outside: failover, rejoin, bringing everybody in place.
//! - [`sim`]: three replicas, clients, operator and nemesis on simulated disks, network and time, everything decided by one seed.
//! - [`testbed`]: three replicas in virtual machines under QEMU or KubeVirt, the files that say where they are, and all that
//!   follows from those: names, addresses, ports, and the layout of the cluster inside.
//! - [`jepsen`]: the run plan, the history text, and the judgement passed on a history. It leans on nothing of the database but
//!   [`ids`], so a history can be judged without any database at hand.
//! - [`report`]: what runs and hunts came to, as files for people and for other programs.
//! - [`views`]: what is known of runs and their replicas, as frames and screens.

pub mod allocator;
pub mod api;
pub mod build_info;
pub mod bytes;
pub mod check;
pub mod client;
pub mod cluster;
pub mod daemon;
pub mod engine;
pub mod exchange;
pub mod faultnet;
pub mod history;
pub mod ids;
pub mod jepsen;
pub mod keyvalue;
pub mod operator;
pub mod planted;
pub mod printable;
pub mod replica;
pub mod report;
pub mod sim;
pub mod storage;
pub mod testbed;
pub mod views;
pub mod workload;
