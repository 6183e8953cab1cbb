//! The brain of Shoal, without any input or output of its own.
//!
//! Every decision of the system is taken here: which viewers meet ([`directory`]), who fetches which
//! bytes from the CDN and who passes them on ([`peer`]), when to give a neighbour up. The native
//! agent, the browser (as WebAssembly), the tracker and the simulator drive this same code.
//!
//! # The shape of a machine
//!
//! [`peer::Peer`] and [`directory::Directory`] have the same three calls:
//!
//! ```text
//! new(policy, seed, now)            everything that could vary is an argument
//! handle(now, input, &mut outbox)   run to completion; what is to be done is in the outbox
//! next_wakeup()                     when to call `handle` with `Input::Tick`, and why
//! ```
//!
//! # The contract of `handle`
//!
//! 1. *Run to completion*: after it returns, everything the machine wants is in the outbox; calling
//!    it again at once is legal.
//! 2. *Total*: any input in any state is accepted. The end of a transfer that was cancelled is
//!    normal. A peer's fault becomes an action (`Close`), never an error or a panic.
//! 3. *Late is fine*: ticks may come hours late. `now` never goes back (it is clamped).
//! 4. *Progress*: after `handle(now, ..)`, [`peer::Peer::next_wakeup`] is `None` or later than `now`.
//! 5. *Bounded*: by the constants in [`limits`].
//! 6. *Deterministic*: the same policy, seed and inputs give the same actions on every machine. No
//!    hash-map iteration, no floating point beyond the basic operations.
//!
//! # What never enters
//!
//! Clocks, sources of randomness, sockets, threads, URLs, SDP, and the bytes of segments: drivers
//! keep those and tell the core lengths and verdicts. Cryptography is the drivers' too, but for
//! SHA-256 over names and piece hashes, which is part of the [`record`] format.
#![cfg_attr(not(any(test, feature = "hls", feature = "dash")), no_std)]

extern crate alloc;

pub mod directory;
pub mod id;
pub mod limits;
pub mod peer;
pub mod record;
pub mod rng;
pub mod time;
pub mod timeline;
pub mod wire;
