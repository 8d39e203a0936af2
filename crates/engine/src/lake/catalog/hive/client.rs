//! The calls of a metastore: connections, time-outs, what a server's error means.
//!
//! A connection is used for one call at a time and thrown away at the first
//! sign that it is out of step. What only reads is tried again, on the next
//! server where there are several; what changes something is sent once.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use insightera_core::{Clock, SystemClock};

use super::thrift::{Kind, Message, Record, Value};
use crate::Error;

/// A call that has no answer after this is of unknown outcome.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A server that has not taken a connection after this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a call that only reads.
const READS: u32 = 4;
/// Connections that are kept.
const KEPT: usize = 4;
/// Characters of a server's message that are shown: it can be a whole stack.
const SHOWN: usize = 600;

/// A method and the errors it declares, by the ids of its result's fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    name: &'static str,
    errors: &'static [Told],
    /// Whether it answers with something.
    answers: bool,
}

/// The errors that a metastore declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// There is a thing of that name.
    AlreadyExists,
    /// The thing is not what it should be: names, columns.
    InvalidObject,
    /// What is asked for cannot be done to the thing.
    InvalidOperation,
    /// There is no such thing.
    NoSuchObject,
    /// There is no such lock.
    NoSuchLock,
    /// A transaction's error; locks are taken without one.
    Transaction,
    /// Everything else, failures of the database behind it too.
    Meta,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyExists => "AlreadyExistsException",
            Self::InvalidObject => "InvalidObjectException",
            Self::InvalidOperation => "InvalidOperationException",
            Self::NoSuchObject => "NoSuchObjectException",
            Self::NoSuchLock => "NoSuchLockException",
            Self::Transaction => "TxnException",
            Self::Meta => "MetaException",
        })
    }
}

const fn method(name: &'static str, answers: bool, errors: &'static [Told]) -> Method {
    Method { name, errors, answers }
}

// The errors in the order of their fields, from 1.
pub(super) const GET_ALL_DATABASES: Method = method("get_all_databases", true, &[Told::Meta]);
pub(super) const GET_DATABASE: Method = method("get_database", true, &[Told::NoSuchObject, Told::Meta]);
pub(super) const CREATE_DATABASE: Method =
    method("create_database", false, &[Told::AlreadyExists, Told::InvalidObject, Told::Meta]);
pub(super) const ALTER_DATABASE: Method = method("alter_database", false, &[Told::Meta, Told::NoSuchObject]);
pub(super) const GET_ALL_TABLES: Method = method("get_all_tables", true, &[Told::Meta]);
pub(super) const GET_TABLE_REQ: Method = method("get_table_req", true, &[Told::Meta, Told::NoSuchObject]);
// Before Hive 3; Hive 4 has not got it any more.
pub(super) const GET_TABLE: Method = method("get_table", true, &[Told::Meta, Told::NoSuchObject]);
pub(super) const GET_TABLES_REQ: Method =
    method("get_table_objects_by_name_req", true, &[Told::Meta, Told::InvalidOperation, Told::NoSuchObject]);
pub(super) const GET_TABLES: Method =
    method("get_table_objects_by_name", true, &[Told::Meta, Told::InvalidOperation, Told::NoSuchObject]);
pub(super) const CREATE_TABLE: Method =
    method("create_table", false, &[Told::AlreadyExists, Told::InvalidObject, Told::Meta, Told::NoSuchObject]);
pub(super) const DROP_TABLE: Method = method("drop_table", false, &[Told::NoSuchObject, Told::Meta]);
pub(super) const ALTER_TABLE: Method =
    method("alter_table_with_environment_context", false, &[Told::InvalidOperation, Told::Meta]);
pub(super) const LOCK: Method = method("lock", true, &[Told::Transaction, Told::Transaction]);
pub(super) const CHECK_LOCK: Method =
    method("check_lock", true, &[Told::Transaction, Told::Transaction, Told::NoSuchLock]);
pub(super) const UNLOCK: Method = method("unlock", false, &[Told::NoSuchLock, Told::Transaction]);
pub(super) const HEARTBEAT: Method =
    method("heartbeat", false, &[Told::NoSuchLock, Told::Transaction, Told::Transaction]);
pub(super) const SHOW_LOCKS: Method = method("show_locks", true, &[]);
const SET_UGI: Method = method("set_ugi", true, &[Told::Meta]);

