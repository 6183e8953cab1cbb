//! Who may join: the seam for tokens and permission providers.

use std::net::IpAddr;

use async_trait::async_trait;
use swarm_core::{id::StreamId, wire::tracker::RefusalCode};

/// A viewer that wants to join.
#[derive(Clone, Copy, Debug)]
pub struct JoinRequest<'a> {
    /// Which stream.
    pub stream: StreamId,
    /// The token that it brings; may be empty.
    pub token: &'a [u8],
    /// Its address.
    pub address: IpAddr,
}

/// Decides who may join. Asked once for each connection, before anything is kept of the viewer.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Whether the viewer may join.
    ///
    /// # Errors
    /// The code that the viewer is refused with.
    async fn admit(&self, request: JoinRequest<'_>) -> Result<(), RefusalCode>;
}

/// Everybody may join.
#[derive(Clone, Copy, Debug)]
pub struct Open;

#[async_trait]
impl Admission for Open {
    async fn admit(&self, _: JoinRequest<'_>) -> Result<(), RefusalCode> {
        Ok(())
    }
}

/// Whoever knows the token may join.
#[derive(Clone, Debug)]
pub struct SharedToken(pub String);

#[async_trait]
impl Admission for SharedToken {
    async fn admit(&self, request: JoinRequest<'_>) -> Result<(), RefusalCode> {
        if same(request.token, self.0.as_bytes()) {
            Ok(())
        } else {
            Err(RefusalCode::BadToken)
        }
    }
}

/// Whether two secrets are the same, in a time that tells nothing about where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    a.len() == b.len() && differences == 0
}
