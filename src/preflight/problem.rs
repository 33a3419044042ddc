//! What can go wrong before and around a mount: a stable code, one sentence, one remedy, one exit code.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The exit codes of both binaries. The table in docs/OPERATIONS.md says the same, and a test compares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// `relayfile doctor` found a problem.
    ChecksFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    Mountpoint = 3,
    Fuse = 4,
    /// State directory or lease.
    State = 5,
    /// Base URL, token, remote.
    Remote = 6,
    /// The configuration file or an environment variable.
    Config = 7,
    /// Unmounted in order, but saves are still queued; they go out with the next mount.
    QueueNotEmpty = 8,
    /// Unmounted in order, nothing is queued, and the remote has refused some saves for good.
    DeadLetters = 9,
    /// Anything else (`EX_SOFTWARE` of sysexits.h).
    Internal = 70,
}

impl Exit {
    pub const ALL: [Exit; 11] = [
        Exit::Ok,
        Exit::ChecksFailed,
        Exit::Usage,
        Exit::Mountpoint,
        Exit::Fuse,
        Exit::State,
        Exit::Remote,
        Exit::Config,
        Exit::QueueNotEmpty,
        Exit::DeadLetters,
        Exit::Internal,
    ];

    pub fn code(self) -> u8 {
        self as u8
    }

    /// One line for `--help` and the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done; at unmount: every save has reached the remote",
            Exit::ChecksFailed => "`relayfile doctor` found a problem",
            Exit::Usage => "the command line is wrong",
            Exit::Mountpoint => "the mountpoint cannot be used, or could not be taken away",
            Exit::Fuse => "FUSE is missing or refused the mount",
            Exit::State => "the state directory cannot be used, or another process has it",
            Exit::Remote => "base URL, token or remote",
            Exit::Config => "the configuration file or an environment variable",
            Exit::QueueNotEmpty => "unmounted, but saves are (or may be) still queued; the next mount sends them",
            Exit::DeadLetters => "unmounted, nothing is queued, but the remote has refused saves: `relayfile writeback list`",
            Exit::Internal => "anything else; the log says what",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.code())
    }
}

macro_rules! codes {
    ($($exit:ident { $($code:ident = $text:literal),* $(,)? })*) => {
        /// The stable name of a problem. Scripts may compare it; it never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($( #[serde(rename = $text)] $code, )*)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$($( Code::$code, )*)*];

            pub fn as_str(self) -> &'static str {
                match self { $($( Code::$code => $text, )*)* }
            }

            /// The class of exit code that this problem ends a command with.
            pub fn exit(self) -> Exit {
                match self { $($( Code::$code => Exit::$exit, )*)* }
            }
        }
    };
}

codes! {
    Usage { Usage = "USAGE" }
    Config {
        ConfigUnreadable = "CONFIG_UNREADABLE",
        ConfigUnknownKey = "CONFIG_UNKNOWN_KEY",
        ConfigInvalid = "CONFIG_INVALID",
    }
    Mountpoint {
        MountpointNotFound = "MOUNTPOINT_NOT_FOUND",
        MountpointNotADirectory = "MOUNTPOINT_NOT_A_DIRECTORY",
        MountpointNotEmpty = "MOUNTPOINT_NOT_EMPTY",
        MountpointUnreadable = "MOUNTPOINT_UNREADABLE",
        MountpointBusy = "MOUNTPOINT_BUSY",
        MountpointInsideMount = "MOUNTPOINT_INSIDE_MOUNT",
        MountpointDead = "MOUNTPOINT_DEAD",
        MountpointNotOurs = "MOUNTPOINT_NOT_OURS",
    }
    Fuse {
        FuseUnavailable = "FUSE_UNAVAILABLE",
        FusermountNotFound = "FUSERMOUNT_NOT_FOUND",
        AllowOtherForbidden = "ALLOW_OTHER_FORBIDDEN",
        MountFailed = "MOUNT_FAILED",
    }
    State {
        StateDirUnwritable = "STATE_DIR_UNWRITABLE",
        StateDirOnNetworkFs = "STATE_DIR_ON_NETWORK_FS",
        StateDirInsideMountpoint = "STATE_DIR_INSIDE_MOUNTPOINT",
        StateDirUnusable = "STATE_DIR_UNUSABLE",
        StateDirOtherIdentity = "STATE_DIR_OTHER_IDENTITY",
        LeaseHeld = "LEASE_HELD",
    }
    Remote {
        BaseUrlInvalid = "BASE_URL_INVALID",
        TokenMissing = "TOKEN_MISSING",
        TokenMalformed = "TOKEN_MALFORMED",
        TokenExpired = "TOKEN_EXPIRED",
        TokenWrongWorkspace = "TOKEN_WRONG_WORKSPACE",
        TokenRejected = "TOKEN_REJECTED",
        RemoteUnreachable = "REMOTE_UNREACHABLE",
        RemoteUnexpected = "REMOTE_UNEXPECTED",
        WorkspaceForbidden = "WORKSPACE_FORBIDDEN",
        WorkspaceNotFound = "WORKSPACE_NOT_FOUND",
        ServerFailed = "SERVER_FAILED",
    }
    Internal {
        StartFailed = "START_FAILED",
        StartTimeout = "START_TIMEOUT",
        UnmountTimeout = "UNMOUNT_TIMEOUT",
        Internal = "INTERNAL",
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a command cannot go on. Never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub code: Code,
    /// One sentence with the path or URL that it is about and, where there are some, the words of the kernel or the remote.
    pub what: String,
    /// What to do next, as a command where one helps.
    pub remedy: String,
}

impl Problem {
    pub fn new(code: Code, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { code, what: what.into(), remedy: remedy.into() }
    }

    pub fn exit(&self) -> Exit {
        self.code.exit()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]\n  try: {}", self.what, self.code, self.remedy)
    }
}

impl std::error::Error for Problem {}

/// A path as one word of a shell command, quoted only when it must be.
pub fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%:=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_page_lists_every_exit_code_and_every_problem_code() {
        let page = include_str!("../../docs/OPERATIONS.md");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(page.contains(&row), "docs/OPERATIONS.md lacks the row {row:?}");
        }
        for code in Code::ALL {
            assert!(page.contains(&format!("`{code}`")), "docs/OPERATIONS.md does not explain {code}");
        }
    }

    #[test]
    fn a_problem_survives_the_way_through_the_start_pipe() {
        let problem = Problem::new(Code::LeaseHeld, "held", "wait");
        let line = serde_json::to_string(&problem).unwrap();
        assert!(line.contains("\"LEASE_HELD\""));
        assert_eq!(serde_json::from_str::<Problem>(&line).unwrap(), problem);
    }

    #[test]
    fn a_path_with_a_quote_stays_one_shell_word() {
        assert_eq!(shell_word(Path::new("/mnt/ws")), "/mnt/ws");
        assert_eq!(shell_word(Path::new("/mnt/my ws")), "'/mnt/my ws'");
        assert_eq!(shell_word(Path::new("/it's")), r"'/it'\''s'");
    }
}