/// Why there is no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server declared it.
    Told(Told, Error),
    /// The server has no such method: nothing was done.
    NoMethod(Error),
    /// No answer, one that cannot be read, or the server's word that it failed.
    Lost(Error),
}

impl Failure {
    /// The error alone.
    pub fn error(self) -> Error {
        match self {
            Self::Told(_, error) | Self::NoMethod(error) | Self::Lost(error) => error,
        }
    }
}

/// A result; none of a method that answers nothing.
pub(super) type Answer = Result<Option<Value>, Failure>;

/// Talks to the servers of one metastore.
pub(super) struct Client {
    /// `host:port` of each.
    servers: Vec<String>,
    user: Option<String>,
    /// The server that answered last.
    first: AtomicUsize,
    kept: Mutex<Vec<Connection>>,
    timeout: Duration,
    clock: SystemClock,
}

/// One connection; calls on it go out one after the other.
pub(super) struct Connection {
    stream: BufReader<Timed>,
    server: String,
    sequence: i32,
    broken: bool,
}

/// A stream whose reads end at a moment, however slowly they trickle in.
struct Timed {
    stream: TcpStream,
    clock: SystemClock,
    end: f64,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end - self.clock.monotonic_seconds();
        if left <= 0.0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(Duration::from_secs_f64(left.max(0.001))))?;
        self.stream.read(buffer)
    }
}

impl Client {
    /// A client of the servers, each `host:port`. Nothing is sent yet.
    pub fn new(servers: Vec<String>, user: Option<String>) -> Self {
        Self {
            servers,
            user,
            first: AtomicUsize::new(0),
            kept: Mutex::default(),
            timeout: TIMEOUT,
            clock: SystemClock::new(),
        }
    }

    /// The same with another time-out of calls.
    #[cfg(test)]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The servers, for people.
    pub fn shown(&self) -> String {
        self.servers.join(", ")
    }

    /// Seconds since the client was made.
    pub fn seconds(&self) -> f64 {
        self.clock.monotonic_seconds()
    }

    /// A connection that answers: one that was kept is tried first.
    pub fn connection(&self) -> Result<Connection, Error> {
        while let Some(mut kept) = self.pop() {
            // The cheapest call there is tells whether the server is still there.
            let asked = kept.call(self.timeout, &GET_DATABASE, Record::new([(1, Value::text("default"))]));
            if !matches!(asked, Err(Failure::Lost(_))) {
                return Ok(kept);
            }
        }
        self.connect()
    }

    /// Gives a connection back.
    pub fn keep(&self, connection: Connection) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !connection.broken && kept.len() < KEPT {
            kept.push(connection);
        }
    }

    fn pop(&self) -> Option<Connection> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn connect(&self) -> Result<Connection, Error> {
        let mut told = Vec::new();
        let first = self.first.load(Ordering::Relaxed);
        for at in 0..self.servers.len() {
            let at = (first + at) % self.servers.len();
            match self.connect_to(&self.servers[at]) {
                Ok(connection) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => told.push(error),
            }
        }
        Err(Error::unavailable(format!("the Hive Metastore cannot be reached: {}", told.join("; ")))
            .hint("is it running, and is `uri` of [catalog] right?"))
    }

    fn connect_to(&self, server: &str) -> Result<Connection, String> {
        let shown = |error: io::Error| format!("`{server}`: {error}");
        let mut last = None;
        for address in server.to_socket_addrs().map_err(shown)? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    let prepared = stream.set_nodelay(true).and_then(|()| stream.set_write_timeout(Some(self.timeout)));
                    prepared.map_err(shown)?;
                    let timed = Timed { stream, clock: self.clock, end: 0.0 };
                    let stream = BufReader::with_capacity(64 << 10, timed);
                    let mut connection = Connection { stream, server: server.to_owned(), sequence: 0, broken: false };
                    if let Some(user) = &self.user {
                        let user = [(1, Value::text(user)), (2, Value::texts(Vec::<String>::new()))];
                        connection
                            .call(self.timeout, &SET_UGI, Record::new(user))
                            .map_err(|failure| failure.error().to_string())?;
                    }
                    return Ok(connection);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| format!("`{server}`: the name has no address"), shown))
    }

    /// Calls on a connection of the caller's, once.
    pub fn call(&self, connection: &mut Connection, method: &Method, arguments: Record) -> Answer {
        connection.call(self.timeout, method, arguments)
    }

    /// Calls what may be said twice: what only reads, a heartbeat, an unlock.
    /// Tries again while there is no answer.
    pub fn repeat(&self, method: &Method, arguments: &Record) -> Answer {
        let mut pause = Duration::from_millis(100);
        let mut tries = 0;
        loop {
            let kept = self.pop();
            let was_kept = kept.is_some();
            let answer = match kept.map_or_else(|| self.connect(), Ok) {
                Ok(mut connection) => {
                    let answer = self.call(&mut connection, method, arguments.clone());
                    self.keep(connection);
                    answer
                }
                Err(error) => Err(Failure::Lost(error)),
            };
            match answer {
                // Servers close connections that are idle.
                Err(Failure::Lost(_)) if was_kept => {}
                Err(Failure::Lost(_)) if tries + 1 < READS => {
                    tries += 1;
                    std::thread::sleep(pause);
                    pause *= 3;
                }
                other => return other,
            }
        }
    }
}

