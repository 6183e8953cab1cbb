//! The products together: one file for each promise.

mod clients;
mod drain;
mod elsewhere;
mod faulty_origin;
mod hostile_peer;
mod never_worse;
mod players;
mod progressive;
mod relays;
mod sharing;
