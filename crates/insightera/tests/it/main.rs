//! The binary from outside: streams, exit statuses, files.

mod binary;
mod demo;
mod errors;
mod projects;