impl Connection {
    fn call(&mut self, timeout: Duration, method: &Method, arguments: Record) -> Answer {
        if self.broken {
            return Err(Failure::Lost(self.error(method, "the connection is out of step")));
        }
        self.sequence = self.sequence.wrapping_add(1);
        let call = Message { kind: Kind::Call, method: method.name.into(), sequence: self.sequence, body: arguments };
        // Until the answer is whole.
        self.broken = true;
        let reply = match self.exchange(timeout, &call.encode()) {
            Ok(reply) => reply,
            Err(error) => {
                let text = match error.kind() {
                    io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                        format!("there was no answer within {} s", timeout.as_secs_f64())
                    }
                    io::ErrorKind::UnexpectedEof => "the connection ended before the answer".to_owned(),
                    _ => error.to_string(),
                };
                let mut told = self.error(method, &text);
                if error.kind() == io::ErrorKind::InvalidData || error.kind() == io::ErrorKind::UnexpectedEof {
                    told = told.hint(
                        "is `uri` of [catalog] the address of a Hive Metastore that speaks Thrift's binary protocol, \
                         without Kerberos, TLS, framing or HTTP?",
                    );
                }
                return Err(Failure::Lost(told.cause(error)));
            }
        };
        if reply.sequence != self.sequence || reply.kind == Kind::Call {
            return Err(Failure::Lost(self.error(method, "the answer is that of another call")));
        }
        if reply.kind == Kind::Exception {
            let text = shortened(reply.body.text(1).unwrap_or("no reason is given"));
            // The server may have thrown before or after it acted; with an
            // unknown method it has not.
            self.broken = reply.body.int(2) != Some(1);
            let error = self.error(method, &text);
            return Err(if self.broken { Failure::Lost(error) } else { Failure::NoMethod(error) });
        }
        if reply.method != method.name {
            return Err(Failure::Lost(self.error(method, "the answer is that of another method")));
        }
        self.broken = !self.stream.buffer().is_empty();
        for (id, told) in (1..).zip(method.errors) {
            if let Some(exception) = reply.body.record(id) {
                let text = shortened(exception.text(1).unwrap_or("no reason is given"));
                return Err(Failure::Told(*told, self.told(method, *told, &text)));
            }
        }
        match reply.body.get(0) {
            Some(value) => Ok(Some(value.clone())),
            None if method.answers => Err(Failure::Lost(self.error(method, "the answer has no result"))),
            None => Ok(None),
        }
    }

    fn exchange(&mut self, timeout: Duration, call: &[u8]) -> io::Result<Message> {
        let timed = self.stream.get_mut();
        timed.end = timed.clock.monotonic_seconds() + timeout.as_secs_f64();
        timed.stream.write_all(call)?;
        Message::decode(&mut self.stream)
    }

    fn error(&self, method: &Method, text: &str) -> Error {
        Error::unavailable(format!("the Hive Metastore at `{}` did not answer `{}`: {text}", self.server, method.name))
    }

    fn told(&self, method: &Method, told: Told, text: &str) -> Error {
        let message = format!("the Hive Metastore at `{}` refused `{}` with {told}: {text}", self.server, method.name);
        match told {
            Told::AlreadyExists => Error::conflict(message),
            Told::NoSuchObject => Error::not_found(message),
            Told::InvalidObject | Told::InvalidOperation => Error::invalid(message),
            Told::NoSuchLock | Told::Transaction | Told::Meta => Error::unavailable(message),
        }
    }
}

/// The beginning of a server's message, on one line.
fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
