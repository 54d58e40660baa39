//! What a guest from a cloud image is told at its first start: the three files of cloud-init's data source NoCloud.

use super::cloud_program::{Content, GuestProgram, Linked};
use super::control_script::control_script;
use super::micro_guest::routes_to_replicas;
use super::qemu_guests::Mac;
use super::{
    GUEST_CLUSTER_PROGRAM, GUEST_CONTROL_HOME, GUEST_CONTROL_SCRIPT, GUEST_LOG_DIR, GUEST_RUN_DIR,
    GUEST_USER, GUEST_WORKSPACE, QemuGuest, QemuLayout,
};
use crate::ids::ReplicaId;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// What guests are opened with and known by.
#[derive(Debug, Clone, Default)]
pub struct CloudKeys {
    /// The public key that guests let in.
    pub authorized: String,
    /// The private key that the control guest opens the others with.
    pub private: Vec<u8>,
    /// This guest's host key, as OpenSSH keeps it, and its public half.
    pub host: String,
    /// The public half.
    pub host_public: String,
    /// The replica guests' host keys, for the control guest.
    pub known_hosts: String,
}

/// The file `meta-data`.
#[must_use]
pub fn meta_data(guest: &QemuGuest) -> String {
    format!("instance-id: {0}\nlocal-hostname: {0}\n", guest.name)
}

/// The file `network-config`. The control guest has no card on the network between replicas; it is told to go to their
/// addresses there by way of theirs on the network of all guests.
#[must_use]
pub fn network_config(layout: &QemuLayout, guest: &QemuGuest) -> String {
    let mut text = "version: 2\nethernets:\n".to_owned();
    let mut interface = |name: &str, mac: Mac, addr: Option<String>| {
        let dhcp = addr.is_none();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "  {name}:\n    match:\n      macaddress: \"{mac}\"\n    set-name: {name}\n    dhcp4: {dhcp}\n"
        );
        if let Some(addr) = addr {
            let _ = write!(text, "    addresses:\n      - {addr}/24\n");
        }
    };
    let net = &guest.net;
    if let Some(uplink) = net.uplink {
        interface("uplink0", uplink.mac, None);
    }
    interface("mgmt0", net.management_mac, Some(net.management_addr.to_string()));
    if let Some(cluster) = net.cluster {
        interface("cluster0", cluster.mac, Some(cluster.addr.to_string()));
    }
    if guest.replica.is_none() {
        text += "    routes:\n";
        for (to, via) in routes_to_replicas(layout) {
            let _ = write!(text, "      - to: {to}\n        via: {via}\n");
        }
    }
    text
}

/// The file `user-data`, with the program that goes into the guest. Holds secrets.
#[must_use]
pub fn user_data(layout: &QemuLayout, guest: &QemuGuest, keys: &CloudKeys, program: &GuestProgram) -> String {
    let mut data = UserData::begin(keys.authorized.trim());
    data.bytes(GUEST_CLUSTER_PROGRAM, "0755", &program.bytes);
    if let Some(linked) = &program.linked {
        data.linked(linked);
    }
    match guest.replica {
        None => control(&mut data, layout, keys),
        Some(id) => replica(&mut data, layout, id),
    }
    data.text += "ssh_keys:\n  ed25519_private: |\n";
    data.block(4, keys.host.trim_end());
    let _ = writeln!(data.text, "  ed25519_public: {}", keys.host_public.trim());
    data.text
}

fn control(data: &mut UserData, layout: &QemuLayout, keys: &CloudKeys) {
    let own = |name: &str| format!("{GUEST_CONTROL_HOME}/{name}");
    data.file(GUEST_CONTROL_SCRIPT, "0755", &control_script(layout));
    data.bytes(&own("id_ed25519"), "0600", &keys.private);
    data.file(&own("id_ed25519.pub"), "0644", keys.authorized.trim());
    data.file(&own(".ssh/known_hosts"), "0644", &keys.known_hosts);
    data.run(&[
        &["mkdir", "-p", &own("log-bundles")],
        &["chown", "-R", &format!("{GUEST_USER}:{GUEST_USER}"), GUEST_CONTROL_HOME],
    ]);
}

