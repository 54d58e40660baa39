//! How QEMU is called for a guest. For guests from cloud images the arguments are a published list, in its order; micro
//! guests are small and boot a kernel directly.

use super::qemu_layout::{Arch, GuestKind, QemuLayout};
use super::{QemuGuest, qemu_guests::Mac};
use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Memory of a micro guest in MiB, on top of what the system takes that it boots into.
const MICRO_MEMORY: u64 = 128;

/// What a guest's processor is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator(pub String);

impl Accelerator {
    /// The one that works everywhere, and slowly: QEMU itself.
    #[must_use]
    pub fn tcg() -> Self {
        Self("tcg".to_owned())
    }

    /// The processor that goes with it.
    #[must_use]
    pub fn cpu(&self) -> &'static str {
        if self.0 == "tcg" { "max" } else { "host" }
    }
}

/// The files that a cloud guest's firmware is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Its code, shared by all.
    pub code: PathBuf,
    /// What each guest's variables begin as.
    pub vars_template: PathBuf,
}

/// Names of firmware files, in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirmwareNames {
    /// Shared by all guests, and never written.
    pub code: [&'static str; 3],
    /// Of the variables. Where there are fewer, the last one is repeated.
    pub vars: [&'static str; 3],
}

/// What a guest is started with, beside what its layout says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What its processor is made with.
    pub accelerator: Accelerator,
    /// What cloud guests boot with.
    pub firmware: Option<Firmware>,
    /// Bytes of the system that micro guests boot into.
    pub system_len: u64,
}

/// Which firmware an architecture needs.
#[must_use]
pub fn firmware_names(arch: Arch) -> FirmwareNames {
    match arch {
        Arch::Aarch64 => FirmwareNames {
            code: ["edk2-aarch64-code.fd", "QEMU_EFI.fd", "AAVMF_CODE.fd"],
            vars: ["edk2-arm-vars.fd", "AAVMF_VARS.fd", "AAVMF_VARS.fd"],
        },
        Arch::X86_64 => FirmwareNames {
            code: ["edk2-x86_64-code.fd", "OVMF_CODE.fd", "OVMF_CODE_4M.fd"],
            vars: ["edk2-i386-vars.fd", "OVMF_VARS.fd", "OVMF_VARS_4M.fd"],
        },
    }
}

/// The program for an architecture.
#[must_use]
pub fn program(arch: Arch) -> String {
    format!("qemu-system-{}", arch.word())
}

/// Everything that stands behind the program's name.
#[must_use]
pub fn arguments(layout: &QemuLayout, guest: &QemuGuest, machine: &Machine) -> Vec<OsString> {
    let mut words = Words(Vec::new());
    match &layout.guests {
        GuestKind::Cloud => cloud(&mut words, layout, guest, machine),
        GuestKind::Micro { .. } => micro(&mut words, layout, guest, machine),
    }
    words.0
}

struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, flag: &str, value: impl Into<OsString>) {
        self.flag(flag);
        self.0.push(value.into());
    }

    /// A value that ends with a path, whose commas QEMU wants doubled.
    fn with_path(&mut self, flag: &str, start: &str, path: &Path) {
        let mut value = start.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            value.push(*byte);
            if *byte == b',' {
                value.push(b',');
            }
        }
        self.pair(flag, OsString::from_vec(value));
    }

    fn card(&mut self, net: &str, backend: String, more: &str, mac: Mac) {
        self.pair("-netdev", backend);
        self.pair("-device", format!("virtio-net-pci,netdev={net}{more},mac={mac}"));
    }

    /// The cards of a guest. `local` and `more` stand behind what is published.
    fn cards(&mut self, layout: &QemuLayout, guest: &QemuGuest, local: &str, more: &str) {
        let multicast = |net: &str, group: SocketAddrV4| format!("socket,id={net},mcast={group}{local}");
        let management = multicast("mgmt", layout.lane.management_group());
        self.card("mgmt", management, more, guest.net.management_mac);
        if let Some(net) = guest.net.cluster {
            self.card("cluster", multicast("cluster", layout.lane.cluster_group()), more, net.mac);
        }
        if let Some(uplink) = guest.net.uplink {
            let forward = format!("user,id=uplink,hostfwd=tcp:127.0.0.1:{}-:22", uplink.ssh_port);
            self.card("uplink", forward, more, uplink.mac);
        }
    }
}

/// What QEMU calls the board of an architecture.
#[must_use]
pub fn board(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "virt",
        Arch::X86_64 => "q35",
    }
}

fn cloud(words: &mut Words, layout: &QemuLayout, guest: &QemuGuest, machine: &Machine) {
    let accelerator = &machine.accelerator;
    words.pair("-machine", format!("{},accel={}", board(layout.arch), accelerator.0));
    words.pair("-cpu", accelerator.cpu());
    words.pair("-smp", "2");
    words.pair("-m", "2048");
    words.pair("-display", "none");
    words.flag("-daemonize");
    words.pair("-name", guest.name.as_str());
    words.pair("-pidfile", guest.pid_path.as_os_str());
    words.with_path("-serial", "file:", &guest.console_log_path);
    if let Some(firmware) = &machine.firmware {
        words.with_path("-drive", "if=pflash,format=raw,readonly=on,file=", &firmware.code);
    }
    words.with_path("-drive", "if=pflash,format=raw,file=", &guest.firmware_vars_path);
    words.with_path("-drive", "if=virtio,format=qcow2,file=", &guest.overlay_path);
    words.with_path("-drive", "if=virtio,format=raw,media=cdrom,file=", &guest.seed_image_path);
    words.cards(layout, guest, "", "");
}

