//! The texts that a run leaves behind in a form that can be compared: without times, without the backend's name, and with
//! numbers that depend on how fast a run was replaced by a sign.

use anyhow::{Context as _, Result};

/// Stands for a number that differs from run to run.
const NUMBER: &str = "#";

/// Stands for the backend's name.
const BACKEND: &str = "<backend>";

/// Digits of a time in milliseconds; no other number in the name of a file is as long.
const LEAST_MILLIS_DIGITS: usize = 12;

/// Whose texts they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outline<'a> {
    /// The backend's name in files and lines.
    pub(crate) backend: &'a str,
    /// As given to the run.
    pub(crate) run_id: &'a str,
    /// Whether the number of iterations depends on how fast the run was.
    pub(crate) counts_vary: bool,
}

impl Outline<'_> {
    /// A path, or a text with paths in it.
    pub(crate) fn paths(&self, text: &str) -> String {
        let logs = |backend: &str| format!("-{backend}-logs.tar.gz");
        let text = text.replace(&logs(self.backend), &logs(BACKEND));
        let bundle = format!("{}-", self.run_id);
        let mut pieces = text.split(&bundle);
        let mut out = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            out += &bundle;
            let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit());
            let is_millis = piece.len() - rest.len() >= LEAST_MILLIS_DIGITS;
            out += &if is_millis { format!("{NUMBER}{rest}") } else { piece.to_owned() };
        }
        out
    }

    /// The lines `key=value` of standard output, where one key has the backend's name in it.
    pub(crate) fn stdout(&self, text: &str) -> Vec<String> {
        let own_key = format!("{}_logs_archive=", self.backend);
        let rename = |line: String| match line.strip_prefix(&own_key) {
            Some(value) => format!("{BACKEND}_logs_archive={value}"),
            None => line,
        };
        self.key_values(text).into_iter().map(rename).collect()
    }

    /// The lines `key=value` of a status file or a manifest.
    pub(crate) fn key_values(&self, text: &str) -> Vec<String> {
        let line = |line: &str| {
            let Some((key, value)) = line.split_once('=') else { return line.to_owned() };
            match key {
                "backend" => format!("backend={}", value.replace(self.backend, BACKEND)),
                "created_at_millis" | "started_at_millis" | "updated_at_millis" | "elapsed_secs" => {
                    numbers(line)
                }
                "minimum_fault_window_secs" | "history_events" | "logical_commands" if self.counts_vary => {
                    numbers(line)
                }
                _ => format!("{key}={}", self.paths(value)),
            }
        };
        text.lines().map(line).collect()
    }

    /// The details of an events log. An iteration is told once, however often it was made, as long as all are alike.
    pub(crate) fn events(&self, log: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut iterations: Vec<Vec<String>> = vec![Vec::new()];
        for line in log.lines() {
            let (_, detail) = split_event(line)?;
            let is_counted = ["history sequence=", "control iteration=", "fault window iteration="]
                .into_iter()
                .any(|beginning| detail.starts_with(beginning));
            if !is_counted {
                lines.extend(alike(&mut iterations));
                lines.push(self.paths(detail));
                continue;
            }
            let ends = !detail.starts_with("history sequence=");
            if let Some(iteration) = iterations.last_mut() {
                iteration.push(numbers(detail));
            }
            if ends {
                iterations.push(Vec::new());
            }
        }
        lines.extend(alike(&mut iterations));
        Ok(lines)
    }
}

/// The events of one iteration if all are alike, else those of all; leaves none behind.
fn alike(iterations: &mut Vec<Vec<String>>) -> Vec<String> {
    let mut told = std::mem::replace(iterations, vec![Vec::new()]);
    told.retain(|iteration| !iteration.is_empty());
    told.dedup();
    told.concat()
}

fn split_event(line: &str) -> Result<(u64, &str)> {
    let (time, detail) = line.split_once(" detail=").with_context(|| format!("no event: `{line}`"))?;
    let time = time.strip_prefix("time_millis=").and_then(|time| time.parse().ok());
    Ok((time.with_context(|| format!("no time in `{line}`"))?, detail))
}

/// A text with every number in it replaced.
fn numbers(text: &str) -> String {
    let mut out = String::new();
    let mut in_number = false;
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !in_number {
            out += NUMBER;
        }
        in_number = c.is_ascii_digit();
    }
    out
}