fn replica(data: &mut UserData, layout: &QemuLayout, id: ReplicaId) {
    data.file(&format!("{GUEST_WORKSPACE}/cluster-layout.txt"), "0644", &layout.guest_cluster().encode());
    data.file("/etc/systemd/system/allocdb-replica.service", "0644", &unit(id));
    data.file("/etc/systemd/system/allocdb-replica.service.d/order.conf", "0644", ORDER);
    data.file("/etc/tmpfiles.d/allocdb.conf", "0644", &volatile(id));
    let replicas = [1, 2, 3].map(|id| format!("{GUEST_WORKSPACE}/replica-{id}"));
    data.run(&[
        &["mkdir", "-p", &replicas[0], &replicas[1], &replicas[2], GUEST_LOG_DIR, GUEST_RUN_DIR],
        &["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/allocdb.conf"],
        &[
            "chown",
            "-R",
            &format!("{GUEST_USER}:{GUEST_USER}"),
            GUEST_WORKSPACE,
            GUEST_LOG_DIR,
            GUEST_RUN_DIR,
        ],
        &["systemctl", "daemon-reload"],
        // This runs inside the service that the unit waits for; waiting for the unit here would be for ever.
        &["systemctl", "enable", "--now", "--no-block", "allocdb-replica.service"],
    ]);
}

