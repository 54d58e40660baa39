//! The files of the harness that make up the watch views, as they are, compiled into this tool so that they can be given
//! recorded answers in place of a testbed.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "only the views are used here")]

#[path = "../../../src/bin/allocdb-jepsen/args.rs"]
pub(crate) mod args;
#[path = "../../../src/bin/allocdb-jepsen/common.rs"]
pub(crate) mod common;
#[path = "../../../src/bin/allocdb-jepsen/harness_log.rs"]
pub(crate) mod harness_log;
#[path = "../../../src/bin/allocdb-jepsen/interrupt.rs"]
pub(crate) mod interrupt;
#[path = "../../../src/bin/allocdb-jepsen/runtime.rs"]
pub(crate) mod runtime;
#[path = "../../../src/bin/allocdb-jepsen/testbed.rs"]
pub(crate) mod testbed;
#[path = "../../../src/bin/allocdb-jepsen/tracker.rs"]
pub(crate) mod tracker;
#[path = "../../../src/bin/allocdb-jepsen/watch.rs"]
pub(crate) mod watch;
#[path = "../../../src/bin/allocdb-jepsen/watch_render.rs"]
pub(crate) mod watch_render;
