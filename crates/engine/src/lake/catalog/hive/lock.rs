//! The metastore's exclusive lock of a table, which every writer of Iceberg
//! takes: asked for, waited for, kept by a heartbeat, given back at every end.
//!
//! A process that is killed leaves its lock; the server lets it go after
//! `hive.txn.timeout`, five minutes if nobody has set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use uuid::Uuid;

use super::client::{CHECK_LOCK, Client, Connection, Failure, HEARTBEAT, LOCK, SHOW_LOCKS, UNLOCK};
use super::thrift::{Record, Value};
use crate::lake::catalog::Swap;
use crate::lake::table::TableName;
use crate::{Error, Result};

/// How long others may hold a lock before one gives up, in seconds.
const PATIENCE: f64 = 180.0;
/// Between two signs of life.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);
/// Longest pause between two questions whether a lock is free.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

const EXCLUSIVE: i32 = 3;
const LEVEL_TABLE: i32 = 2;
const ACQUIRED: i32 = 1;
const WAITING: i32 = 2;

/// A lock that is held; it is given back when this is dropped.
pub(super) struct Held {
    client: Arc<Client>,
    id: i64,
    alive: Arc<AtomicBool>,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Asks for a table's lock and waits until it is free.
///
/// # Errors
/// Unknown when the server does not answer; refused when it has no locks, or
/// others hold it for longer than three minutes. Nothing is changed then, and
/// the lock is given back where it was given.
pub(super) fn acquire(
    client: &Arc<Client>,
    connection: &mut Connection,
    table: &TableName,
    user: &str,
) -> Result<Held, Swap> {
    let agent = format!("insightera-{}", Uuid::new_v4());
    let component = Record::new([
        (1, Value::Int(EXCLUSIVE)),
        (2, Value::Int(LEVEL_TABLE)),
        (3, Value::text(&table.namespace)),
        (4, Value::text(&table.name)),
    ]);
    let request = Record::new([
        (1, Value::records([component])),
        (3, Value::text(user)),
        (4, Value::text(host())),
        (5, Value::text(&agent)),
    ]);
    let answer = match client.call(connection, &LOCK, wrapped(request)) {
        Ok(answer) => answer,
        Err(Failure::Lost(error)) => {
            forsake(client, table, &agent);
            return Err(Swap::Unknown(error.hint(
                "if it gives no locks at all: its database needs the tables of Hive's schematool; with Hive 4, \
                 `lock = false` in [catalog] does without",
            )));
        }
        Err(failure) => return Err(Swap::Refused(failure.error())),
    };
    let (id, mut state) = lock_of(answer.as_ref()).map_err(Swap::Unknown)?;
    // From here on the lock is given back.
    let mut held = Held { client: client.clone(), id, alive: Arc::new(AtomicBool::new(true)), heart: None };
    let (start, mut pause) = (client.seconds(), Duration::from_millis(50));
    while state == WAITING {
        if client.seconds() - start > PATIENCE {
            return Err(Swap::Refused(
                Error::unavailable(format!(
                    "others have held the lock of table `{table}` in the Hive Metastore at `{}` for {PATIENCE} s",
                    client.shown()
                ))
                .hint(
                    "run again; a writer that was killed holds its lock until the server lets it go \
                 (`hive.txn.timeout`, five minutes)",
                ),
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        let question = Record::new([(1, Value::Long(id))]);
        let answer = client.repeat(&CHECK_LOCK, &wrapped(question)).map_err(|f| Swap::Unknown(f.error()))?;
        state = lock_of(answer.as_ref()).map_err(Swap::Unknown)?.1;
    }
    if state != ACQUIRED {
        return Err(Swap::Refused(Error::unavailable(format!(
            "the Hive Metastore at `{}` does not give the lock of table `{table}`: state {state}",
            client.shown()
        ))));
    }
    held.beat().map_err(Swap::Refused)?;
    Ok(held)
}

impl Held {
    fn beat(&mut self) -> Result<()> {
        let (stop, stopped) = channel::<()>();
        let (client, id, alive) = (self.client.clone(), self.id, self.alive.clone());
        let run = move || {
            while stopped.recv_timeout(HEARTBEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
                let sign = wrapped(Record::new([(1, Value::Long(id))]));
                if client.repeat(&HEARTBEAT, &sign).is_err() {
                    alive.store(false, Ordering::SeqCst);
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("hive lock".into()).spawn(run);
        let thread = thread.map_err(|e| Error::unavailable(format!("no thread could be started: {e}")).cause(e))?;
        self.heart = Some((stop, thread));
        Ok(())
    }

    /// Whether the server has heard every sign of life.
    ///
    /// # Errors
    /// When it has not: others may hold the lock.
    pub fn check(&self) -> Result<()> {
        if self.alive.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "the Hive Metastore at `{}` has let go of the lock of a table before it was given back",
            self.client.shown()
        )))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.heart.take() {
            drop(stop);
            let _ = thread.join();
        }
        // One that cannot be given back ends by itself.
        let _ = self.client.repeat(&UNLOCK, &wrapped(Record::new([(1, Value::Long(self.id))])));
    }
}

/// Gives back a lock whose number was lost with the answer.
fn forsake(client: &Client, table: &TableName, agent: &str) {
    let question = Record::new([(1, Value::text(&table.namespace)), (2, Value::text(&table.name))]);
    let Ok(Some(Value::Record(answer))) = client.repeat(&SHOW_LOCKS, &wrapped(question)) else { return };
    let locks = answer.get(1).and_then(Value::as_list).unwrap_or_default();
    for lock in locks {
        if let Value::Record(lock) = lock
            && lock.text(13) == Some(agent)
            && let Some(id) = lock.long(1)
        {
            let _ = client.repeat(&UNLOCK, &wrapped(Record::new([(1, Value::Long(id))])));
        }
    }
}

/// The number and the state of a lock.
fn lock_of(answer: Option<&Value>) -> Result<(i64, i32)> {
    let found = match answer {
        Some(Value::Record(lock)) => lock.long(1).zip(lock.int(2)),
        _ => None,
    };
    found.ok_or_else(|| Error::unavailable("the Hive Metastore answered with a lock that has no number or no state"))
}

/// A request as a method's only argument.
fn wrapped(request: Record) -> Record {
    Record::new([(1, Value::Record(request))])
}

/// The machine's name, for those who look at the locks.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
