//! (being built)
use super::*;
pub struct HttpConfig { pub base_url: String, pub workspace: String, pub remote_root: RemotePath, pub token: TokenSource, pub timeout: std::time::Duration }
impl HttpConfig { pub fn new(b: &str, w: &str, r: RemotePath, t: TokenSource) -> HttpConfig { HttpConfig { base_url: b.into(), workspace: w.into(), remote_root: r, token: t, timeout: std::time::Duration::from_secs(30) } } }
pub struct HttpRemote {}
impl HttpRemote { pub fn new(_: HttpConfig) -> Result<HttpRemote, String> { Err("".into()) } }
#[derive(Clone)]
pub enum TokenSource { Literal(String), File(std::path::PathBuf) }
impl Remote for HttpRemote {
    fn health(&self) -> Result<(), RemoteError> { todo!() }
    fn tree(&self, _: &RemotePath, _: Depth, _: Option<&str>) -> Result<TreePage, RemoteError> { todo!() }
    fn get(&self, _: &RemotePath) -> Result<RemoteFile, RemoteError> { todo!() }
    fn export(&self, _: &RemotePath) -> Result<Vec<RemoteFile>, RemoteError> { todo!() }
    fn put(&self, _: &RemotePath, _: &[u8], _: &str, _: &Precondition, _: &OpId) -> Result<Accepted, RemoteError> { todo!() }
    fn delete(&self, _: &RemotePath, _: &Revision, _: &OpId) -> Result<Accepted, RemoteError> { todo!() }
    fn events(&self, _: Option<&str>) -> Result<EventPage, RemoteError> { todo!() }
    fn newest_event(&self) -> Result<Option<String>, RemoteError> { todo!() }
}
