//! Replicas of a real cluster that have come to different states find it out, name the one that is wrong, and say what they
//! cannot know. Replica 3 is made to differ, which needs a build with the feature `planted-faults`.

#[cfg(not(feature = "planted-faults"))]
#[test]
fn a_replica_that_differs_is_found() {
    crate::support::skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
mod planted {
    use crate::support::*;
    use allocdb_node::allocator::Command as Operation;
    use allocdb_node::api::Response;
    use allocdb_node::api::SubmitResponse;
    use allocdb_node::ids::{HolderId, ResourceId};

    /// A cluster with small checkpoints whose replica 3 has given a resource to another holder than the others.
    fn with_one_that_differs(has_number: bool) -> Cluster {
        let cluster = Cluster::started();
        cluster.operate("stop", &[]).ok();
        let layout = cluster.path().join("cluster-layout.txt");
        let kept: Vec<String> = text(&layout)
            .lines()
            .filter(|line| !line.starts_with("engine.checkpoint_log_bytes="))
            .filter(|line| has_number || !line.starts_with("cluster_id="))
            .map(str::to_owned)
            .collect();
        assert!(has_number == kept.iter().any(|line| line.starts_with("cluster_id=")));
        std::fs::write(&layout, format!("{}\nengine.checkpoint_log_bytes=2000\n", kept.join("\n"))).unwrap();
        let mut start = jepsen(&["local-cluster", "start", "--workspace", cluster.workspace()]);
        run(start.env("ALLOCDB_PLANTED_FAULT", "backup-diverges")).ok();
        assert!(is_committed(&cluster.create(1, 1, 1)));
        let reserve = Operation::Reserve { resource: ResourceId(1), holder: HolderId(44), ttl_slots: 9 };
        assert!(is_committed(&cluster.submit(1, 1, 900, reserve)));
        cluster
    }

    fn is_committed(reply: &Result<Response, String>) -> bool {
        matches!(reply, Ok(Response::Submit(SubmitResponse::Committed(_))))
    }

    /// What the control port of a replica says.
    fn status_of(cluster: &Cluster, id: u64) -> String {
        let addr = cluster.replica(id).control_addr;
        String::from_utf8(exchange(addr, b"status\n")).unwrap()
    }

    #[test]
    fn a_replica_that_differs_is_found() {
        for has_number in [true, false] {
            let cluster = with_one_that_differs(has_number);
            let mut written = 1;
            until("a state that is found to differ", || {
                written += 1;
                assert!(is_committed(&cluster.create(1, 1, written)), "the others do not go on");
                status_of(&cluster, 3).contains("state=faulted\n")
            });
            let reason = field(&status_of(&cluster, 3), "fault_reason");
            assert!(reason.starts_with("state digest differs at lsn "), "{reason}");
            for id in [1, 2] {
                assert_eq!(field(&status_of(&cluster, id), "fault_reason"), "none");
            }
            // Started again it is still no replica that anybody can use, until it is rejoined.
            cluster.on("crash", 3).ok();
            cluster.on("restart", 3).ok();
            assert_eq!(field(&status_of(&cluster, 3), "fault_reason"), "PersistedFaultState");
            let rejoined = cluster.on("rejoin", 3).ok().stdout;
            assert!(rejoined.ends_with("result=ready primary=1 view=1\n"), "{rejoined}");
            assert!(is_committed(&cluster.create(1, 1, written + 1)));
        }
    }

    #[test]
    fn nothing_is_served_while_it_is_not_known_who_is_wrong() {
        let cluster = with_one_that_differs(true);
        cluster.on("crash", 2).ok();
        let mut written = 1;
        until("two states that differ", || {
            written += 1;
            let _ = cluster.create(1, 1, written);
            field(&status_of(&cluster, 1), "fault_reason") != "none"
        });
        assert!(!is_committed(&cluster.create(1, 1, written + 1)));
        let told = cluster.operate("status", &[]).stdout;
        for id in [1, 3] {
            let line = format!("replica={id} fault_reason=state digest differs at lsn ");
            assert!(told.contains(&line), "{told}");
        }
        // The third one decides.
        cluster.on("restart", 2).ok();
        until("a decision", || status_of(&cluster, 3).contains("state=faulted\n"));
        until("a write", || is_committed(&cluster.create(1, 1, written + 2)));
        assert_eq!(field(&status_of(&cluster, 1), "fault_reason"), "none");
    }
}