/// What does not count up as it should in an events log: sequence numbers and iterations by one, times never down, and
/// each iteration with the last sequence number.
pub(crate) fn miscounts(log: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let (mut sequence, mut iteration, mut last_time) = (0, 0, 0);
    for line in log.lines() {
        let (time, detail) = match split_event(line) {
            Ok(event) => event,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let number = |name: &str| {
            let (_, rest) = detail.split_once(name)?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        };
        let mut is_right = time >= last_time;
        last_time = time;
        if detail == "run initialized" {
            (sequence, iteration) = (0, 0);
        } else if detail.starts_with("history sequence=") {
            sequence += 1;
            is_right &= number("sequence=") == Some(sequence);
        } else if detail.contains(" iteration=") || detail.starts_with("control iteration=") {
            iteration += 1;
            is_right &=
                number("iteration=") == Some(iteration) && number("history_events=") == Some(sequence);
        }
        if !is_right {
            problems.push(format!("events log: `{line}` does not follow what is before it"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Outline<'_> =
        Outline { backend: "qemu", run_id: "failover_read_fences-control", counts_vary: true };

    #[test]
    fn times_and_backends_are_taken_out_of_paths() {
        assert_eq!(
            RUN.paths(
                "out/failover_read_fences-control-1795424464472/failover_read_fences-control-qemu-logs.tar.gz"
            ),
            "out/failover_read_fences-control-#/failover_read_fences-control-<backend>-logs.tar.gz"
        );
        assert_eq!(
            RUN.paths("out/failover_read_fences-control-history.txt"),
            "out/failover_read_fences-control-history.txt"
        );
    }

    #[test]
    fn lines_of_two_backends_become_the_same() {
        let of = |backend: &str, secs: u32| {
            let text = format!(
                "backend={backend}\nstate=passed\nstarted_at_millis=1795424439939\nelapsed_secs={secs}\n\
                 {backend}_logs_archive=o/failover_read_fences-control-{backend}-logs.tar.gz\nblockers=0\n"
            );
            Outline { backend, ..RUN }.stdout(&text)
        };
        assert_eq!(of("qemu", 24), of("local", 1));
        let manifest = "qemu_logs_archive=none";
        assert_eq!(RUN.key_values(manifest), [manifest]);
        assert!(of("qemu", 24).contains(&"blockers=0".to_owned()));
        let counted = "history_events=6";
        assert_eq!(RUN.key_values(counted), ["history_events=#"]);
        assert_eq!(Outline { counts_vary: false, ..RUN }.key_values(counted), [counted]);
    }

    const LOG: &str = "time_millis=1 detail=run initialized\n\
        time_millis=1 detail=history sequence=1\n\
        time_millis=2 detail=history sequence=2\n\
        time_millis=2 detail=fault window iteration=1 elapsed=11s remaining=6s history_events=2\n\
        time_millis=3 detail=history sequence=3\n\
        time_millis=3 detail=history sequence=4\n\
        time_millis=3 detail=fault window iteration=2 elapsed=22s remaining=0s history_events=4\n\
        time_millis=4 detail=run completed\n";

    #[test]
    fn iterations_that_are_alike_are_told_once() {
        let once = [
            "run initialized",
            "history sequence=#",
            "history sequence=#",
            "fault window iteration=# elapsed=#s remaining=#s history_events=#",
            "run completed",
        ];
        assert_eq!(RUN.events(LOG).unwrap(), once);
        let cut = LOG.replace("time_millis=3 detail=history sequence=4\n", "");
        assert_eq!(RUN.events(&cut).unwrap().len(), 7);
        assert!(RUN.events("detail=x\n").is_err());
    }

    #[test]
    fn what_does_not_count_up_is_named() {
        assert_eq!(miscounts(LOG), [""; 0]);
        assert_eq!(miscounts(&format!("{LOG}{}", LOG.replace("time_millis=", "time_millis=1"))), [""; 0]);
        for (from, to) in [
            ("sequence=3", "sequence=5"),
            ("iteration=2", "iteration=3"),
            ("history_events=4", "history_events=3"),
            ("time_millis=4", "time_millis=2"),
        ] {
            assert_eq!(miscounts(&LOG.replace(from, to)).len(), 1, "{from}");
        }
    }
}
