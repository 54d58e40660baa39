//! `history`: a history of operations in the other of its formats.

use crate::args::HistoryFormat;
use crate::common::Exit;
use crate::surface::open_history;
use allocdb_node::history::jsonl::ReadError;
use allocdb_node::history::reader::{Format, Reader};
use allocdb_node::history::{edn, jsonl};
use allocdb_node::report::trace::TraceWriter;
use anyhow::Result;
use std::io::{self, BufRead, BufWriter, Write};
use std::path::Path;

/// Prints a history file, whichever format it has, in this one.
///
/// A history that was cut off inside a line is printed up to there, and is cut off inside a line again: who reads it must not
/// take it for whole. A trace is whole in any case, since no viewer would show it otherwise.
pub(crate) fn convert(history_file: &Path, to: HistoryFormat) -> Result<()> {
    let unread = |problem: String| {
        Exit::Misused.because(format!("failed to load history: {problem}; in {}", history_file.display()))
    };
    let mut input = open_history(history_file).map_err(|error| unread(error.to_string()))?;
    let begins = input.fill_buf().map_err(|error| unread(error.to_string()))?;
    if Format::of(begins).is_none() {
        return Err(unread("expected lines of JSON or EDN".to_owned()));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    rewrite(input, &mut out, to).and_then(|()| Ok(out.flush()?)).map_err(|error| match error {
        Problem::Read(error) => unread(error.to_string()),
        Problem::Written(error) => {
            Exit::Failed.because(format!("failed to write to standard output: {error}"))
        }
    })
}

enum Problem {
    Read(ReadError),
    Written(io::Error),
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Written(error)
    }
}

fn rewrite(input: impl BufRead, out: &mut impl Write, to: HistoryFormat) -> Result<(), Problem> {
    let (header, mut reader) = Reader::new(input)?;
    let to = match to {
        HistoryFormat::Of(format) => format,
        HistoryFormat::Trace => {
            let mut trace = TraceWriter::new(out)?;
            while let Some(event) = reader.next_event()? {
                trace.hear(event)?;
            }
            return Ok(trace.finish()?);
        }
    };
    match to {
        Format::Edn => edn::write_header(out, &header.text)?,
        Format::Jsonl => jsonl::write_header(out, &header.text)?,
    }
    while let Some(event) = reader.next_event()? {
        match to {
            Format::Edn => edn::write_event(out, &event)?,
            Format::Jsonl => jsonl::write_event(out, &event)?,
        }
    }
    if reader.is_cut() {
        out.write_all(b"{")?;
    }
    Ok(())
}
