//! The proxy between real sockets: a test origin behind it, viewers before it.

mod cache;
mod hostile;
mod live_source;
mod records;
mod support;
