//! A connection to the remote of a configuration, for the checks that are made before a mount.

use crate::config::Config;
use crate::preflight::Problem;
use crate::remote::Remote;

/// `None` for the embedded server, which does not run yet.
pub fn connect(_config: &Config) -> Result<Option<Box<dyn Remote>>, Problem> {
    Ok(None)
}
