//! The binary from outside: streams, exit statuses, files.

mod binary;
mod errors;
mod projects;
