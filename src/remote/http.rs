//! (being built)
pub struct HttpConfig {}
pub struct HttpRemote {}
pub struct TokenSource {}