/// The unit of a replica. It has no restart policy: a replica that crashes stays down until it is restarted.
fn unit(id: ReplicaId) -> String {
    format!(
        "[Unit]\nDescription=AllocDB replica daemon {id}\nAfter=network-online.target cloud-final.service\n\
         Wants=network-online.target\n\n[Service]\nUser={GUEST_USER}\nGroup={GUEST_USER}\n\
         ExecStart={GUEST_CLUSTER_PROGRAM} replica-daemon --layout-file {GUEST_WORKSPACE}/cluster-layout.txt \
         --replica-id {id}\nStandardOutput=append:{GUEST_LOG_DIR}/replica-{id}.log\n\
         StandardError=append:{GUEST_LOG_DIR}/replica-{id}.log\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

/// What the unit lacks. It waits for cloud-init's last service, which waits for the target that the unit belongs to, and that
/// would wait for the unit: systemd leaves one of them out then, at every start but the first, when the unit is not enabled
/// yet. A target does not wait for a unit that says it waits for the target.
const ORDER: &str = "[Unit]\nAfter=multi-user.target\n";

/// What has to be there again after a reboot, and belongs to the user that all of it runs as. The log is among it because
/// whoever opens it first would own it.
fn volatile(id: ReplicaId) -> String {
    let own = format!("{GUEST_USER} {GUEST_USER} -");
    format!(
        "d {GUEST_RUN_DIR} 0755 {own}\nd {GUEST_LOG_DIR} 0755 {own}\nf {GUEST_LOG_DIR}/replica-{id}.log 0644 {own}\n"
    )
}

struct UserData {
    text: String,
    /// The command that comes before all others.
    first: Option<String>,
}

impl UserData {
    fn begin(authorized: &str) -> Self {
        let text = format!(
            "#cloud-config\nusers:\n  - default\n  - name: {GUEST_USER}\n    shell: /bin/bash\n    \
             sudo: ALL=(ALL) NOPASSWD:ALL\n    ssh_authorized_keys:\n      - {authorized}\nwrite_files:\n"
        );
        Self { text, first: None }
    }

    fn item(&mut self, path: &str, mode: &str) {
        let _ = write!(self.text, "  - path: {path}\n    permissions: '{mode}'\n");
    }

    fn bytes(&mut self, path: &str, mode: &str, content: &[u8]) {
        self.encoded(path, mode, "b64", content);
    }

    fn encoded(&mut self, path: &str, mode: &str, encoding: &str, content: &[u8]) {
        self.item(path, mode);
        let _ = write!(self.text, "    encoding: {encoding}\n    content: {}\n", base64(content));
    }

    /// What the program is linked with, and the decision whether it is used.
    fn linked(&mut self, linked: &Linked) {
        for file in linked.files() {
            match &file.content {
                Content::Text(text) => self.file(&file.path, file.mode, text),
                Content::Binary(bytes) => match packed(bytes) {
                    Ok(packed) => self.encoded(&file.path, file.mode, "gz+b64", &packed),
                    Err(_) => self.bytes(&file.path, file.mode, bytes),
                },
            }
        }
        self.first = Some(Linked::settle_command());
    }

    fn file(&mut self, path: &str, mode: &str, content: &str) {
        self.item(path, mode);
        self.text += "    content: |\n";
        self.block(6, content.strip_suffix('\n').unwrap_or(content));
    }

    fn block(&mut self, indent: usize, content: &str) {
        for line in content.split('\n') {
            let _ = writeln!(self.text, "{:indent$}{line}", "");
        }
    }

    fn run(&mut self, commands: &[&[&str]]) {
        self.text += "runcmd:\n";
        let first = self.first.take();
        let first = first.as_deref().map(|command| [command]);
        for command in first.iter().map(|command| &command[..]).chain(commands.iter().copied()) {
            let words: Vec<String> = command.iter().map(|word| format!("\"{word}\"")).collect();
            let _ = writeln!(self.text, "  - [{}]", words.join(", "));
        }
    }
}

/// As `gzip` packs it; guests take long over every byte that they are told.
fn packed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(bytes)?;
    packer.finish()
}

/// Standard base64 with padding, on one line.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let of = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = of(0) << 16 | of(1) << 8 | of(2);
        for digit in 0..4 {
            let is_padding = digit > group.len();
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if is_padding { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::cloud_program::CarriedFile;
    use super::*;

    fn layout() -> QemuLayout {
        let text = "version=1\nworkspace_root=/w\narch=x86_64\nbase_image_url=u\nbase_image_path=/a\n\
                    local_cluster_binary_path=/b\n";
        QemuLayout::decode(text).unwrap()
    }

    fn keys() -> CloudKeys {
        CloudKeys {
            authorized: "ssh-ed25519 AAAA me\n".to_owned(),
            private: b"secret\n".to_vec(),
            host: "BEGIN\nhost\nEND\n".to_owned(),
            host_public: "ssh-ed25519 HOST".to_owned(),
            known_hosts: "172.31.0.11 ssh-ed25519 ONE\n".to_owned(),
        }
    }

    /// A program that needs no libraries.
    fn alone(bytes: &[u8]) -> GuestProgram {
        GuestProgram { bytes: bytes.to_vec(), linked: None }
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("\u{7f}~", "f34="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn guests_are_told_their_names_and_networks() {
        let layout = layout();
        let [one, ..] = layout.replica_guests();
        assert_eq!(meta_data(&one), "instance-id: allocdb-replica-1\nlocal-hostname: allocdb-replica-1\n");
        assert_eq!(
            network_config(&layout, &one),
            "version: 2\nethernets:\n  mgmt0:\n    match:\n      macaddress: \"52:54:00:aa:10:11\"\n    \
             set-name: mgmt0\n    dhcp4: false\n    addresses:\n      - 172.31.0.11/24\n  cluster0:\n    match:\n      \
             macaddress: \"52:54:00:aa:20:11\"\n    set-name: cluster0\n    dhcp4: false\n    addresses:\n      \
             - 172.31.1.11/24\n"
        );
        let control = network_config(&layout, &layout.control_guest());
        assert!(control.contains("    set-name: uplink0\n    dhcp4: true\n  mgmt0:\n"), "{control}");
        assert!(
            control.ends_with(
                "      - 172.31.0.10/24\n    routes:\n      - to: 172.31.1.11/32\n        via: 172.31.0.11\n      \
                 - to: 172.31.1.12/32\n        via: 172.31.0.12\n      - to: 172.31.1.13/32\n        via: 172.31.0.13\n"
            ),
            "{control}"
        );
    }

    #[test]
    fn the_control_guest_gets_script_and_keys() {
        let layout = layout();
        let data = user_data(&layout, &layout.control_guest(), &keys(), &alone(b"foo"));
        assert!(
            data.starts_with(
                "#cloud-config\nusers:\n  - default\n  - name: allocdb\n    shell: /bin/bash\n    \
                 sudo: ALL=(ALL) NOPASSWD:ALL\n    ssh_authorized_keys:\n      - ssh-ed25519 AAAA me\nwrite_files:\n  \
                 - path: /usr/local/bin/allocdb-local-cluster\n    permissions: '0755'\n    encoding: b64\n    \
                 content: Zm9v\n  - path: /usr/local/bin/allocdb-qemu-control\n    permissions: '0755'\n    \
                 content: |\n      #!/bin/sh\n"
            ),
            "{data}"
        );
        assert!(data.contains("  - path: /var/lib/allocdb-qemu/id_ed25519\n    permissions: '0600'\n"));
        assert!(
            data.ends_with(
                "runcmd:\n  - [\"mkdir\", \"-p\", \"/var/lib/allocdb-qemu/log-bundles\"]\n  \
                 - [\"chown\", \"-R\", \"allocdb:allocdb\", \"/var/lib/allocdb-qemu\"]\nssh_keys:\n  \
                 ed25519_private: |\n    BEGIN\n    host\n    END\n  ed25519_public: ssh-ed25519 HOST\n"
            ),
            "{data}"
        );
    }

    #[test]
    fn a_replica_guest_gets_layout_and_unit_and_no_key_of_the_others() {
        let layout = layout();
        let data = user_data(&layout, &layout.replica_guests()[1], &keys(), &alone(b""));
        assert!(!data.contains(&base64(b"secret\n")) && !data.contains("id_ed25519"));
        assert!(data.contains("      replica.2.control_addr=172.31.0.12:17000\n"));
        let unit = "      [Unit]\n      Description=AllocDB replica daemon 2\n      \
                    After=network-online.target cloud-final.service\n      Wants=network-online.target\n      \n      \
                    [Service]\n      User=allocdb\n      Group=allocdb\n      \
                    ExecStart=/usr/local/bin/allocdb-local-cluster replica-daemon --layout-file \
                    /var/lib/allocdb/cluster-layout.txt --replica-id 2\n      \
                    StandardOutput=append:/var/log/allocdb/replica-2.log\n";
        assert!(data.contains(unit), "{data}");
        let order = "  - path: /etc/systemd/system/allocdb-replica.service.d/order.conf\n    permissions: '0644'\n    \
                     content: |\n      [Unit]\n      After=multi-user.target\n";
        assert!(data.contains(order), "{data}");
        assert!(data.contains("f /var/log/allocdb/replica-2.log 0644 allocdb allocdb -\n"));
    }

    #[test]
    fn what_a_program_is_linked_with_goes_along_and_is_settled_before_anything_else_runs() {
        let layout = layout();
        let file = |name: &str| CarriedFile::new(name, name.into()).unwrap();
        let linked = Linked { loader: file("ld.so.2"), libraries: vec![file("libz.so.1")] };
        let program = GuestProgram { linked: Some(linked), ..alone(b"foo") };
        for guest in layout.all_guests() {
            let plain = user_data(&layout, &guest, &keys(), &alone(b"foo"));
            let data = user_data(&layout, &guest, &keys(), &program);
            assert!(
                data.contains("runcmd:\n  - [\"/usr/local/lib/allocdb/settle\"]\n  - [\"mkdir\""),
                "{data}"
            );
            let item = "    encoding: b64\n    content: Zm9v\n  - path: /usr/local/lib/allocdb/ld.so.2\n    \
                        permissions: '0755'\n    encoding: gz+b64\n    content: H4sI";
            assert!(data.contains(item), "{data}");
            // Nothing else differs.
            let (before, rest) = data.split_once("  - path: /usr/local/lib/allocdb/ld.so.2\n").unwrap();
            let next = if guest.replica.is_some() {
                "/var/lib/allocdb/cluster-layout.txt"
            } else {
                "/usr/local/bin/allocdb-qemu-control"
            };
            let after = &rest[rest.find(&format!("  - path: {next}\n")).unwrap()..];
            let after = after.replace("  - [\"/usr/local/lib/allocdb/settle\"]\n", "");
            assert_eq!(format!("{before}{after}"), plain);
        }
    }
}
