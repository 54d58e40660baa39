//! A control guest and three replicas as the harness finds them: a real OpenSSH server, a control script and three replica
//! processes on the addresses of a testbed, in network, mount and process namespaces of their own. Several can be there at
//! once, and nothing of it survives its test.

use allocdb_node::cluster::ClusterLayout;
use allocdb_node::cluster::layout::Limits;
use allocdb_node::testbed::QemuLayout;
use allocdb_node::testbed::control_script::control_script;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Whose addresses the guests have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Kubevirt,
    Qemu,
}

impl Kind {
    /// The networks of control ports, and of client and protocol ports.
    fn networks(self) -> [&'static str; 2] {
        match self {
            Kind::Kubevirt => ["10.42.0", "10.42.0"],
            Kind::Qemu => ["172.31.0", "172.31.1"],
        }
    }
}

/// What stands in for the guests' control script and its `sudo`. The replicas share one workspace here.
const CONTROL_SCRIPT: &str = r#"#!/bin/sh
set -eu
case $1 in
crash|restart|isolate|heal) exec ip netns exec "r$2" @BINARY@ local-cluster "$1" --workspace @WS@ --replica-id "$2" ;;
export-replica) tar -czf - -C @WS@ "replica-$2" || [ $? -eq 1 ] ;;
import-replica) rm -rf "@WS@/replica-$2"; exec tar -xzf - -C @WS@ ;;
collect-logs)
    for id in 1 2 3; do
        mkdir -p "$2/replica-$id"
        cp @WS@/cluster-faults.txt @WS@/cluster-timeline.log "$2/replica-$id"
        cp "@WS@/logs/replica-$id.log" "$2/replica-$id/journal.log"
        @BINARY@ local-cluster control-status --addr "@CONTROL@.1$id:17000" >"$2/replica-$id/status.txt" || true
    done
    echo "$2" ;;
reboot | power-cycle) echo "these replicas have no machines of their own" >&2; exit 1 ;;
*) exec /usr/local/bin/allocdb-qemu-control-of-guests "$@" ;;
esac
"#;

