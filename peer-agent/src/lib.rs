//! Native viewer: WebRTC data channels, HTTP fetch, segment store and a local HTTP endpoint for any player.

pub mod rtc;
