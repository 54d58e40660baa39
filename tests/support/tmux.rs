//! A terminal to look at: `tmux` with a server of its own, which ends with its test.

use crate::support::{skipped, text, until};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether tests in a terminal cannot be run here; said once for each test.
pub fn missing_tmux() -> bool {
    let found = Command::new("tmux").arg("-V").output().is_ok_and(|done| done.status.success());
    if !found {
        skipped("tmux on PATH");
    }
    !found
}

/// What was there before a program, and is to be there after it.
pub const BEFORE: &str = "what was there before";

pub struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    /// Runs a command in a window of that size. When it has ended, its exit code is shown.
    pub fn run(columns: usize, rows: usize, command: &Command) -> Self {
        let terminal = Self { folder: tempfile::tempdir().unwrap() };
        let path = |name: &str| quoted(terminal.path(name).to_str().unwrap());
        let mut script = format!("echo {}\nstty -g >{}\n", quoted(BEFORE), path("before"));
        for (key, value) in command.get_envs() {
            let key = key.to_str().unwrap();
            match value {
                Some(value) => script += &format!("export {key}={}\n", quoted(value.to_str().unwrap())),
                None => script += &format!("unset {key}\n"),
            }
        }
        script += &format!("sh -c 'echo $$ >\"$0\"; exec \"$@\"' {} ", path("pid"));
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        script += &words.map(|word| quoted(word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
        script += &format!("\ncode=$?\nstty -g >{}\necho \"ended with $code\"\nexec cat\n", path("after"));
        std::fs::write(terminal.path("script"), script).unwrap();
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let script = format!("exec sh {}", path("script"));
        let start = ["-u", "-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, &script];
        terminal.tmux(&start);
        terminal
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Tells the server something.
    pub fn tmux(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.path("socket")).args(arguments);
        let done = tmux.env_remove("TMUX").env("LC_ALL", "C.UTF-8").output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// What is shown.
    pub fn shown(&self) -> Vec<String> {
        self.tmux(&["capture-pane", "-p"]).lines().map(str::to_owned).collect()
    }

    /// What is shown, with the codes of its colours.
    pub fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until what is shown is as wanted, and returns it.
    pub fn until(&self, what: &str, mut is_wanted: impl FnMut(&[String]) -> bool) -> Vec<String> {
        let mut shown = Vec::new();
        until(what, || {
            shown = self.shown();
            is_wanted(&shown)
        });
        shown
    }

    /// Waits until a line is shown that holds this.
    pub fn until_line(&self, holds: &str) -> Vec<String> {
        self.until(holds, |shown| shown.iter().any(|line| line.contains(holds)))
    }

    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The process of the command.
    pub fn pid(&self) -> u32 {
        text(self.path("pid")).trim().parse().unwrap()
    }

    /// Waits until the command has ended, and makes sure that the terminal is as it was before.
    pub fn ended(&self, code: i32) -> Vec<String> {
        let shown = self.until_line(&format!("ended with {code}"));
        assert_eq!(shown[0], BEFORE, "{shown:#?}");
        let state = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}"]);
        assert_eq!(state, "0 1 1\n");
        assert_eq!(text(self.path("after")), text(self.path("before")));
        shown
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.path("socket")).arg("kill-server").stderr(Stdio::null());
        let _ = tmux.status();
        if !std::thread::panicking() {
            until("the end of tmux", || !is_served(&self.path("socket")));
        }
    }
}

fn is_served(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
