//! The proxy between real sockets: a test origin behind it, viewers before it.

mod acme;
mod cache;
mod clients;
mod confirmed;
mod dash;
mod elsewhere;
mod failures;
mod faults;
mod hostile;
mod keys;
mod live_source;
mod lossless;
mod lowlatency;
mod operating;
mod ranges;
mod records;
mod restart;
mod rotation;
mod rules;
mod support;
mod terminate;
mod upstream;
mod versions;
mod visits;
