//! `stream --metrics HOST:PORT`: how streams are, where Prometheus asks for it.
//!
//! Of each stream the table, the source and the processes are looked at on
//! threads of their own. So a source that is away, and takes its time to say so,
//! holds up neither the others nor the end of the process, and no request: those
//! are answered with what was found out last, some seconds ago.
//!
//! There is no answer before every stream has been looked at, with what its
//! process here says.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use insightera_engine::stream::{self, LiveStatus, ProcessStatus, SourceStatus, Status, TableStatus, Told};
use insightera_engine::{Error, Workspace};
use tokio::net::{TcpListener, lookup_host};

use crate::printer::Printer;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);
/// And as long as there is nothing to look at.
const SOON: Duration = Duration::from_millis(200);
/// Seconds after which a source that has not answered is away.
const AWAY: f64 = 10.0;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is waited when no connection can be taken.
const PAUSE: Duration = Duration::from_millis(100);
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Streams that are looked at.
type Watched = Arc<Vec<Arc<Watch>>>;

/// A stream that is looked at.
struct Watch {
    workspace: Workspace,
    name: String,
    printer: Printer,
    /// Whether its process here has said how it is.
    told: AtomicBool,
    newest: Mutex<Newest>,
}

/// What was found out last.
#[derive(Default)]
struct Newest {
    table: Option<Arc<TableStatus>>,
    source: Option<SourceStatus>,
    /// Since when the source has been asked and has not answered, monotonic
    /// seconds.
    asked: Option<f64>,
    /// Not before the process here has said how it is: until then a file says
    /// how another one was.
    processes: Option<ProcessStatus>,
}

/// Answers at `address` from now on, until the process ends. Its streams tell
/// the answer how they are.
///
/// # Errors
/// When the address cannot be listened at.
pub async fn serve(
    workspace: &Workspace,
    names: &[String],
    address: &str,
    printer: &Printer,
) -> anyhow::Result<Told<LiveStatus>> {
    let listener = listen(address).await?;
    let place = listener.local_addr().map_or_else(|_| address.to_owned(), |place| place.to_string());
    printer.message(&format!("metrics at http://{place}/metrics"));
    let watch = |name: &String| {
        Arc::new(Watch {
            workspace: workspace.clone(),
            name: name.clone(),
            printer: printer.clone(),
            told: AtomicBool::new(false),
            newest: Mutex::default(),
        })
    };
    let watched: Watched = Arc::new(names.iter().map(watch).collect());
    for watch in watched.iter() {
        repeat(watch, Watch::look_at_table)?;
        repeat(watch, Watch::look_at_source)?;
        repeat(watch, Watch::look_at_processes)?;
    }
    tokio::spawn(answer(listener, watched.clone()));
    Ok(Arc::new(move |live: &LiveStatus| {
        let own = watched.iter().filter(|watch| watch.name == live.pipeline);
        own.for_each(|watch| watch.told.store(true, Ordering::SeqCst));
    }))
}

/// # Errors
/// `Invalid` when there is no such address here.
async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let places: Vec<_> = match lookup_host(address).await {
        Ok(places) => places.collect(),
        Err(e) => {
            return Err(Error::invalid(format!("`--metrics {address}`: the host has no address"))
                .cause(e)
                .hint("name a host that is known here, as in `localhost:9464`, or an address, as in `127.0.0.1:9464`")
                .into());
        }
    };
    match TcpListener::bind(&places[..]).await {
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
            Err(Error::invalid(format!("`--metrics {address}`: the address is not one of this machine"))
                .cause(e)
                .hint("name one of its own, as in `127.0.0.1:9464`, or all of them by `0.0.0.0:9464`")
                .into())
        }
        listener => listener
            .with_context(|| format!("`--metrics {address}`: the address cannot be listened at; name a free port")),
    }
}

/// Looks again and again, on a thread that nobody waits for. What cannot be
/// looked at is told once.
fn repeat(watch: &Arc<Watch>, look: fn(&Watch) -> insightera_engine::Result<Duration>) -> anyhow::Result<()> {
    let watch = watch.clone();
    let run = move || {
        let mut told = None;
        loop {
            let (pause, error) = match look(&watch) {
                Ok(pause) => (pause, None),
                Err(error) => (EVERY, Some(error.to_string())),
            };
            if let Some(error) = error.as_ref().filter(|error| told.as_ref() != Some(*error)) {
                watch.printer.warning(&format!("{}: its metrics are not new: {error}", watch.name));
            }
            told = error;
            std::thread::sleep(pause);
        }
    };
    std::thread::Builder::new().name("metrics".into()).spawn(run).context("no thread for the metrics")?;
    Ok(())
}

impl Watch {
    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at_table(&self) -> insightera_engine::Result<Duration> {
        let table = TableStatus::read(&self.workspace, &self.name)?;
        self.newest().table = Some(Arc::new(table));
        Ok(EVERY)
    }

    /// A source that is away is nothing to warn of: the metrics say it.
    fn look_at_source(&self) -> insightera_engine::Result<Duration> {
        let Some(table) = self.newest().table.clone() else { return Ok(SOON) };
        self.newest().asked = Some(self.workspace.clock().monotonic_seconds());
        let source = SourceStatus::ask(&self.workspace, &table);
        let mut newest = self.newest();
        (newest.source, newest.asked) = (Some(source), None);
        Ok(EVERY)
    }

    fn look_at_processes(&self) -> insightera_engine::Result<Duration> {
        if !self.told.load(Ordering::SeqCst) {
            return Ok(SOON);
        }
        let processes = ProcessStatus::read(&self.workspace, &self.name)?;
        self.newest().processes = Some(processes);
        Ok(EVERY)
    }

    /// How the stream is, once all of it has been looked at.
    fn status(&self) -> Option<Status> {
        let now = self.workspace.clock().monotonic_seconds();
        let newest = self.newest();
        let away = newest.asked.map(|since| now - since).filter(|seconds| *seconds >= AWAY);
        let silent = away.map(|seconds| SourceStatus::failed(format!("it has not answered for {seconds:.0} s")));
        let source = silent.as_ref().or(newest.source.as_ref())?;
        Some(Status::new(newest.table.as_ref()?, source, newest.processes.as_ref()?))
    }
}

async fn answer(listener: TcpListener, watched: Watched) {
    loop {
        // As long as there are too many open files there is none.
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let watched = watched.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = respond(&request, &watched);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // Who hangs up is nobody's trouble but their own.
            let _ = server.serve_connection(TokioIo::new(connection), service).await;
        });
    }
}

fn respond(request: &Request<Incoming>, watched: &Watched) -> Response<Full<Bytes>> {
    let (status, body) = match request.uri().path() {
        "/metrics" => match watched.iter().map(|watch| watch.status()).collect::<Option<Vec<_>>>() {
            Some(statuses) => (StatusCode::OK, stream::exposition(&statuses).into()),
            None => (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"not yet; ask again\n")),
        },
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"metrics are at /metrics\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}
