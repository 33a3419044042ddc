//! (being built)

/// Why the journal could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal is full: {0}")]
    Full(String),
    #[error("the journal failed: {0}")]
    Failed(String),
}

impl JournalError {
    pub fn to_errno(&self) -> i32 {
        match self {
            JournalError::Full(_) => libc::ENOSPC,
            JournalError::Failed(_) => libc::EIO,
        }
    }
}
