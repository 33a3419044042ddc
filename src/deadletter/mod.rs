//! Dead letters on disk: `dead-letter/<opId>.json`, `<opId>.error.json` and `<opId>.payload` of a state directory.
//!
//! The journal is the truth; these files are its projection, written so that people and older tools can read them without
//! this program. What is found there and is not ours is left as it is, byte for byte, and reported when it cannot be read.
//!
//! | file | owns |
//! |---|---|
//! | `record` | what the two JSON files say, in both directions |
//! | `shelf` | the directory: writes a letter's files, takes them away, lists what is there |
//! | `import` | letters and counters of older tools |

mod import;
mod record;
mod shelf;

pub use import::{Imported, import};
pub use record::{Letter, PastAttempt, Payload, Record, Sidecar, SidecarCode, rfc3339};
pub use shelf::{OnShelf, Shelf, replace, scan};

/// The directory in a state directory.
pub const DIR: &str = "dead-letter";
