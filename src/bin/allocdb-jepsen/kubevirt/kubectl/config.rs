//! What `kubectl` is configured with, as far as a look at its files tells: the current context, and the program that gets it its
//! credentials. `kubectl` itself need not be asked, and what would need more reading than this is left to it.

use std::path::{Path, PathBuf};

/// Longest configuration that is looked at.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The first that a look at the configurations finds: the file that `kubectl` is told to use, else those that `KUBECONFIG` names, else
/// the usual one. The first decides, as there.
fn find(kubeconfig: Option<&Path>, look: impl Fn(&str) -> Option<String>) -> Option<String> {
    let files: Vec<PathBuf> =
        match (kubeconfig, std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty())) {
            (Some(file), _) => vec![file.to_owned()],
            (None, Some(list)) => std::env::split_paths(&list).collect(),
            (None, None) => vec![PathBuf::from(std::env::var_os("HOME")?).join(".kube/config")],
        };
    files.iter().find_map(|file| {
        let disk = allocdb_node::storage::OsDisk;
        let bytes = allocdb_node::storage::read_file(&disk, file, MAX_BYTES).ok().flatten()?;
        look(std::str::from_utf8(&bytes).ok()?)
    })
}

/// The context that `kubectl` uses when none is named; `None` if the configuration names none or cannot be read.
pub(crate) fn current_context(kubeconfig: Option<&Path>) -> Option<String> {
    find(kubeconfig, context_in)
}

/// The program that is called for credentials.
pub(crate) fn credential_plugin(kubeconfig: Option<&Path>) -> Option<String> {
    find(kubeconfig, plugin_in)
}

/// The value of `current-context` at the top of a configuration in YAML or JSON.
fn context_in(text: &str) -> Option<String> {
    if let Ok(config) = serde_json::from_str::<serde_json::Value>(text) {
        return plain(config.get("current-context")?.as_str()?);
    }
    scalar(text.lines().find_map(|line| line.strip_prefix("current-context:"))?)
}

/// The first `command` of an `exec` of a user.
fn plugin_in(text: &str) -> Option<String> {
    if let Ok(config) = serde_json::from_str::<serde_json::Value>(text) {
        let mut users = config.get("users")?.as_array()?.iter();
        return users.find_map(|user| plain(user.pointer("/user/exec/command")?.as_str()?));
    }
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "exec:");
    scalar(lines.find_map(|line| line.strip_prefix("command:"))?)
}

/// The text of a scalar of YAML on one line.
fn scalar(value: &str) -> Option<String> {
    let value = value.trim();
    let quoted = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    let bare = || value.split(" #").next().unwrap_or(value).trim();
    plain(quoted('"').or_else(|| quoted('\'')).unwrap_or_else(bare))
}

fn plain(text: &str) -> Option<String> {
    let is_plain =
        !text.is_empty() && !text.contains(['"', '\'', '\\']) && !text.chars().any(char::is_control);
    is_plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_context_is_found_in_either_notation() {
        for (text, context) in [
            ("apiVersion: v1\ncurrent-context: prod-1\nkind: Config\n", Some("prod-1")),
            ("current-context: \"a b\"\n", Some("a b")),
            ("current-context: 'c'  \r\n", Some("c")),
            ("current-context: c # chosen by hand\n", Some("c")),
            ("{\"kind\": \"Config\", \"current-context\": \"j\"}", Some("j")),
            ("current-context: \"\"\n", None),
            ("current-context: \"a\\\\b\"\n", None),
            ("  current-context: nested\n", None),
            ("{\"current-context\": 5}", None),
            ("", None),
        ] {
            assert_eq!(context_in(text).as_deref(), context, "{text}");
        }
    }

    #[test]
    fn a_credential_plugin_is_found_in_either_notation() {
        let yaml = "users:\n- name: u\n  user:\n    exec:\n      apiVersion: v1\n      command: aws-iam\n";
        let json = r#"{"users": [{"user": {"token": "t"}}, {"user": {"exec": {"command": "/opt/login"}}}]}"#;
        assert_eq!(plugin_in(yaml).as_deref(), Some("aws-iam"));
        assert_eq!(plugin_in(json).as_deref(), Some("/opt/login"));
        assert_eq!(plugin_in("users:\n- user:\n    token: exec\n    command: no\n"), None);
    }
}
