//! A connection to the remote of a configuration, for the checks that are made before a mount.

use crate::config::{Config, RemoteChoice};
use crate::mount::http_remote;
use crate::preflight::Problem;
use crate::remote::Remote;

/// `None` for the embedded server, which does not run yet.
pub fn connect(config: &Config) -> Result<Option<Box<dyn Remote>>, Problem> {
    match &config.remote {
        RemoteChoice::Embedded { .. } => Ok(None),
        RemoteChoice::Http { base_url, token, .. } => Ok(Some(Box::new(http_remote(config, base_url, token.source())?))),
    }
}
