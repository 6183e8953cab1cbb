//! The agent against a live origin: its endpoint, its virtual player, and players that people use.

mod bench;
mod endpoint;
mod playback;
mod players;
