//! (being built)
use std::path::{Path, PathBuf};
pub struct ServerConfig {
    pub data_dir: PathBuf,
}
impl ServerConfig {
    pub fn embedded(p: &Path) -> ServerConfig {
        ServerConfig { data_dir: p.into() }
    }
}
pub struct ServerHandle {}
impl ServerHandle {
    pub fn url(&self) -> &str {
        ""
    }
    pub fn token(&self) -> &str {
        ""
    }
    pub fn shutdown(self) {}
}
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("in use")]
    InUse { url: Option<String> },
}
pub fn start(_: ServerConfig) -> Result<ServerHandle, ServerError> {
    Err(ServerError::InUse { url: None })
}
