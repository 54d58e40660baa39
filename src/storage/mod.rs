//! Bytes that outlive the process: the write-ahead log, replacing a file as a whole, and checksums beside files. What the
//! bytes mean is not known here.
//!
//! Everything goes through [`disk::Disk`], so that the same code runs on the operating system's files and on a
//! simulated disk that tears, loses and refuses writes.

pub mod disk;
pub mod frame;
pub mod replace;
pub mod sum;
pub mod wal;

pub use disk::{Disk, DiskFile, DiskRefusal, OsDisk, create_private_folder, private_file};
pub use frame::{Frame, RecordType};
pub use replace::{Flush, ReplaceError, read_file, replace_file, replace_file_lazily};
pub use wal::{Stop, Wal};