fn micro(words: &mut Words, layout: &QemuLayout, guest: &QemuGuest, machine: &Machine) {
    let accelerator = &machine.accelerator;
    words.flag("-no-user-config");
    words.flag("-nodefaults");
    words.pair("-machine", board(layout.arch));
    // Translated code has its own limit; what QEMU would take by itself is a share of this machine's memory.
    let limit = if accelerator.0 == "tcg" { ",tb-size=32" } else { "" };
    words.pair("-accel", format!("{}{limit}", accelerator.0));
    words.pair("-cpu", accelerator.cpu());
    words.pair("-smp", "1");
    // The archive lies beside what is unpacked from it until that is done.
    let memory = MICRO_MEMORY + 2 * machine.system_len.div_ceil(1024 * 1024).next_multiple_of(8);
    words.pair("-m", memory.to_string());
    words.pair("-display", "none");
    words.flag("-daemonize");
    words.pair("-name", guest.name.as_str());
    words.pair("-pidfile", guest.pid_path.as_os_str());
    words.with_path("-serial", "file:", &guest.console_log_path);
    words.pair("-kernel", layout.base_image_path.as_os_str());
    words.pair("-initrd", layout.micro_system_path().as_os_str());
    let console = match layout.arch {
        Arch::Aarch64 => "ttyAMA0",
        Arch::X86_64 => "ttyS0",
    };
    words.pair(
        "-append",
        format!(
            "console={console} quiet rdinit=/init rootfstype=ramfs net.ifnames=0 random.trust_cpu=on mitigations=off panic=10"
        ),
    );
    words.with_path("-drive", "if=virtio,format=raw,cache=writeback,file=", &guest.state_disk_path);
    words.with_path("-drive", "if=virtio,format=raw,readonly=on,file=", &guest.seed_archive_path);
    // What the guests say to each other stays on this machine.
    words.cards(layout, guest, ",localaddr=127.0.0.1", ",romfile=");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(further: &str) -> QemuLayout {
        let text = "version=1\nworkspace_root=/srv/a,b\narch=x86_64\nbase_image_url=u\nbase_image_path=/srv/img\n\
                    local_cluster_binary_path=/b\n";
        QemuLayout::decode(&format!("{text}{further}")).unwrap()
    }

    fn line(layout: &QemuLayout, guest: &QemuGuest, accelerator: &str) -> String {
        let firmware = Firmware { code: "/fw/CODE.fd".into(), vars_template: "/fw/VARS.fd".into() };
        let machine = Machine {
            accelerator: Accelerator(accelerator.to_owned()),
            firmware: Some(firmware),
            system_len: 17 * 1024 * 1024,
        };
        let words = arguments(layout, guest, &machine);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn cloud_guests_are_called_as_published() {
        let layout = layout("");
        assert_eq!(
            line(&layout, &layout.control_guest(), "tcg"),
            "-machine q35,accel=tcg -cpu max -smp 2 -m 2048 -display none -daemonize -name allocdb-control \
             -pidfile /srv/a,b/qemu/run/control.pid -serial file:/srv/a,,b/qemu/logs/control-console.log \
             -drive if=pflash,format=raw,readonly=on,file=/fw/CODE.fd \
             -drive if=pflash,format=raw,file=/srv/a,,b/qemu/firmware/control-vars.fd \
             -drive if=virtio,format=qcow2,file=/srv/a,,b/qemu/images/control-overlay.qcow2 \
             -drive if=virtio,format=raw,media=cdrom,file=/srv/a,,b/qemu/seed/control-seed.iso \
             -netdev socket,id=mgmt,mcast=230.55.0.10:45000 \
             -device virtio-net-pci,netdev=mgmt,mac=52:54:00:aa:10:10 \
             -netdev user,id=uplink,hostfwd=tcp:127.0.0.1:2220-:22 \
             -device virtio-net-pci,netdev=uplink,mac=52:54:00:aa:00:10"
        );
        let replica = line(&layout, &layout.replica_guests()[1], "kvm");
        assert!(replica.starts_with("-machine q35,accel=kvm -cpu host -smp 2"), "{replica}");
        assert!(
            replica.ends_with(
                "-netdev socket,id=mgmt,mcast=230.55.0.10:45000 \
                 -device virtio-net-pci,netdev=mgmt,mac=52:54:00:aa:10:12 \
                 -netdev socket,id=cluster,mcast=230.55.0.11:45001 \
                 -device virtio-net-pci,netdev=cluster,mac=52:54:00:aa:20:12"
            ),
            "{replica}"
        );
    }

    #[test]
    fn micro_guests_boot_the_kernel_with_a_disk_and_a_seed() {
        let layout = layout("guest.kind=micro\nguest.modules_path=/m\nlane=3\n");
        let line = line(&layout, &layout.control_guest(), "tcg");
        for part in [
            " -smp 1 -m 176 ",
            "-kernel /srv/img -initrd /srv/a,b/qemu/images/micro-system.cpio ",
            "file=/srv/a,,b/qemu/images/control-state.img ",
            "readonly=on,file=/srv/a,,b/qemu/seed/control-seed.tar ",
            "mcast=230.55.3.10:45006,localaddr=127.0.0.1 ",
            "hostfwd=tcp:127.0.0.1:2223-:22 ",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("pflash"), "{line}");
    }
}
