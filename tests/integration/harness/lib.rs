//! A whole Shoal on loopback: source, proxy, tracker and viewers in one process, each of them the
//! real thing on real sockets, each to be stopped and started at will.

mod edge;
mod part;
mod stack;
mod trackers;
mod turn;
mod viewer;

pub use edge::Edge;
pub use stack::{Stack, StackOptions};
pub use trackers::OwnTracker;
pub use turn::{TURN_SECRET, TurnServer};
pub use viewer::{Viewer, share_of_peers, wait_for};
