//! The products together: one file for each promise.

mod drain;
mod hostile_peer;
mod never_worse;
mod players;
mod sharing;
