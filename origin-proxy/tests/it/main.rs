//! The proxy between real sockets: a test origin behind it, viewers before it.

mod abuse;
mod acme;
mod cache;
mod clients;
mod dash;
mod elsewhere;
mod faults;
mod hostile;
mod https;
mod limits;
mod live_source;
mod lossless;
mod lowlatency;
mod operating;
mod ranges;
mod raw2;
mod records;
mod restart;
mod rotation;
mod rules;
mod support;
mod terminate;
mod upstream;
mod versions;
mod visits;