/// Carries a command out in the namespace of whichever replica has that address.
const SSH: &str = r#"#!/bin/sh
for word; do
    case $word in allocdb@*) host=${word#allocdb@} ;; esac
done
exec ip netns exec "r${host##*.1}" sh -c "$word"
"#;

/// The clock of all of them is this machine's, and stays as it is.
const DATE: &str = "#!/bin/sh\ncase \"$*\" in *-s*) exit 1 ;; esac\nexec /bin/date \"$@\"\n";

const SETUP: &str = r#"
set -e
mount --bind @ROOT@/passwd /etc/passwd
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /usr/local/bin
cp @ROOT@/control /usr/local/bin/allocdb-qemu-control
cp @ROOT@/control-of-guests /usr/local/bin/allocdb-qemu-control-of-guests
for program in sudo ssh date; do cp @ROOT@/$program /usr/local/bin; done
ln -s @WS@ /var/lib/allocdb
mkdir -p @WS@/run && ln -s @WS@/run /run/allocdb
chmod 755 /usr/local/bin/*
ip link set lo up
ip link add guests type bridge
for network in @CONTROL@ @CLUSTER@; do ip addr replace $network.10/24 dev guests; done
ip link set guests up
for id in 1 2 3; do
    ip netns add r$id
    ip link add to-r$id type veth peer name eth0 netns r$id
    ip link set to-r$id master guests up
    ip -n r$id link set lo up
    for network in @CONTROL@ @CLUSTER@; do ip -n r$id addr replace $network.1$id/24 dev eth0; done
    ip -n r$id link set eth0 up
done
for id in 1 2 3; do /usr/local/bin/allocdb-qemu-control restart $id >/dev/null & done
wait
@LISTEN@
echo ready
while :; do sleep 1000 & wait $!; done
"#;

/// See the module. Everything ends when it is dropped.
pub struct SshHost {
    init: Child,
    folder: tempfile::TempDir,
}

/// Whether this machine cannot do it; said once for each test.
pub fn missing_namespaces() -> bool {
    let works = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let bridge = ["ip", "link", "add", "guests", "type", "bridge"];
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc"];
    let unshares = works("unshare", &[namespaces.as_slice(), &bridge].concat());
    let has_all = unshares && works("nsenter", &["--version"]) && Path::new("/usr/sbin/sshd").exists();
    if !has_all {
        super::skipped(
            "sshd, ip, nsenter and the right to unshare network, mounts and processes, with bridges",
        );
    }
    !has_all
}

impl SshHost {
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, "")
    }

    /// Starts one whose SSH server is configured by further lines.
    pub fn start_with(kind: Kind, more_config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let workspace = root.join("ws");
        let [control, cluster] = kind.networks();
        let addresses = [1, 2, 3].map(|id| {
            let address = |network, port| format!("{network}.1{id}:{port}").parse::<SocketAddr>().unwrap();
            [address(control, 17_000), address(cluster, 18_000), address(cluster, 19_000)]
        });
        fs::create_dir(&workspace).unwrap();
        let layout = ClusterLayout::in_workspace(&workspace, Limits::GATE, addresses);
        layout.store(&workspace.join("cluster-layout.txt")).unwrap();
        for key in ["key", "host_key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(root.join(key));
            assert!(keygen.status().unwrap().success());
        }
        fs::copy(root.join("key.pub"), root.join("authorized_keys")).unwrap();
        let filled = |text: &str| {
            let listen = match kind {
                Kind::Kubevirt => "",
                Kind::Qemu => {
                    "/usr/sbin/sshd -f @ROOT@/sshd_config -o ListenAddress=127.0.0.1:2220 -o PidFile=none"
                }
            };
            text.replace("@LISTEN@", listen)
                .replace("@CONTROL@", control)
                .replace("@CLUSTER@", cluster)
                .replace("@ROOT@", root.to_str().unwrap())
                .replace("@BINARY@", super::BINARY)
                .replace("@WS@", workspace.to_str().unwrap())
        };
        fs::write(root.join("control"), filled(CONTROL_SCRIPT)).unwrap();
        let guests = "version=1\nworkspace_root=/w\narch=x86_64\nbase_image_url=u\nbase_image_path=/a\nlocal_cluster_binary_path=/b\n";
        let mut script = control_script(&QemuLayout::decode(guests).unwrap());
        for (own, network) in [control, cluster].into_iter().zip(Kind::Qemu.networks()) {
            script = script.replace(network, own);
        }
        fs::write(root.join("control-of-guests"), script).unwrap();
        for (name, does) in [("sudo", "#!/bin/sh\nexec \"$@\"\n"), ("ssh", SSH), ("date", DATE)] {
            fs::write(root.join(name), does).unwrap();
        }
        let users =
            "root:*:0:0::/root:/bin/sh\nallocdb:*:0:0::/:/bin/sh\nsshd:*:65534:65534::/run/sshd:/bin/false\n";
        fs::write(root.join("passwd"), users).unwrap();
        let config = "HostKey @ROOT@/host_key\nAuthorizedKeysFile @ROOT@/authorized_keys\nStrictModes no\nUsePAM no\n\
                      PermitRootLogin yes\nPasswordAuthentication no\nLogLevel ERROR\nMaxSessions 100\n\
                      SetEnv PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\n";
        fs::write(root.join("sshd_config"), filled(&format!("{more_config}{config}"))).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
        let out = fs::File::create(root.join("started")).unwrap();
        unshare.arg(filled(SETUP)).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let host = Self { init: unshare.spawn().unwrap(), folder };
        super::until("the SSH laboratory", || super::text(host.path("started")).contains("ready"));
        if kind == Kind::Qemu {
            host.wait_for_listener();
        }
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The first process in the namespaces, by its number outside.
    fn inside(&self) -> String {
        let pid = self.init.id();
        super::text(format!("/proc/{pid}/task/{pid}/children")).trim().to_owned()
    }

    /// What answers one connection to the SSH server, on its standard input and output.
    pub fn sshd(&self) -> Vec<String> {
        let pid = self.inside();
        let config = self.path("sshd_config");
        let words =
            ["nsenter", "-t", &pid, "-n", "-m", "-p", "/usr/sbin/sshd", "-i", "-f", config.to_str().unwrap()];
        words.map(str::to_owned).to_vec()
    }

    /// A command that is carried out where QEMU would forward the guest's port.
    pub fn beside(&self, command: &Command) -> Command {
        self.entered(&["-n"], command)
    }

    /// The same with what is mounted there.
    pub fn within(&self, command: &Command) -> Command {
        self.entered(&["-n", "-m"], command)
    }

    fn entered(&self, namespaces: &[&str], command: &Command) -> Command {
        let mut enter = Command::new("nsenter");
        enter
            .args(["-t", &self.inside()])
            .args(namespaces)
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => enter.env(key, value),
                None => enter.env_remove(key),
            };
        }
        enter
    }

    /// Copies the private key to where a test wants it.
    pub fn give_key(&self, to: &Path) {
        fs::copy(self.path("key"), to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Makes the workspace of a QEMU testbed beside it, `qemu-ws`, as its preparation does.
    pub fn make_qemu_workspace(&self) {
        let workspace = self.path("qemu-ws");
        fs::create_dir_all(workspace.join("qemu/ssh")).unwrap();
        self.give_key(&workspace.join("qemu/ssh/id_ed25519"));
        let layout = format!(
            "version=1\nworkspace_root={}\narch=x86_64\nbase_image_url=u\nbase_image_path=i\n\
             local_cluster_binary_path=b\n{}",
            workspace.display(),
            "core.max_bundle_size=4\ncore.max_resources=262144\ncore.max_reservations=262144\n\
             core.max_expiration_bucket_len=65536\n"
        );
        fs::write(workspace.join("qemu-testbed-layout.txt"), layout).unwrap();
        self.introduce(&workspace.join("qemu/ssh/known_hosts"), "[127.0.0.1]:2220");
    }

    /// Writes down its host key, as whoever prepares a testbed does, so that there is no first contact.
    pub fn introduce(&self, known_hosts: &Path, as_host: &str) {
        let key = super::text(self.path("host_key.pub"));
        let [kind, key, ..] = key.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{key}") };
        fs::write(known_hosts, format!("{as_host} {kind} {key}\n")).unwrap();
    }

    /// Ends all connections to the SSH server, as its restart would.
    pub fn drop_connections(&self) {
        // One that ends before the listener may be followed by another that was not there yet.
        super::until("the end of the SSH servers", || {
            self.signal_servers("KILL");
            !self.has_server()
        });
    }

    /// Lets all connections to the SSH server go silent. New ones work.
    pub fn stall_connections(&self) {
        self.signal_servers("STOP");
    }

    /// Lets them go on.
    pub fn resume_connections(&self) {
        self.signal_servers("CONT");
    }

    /// Starts the SSH server that listens again.
    pub fn start_server(&self) {
        let config = self.path("sshd_config");
        let words =
            ["-f", config.to_str().unwrap(), "-o", "ListenAddress=127.0.0.1:2220", "-o", "PidFile=none"];
        let mut start = self.inside_all("/usr/sbin/sshd");
        assert!(start.args(words).status().unwrap().success());
        self.wait_for_listener();
    }

    /// A server goes to the background first, and listens then.
    fn wait_for_listener(&self) {
        let table = PathBuf::from(format!("/proc/{}/net/tcp", self.inside()));
        let is_listener = |line: &str| line.contains(" 0100007F:08AC 00000000:0000 0A ");
        super::until("a listener on port 2220", || super::text(&table).lines().any(is_listener));
    }

    /// A command in all of its namespaces.
    pub fn inside_all(&self, program: &str) -> Command {
        let mut enter = Command::new("nsenter");
        enter.args(["-t", &self.inside(), "-n", "-m", "-p", program]);
        enter
    }

    /// Makes packets to an address vanish.
    pub fn lose_packets_to(&self, address: &str) {
        let nobody =
            ["neigh", "replace", address, "lladdr", "02:00:00:00:00:99", "dev", "guests", "nud", "permanent"];
        assert!(self.inside_all("ip").args(nobody).status().unwrap().success());
    }

    /// How many connections from the control guest to that port there are whose other end has not closed.
    pub fn connections_to(&self, port: u16) -> usize {
        let table = super::text(format!("/proc/{}/net/tcp", self.inside()));
        let is_one = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.len() > 3
                && words[2].ends_with(&format!(":{port:04X}"))
                && ["01", "04", "05"].contains(&words[3])
        };
        table.lines().filter(is_one).count()
    }

    /// A path in its mount namespace.
    pub fn path_inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inside()))
    }

    /// Whether any process of an SSH server is left.
    fn has_server(&self) -> bool {
        let folders = fs::read_dir(self.path_inside("/proc")).unwrap().flatten();
        let titles = folders.filter_map(|folder| fs::read(folder.path().join("cmdline")).ok());
        titles.map(|line| String::from_utf8_lossy(&line).into_owned()).any(|line| line.starts_with("sshd"))
    }

    fn signal_servers(&self, signal: &str) {
        let pid = self.inside();
        let script = "for p in /proc/[0-9]*; do case $(cat $p/comm 2>/dev/null) in sshd*) kill -$0 ${p#/proc/} || :;; esac; done 2>/dev/null";
        let mut enter = Command::new("nsenter");
        assert!(enter.args(["-t", &pid, "-m", "-p", "sh", "-c", script, signal]).status().unwrap().success());
    }
}

impl Drop for SshHost {
    fn drop(&mut self) {
        let inside = self.inside();
        let _ = self.init.kill();
        let _ = self.init.wait();
        let gone = || !Path::new(&format!("/proc/{inside}")).exists();
        if !std::thread::panicking() {
            super::until("the end of the SSH laboratory", gone);
        }
    }
}
