//! Which files of a kernel's module folder have to be loaded, and in which order, for some modules to work. What the folder
//! lists is believed: `modules.dep` for what needs what, `modules.builtin` for what the kernel has anyway.

use std::collections::BTreeMap;

/// Why a module cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// The kernel has none of that name.
    #[error("there is no kernel module `{0}`, neither as a file nor built in")]
    Missing(String),
    /// A line of `modules.dep` is not as it must be.
    #[error("modules.dep:{line}: expected `<file>: <files it needs>`, found `{found}`")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The line as it stands in the file.
        found: String,
    },
}

/// The files to load for `wanted`, relative to the module folder, each after those it needs. Both texts are the files of
/// that folder.
///
/// # Errors
/// When a module is missing, or `modules.dep` is damaged.
pub fn load_order(
    modules_dep: &str,
    modules_builtin: &str,
    wanted: &[&str],
) -> Result<Vec<String>, ModuleError> {
    let mut files = BTreeMap::new();
    for (at, line) in modules_dep.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (file, needs) = line
            .split_once(':')
            .ok_or_else(|| ModuleError::Line { line: at + 1, found: line.chars().take(200).collect() })?;
        files.insert(module_name(file), (file, needs));
    }
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((file, needs)) = files.get(&module_name(name)) else {
            if modules_builtin.lines().any(|line| module_name(line) == module_name(name)) {
                continue;
            }
            return Err(ModuleError::Missing((*name).to_owned()));
        };
        // The list is complete, and what is needed first stands last in it.
        for file in needs.split_whitespace().rev().chain([*file]) {
            if !order.iter().any(|listed| listed == file) {
                order.push(file.to_owned());
            }
        }
    }
    Ok(order)
}

/// The name of a module, from a path or from the name itself: `-` and `_` are the same in it.
fn module_name(file: &str) -> String {
    let name = file.trim().rsplit('/').next().unwrap_or_default();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/virtio/virtio.ko:\n\
        kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n\
        kernel/net/core/failover.ko.xz:\n\
        kernel/drivers/net/virtio-net.ko.xz: kernel/net/core/failover.ko.xz kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n";

    #[test]
    fn what_is_needed_comes_first_and_nothing_comes_twice() {
        let order =
            load_order(DEP, "kernel/fs/ext4/ext4.ko\n", &["virtio_ring", "ext4", "virtio_net"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/drivers/virtio/virtio.ko",
                "kernel/drivers/virtio/virtio_ring.ko",
                "kernel/net/core/failover.ko.xz",
                "kernel/drivers/net/virtio-net.ko.xz",
            ]
        );
    }

    #[test]
    fn a_module_that_is_nowhere_and_a_damaged_list_are_named() {
        let error = load_order(DEP, "", &["ext4"]).unwrap_err().to_string();
        assert_eq!(error, "there is no kernel module `ext4`, neither as a file nor built in");
        let error = load_order("a.ko:\n\ngarbage\n", "", &["a"]).unwrap_err().to_string();
        assert_eq!(error, "modules.dep:3: expected `<file>: <files it needs>`, found `garbage`");
    }
}
