//! WebRTC signals as the compact payloads that the tracker carries.

pub(crate) use swarm_core::wire::session::{decode, encode};
