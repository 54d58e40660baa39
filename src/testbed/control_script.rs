//! The control script of a testbed: what the control guest does to replicas, with their addresses filled in.

use super::QemuLayout;

const SCRIPT: &str = include_str!("guest/control.sh");

/// The script for the guests of this layout.
#[must_use]
pub fn control_script(layout: &QemuLayout) -> String {
    let cluster = layout.guest_cluster();
    let guests = layout.replica_guests().into_iter().zip(&cluster.replicas);
    let control = layout.control_guest().net.management_addr.to_string();
    let script = SCRIPT.replace("@CONTROL_GUEST@", &control);
    guests.fold(script, |script, (guest, replica)| {
        let id = replica.id;
        script
            .replace(&format!("@MANAGEMENT_{id}@"), &guest.net.management_addr.to_string())
            .replace(&format!("@CONTROL_{id}@"), &replica.control_addr.to_string())
            .replace(&format!("@CLUSTER_{id}@"), &replica.client_addr.ip().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_filled_in() {
        let text = "version=1\nworkspace_root=/w\narch=x86_64\nbase_image_url=u\nbase_image_path=/a\n\
                    local_cluster_binary_path=/b\nlane=1\n";
        let script = control_script(&QemuLayout::decode(text).unwrap());
        assert!(script.starts_with("#!/bin/sh\n"));
        assert!(script.contains("2) echo 172.31.2.12 ;;") && script.contains("3) echo 172.31.2.13:17000 ;;"));
        assert!(script.contains("3) echo 172.31.3.13 ;;") && script.contains("addresses=172.31.2.10 "));
        assert!(!["@MANAGEMENT", "@CONTROL_", "@CLUSTER_"].iter().any(|name| script.contains(name)));
    }
}
