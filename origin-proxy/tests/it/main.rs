//! The proxy between real sockets: a test origin behind it, viewers before it.

mod cache;
mod faults;
mod hostile;
mod live_source;
mod lowlatency;
mod operating;
mod records;
mod restart;
mod rules;
mod support;
mod versions;
