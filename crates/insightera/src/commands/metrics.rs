//! `stream --metrics ADDRESS`: how streams are, where Prometheus asks for it.
//!
//! `/metrics` answers what was found out last, some seconds ago: a source that
//! is away, and takes its time to say so, holds no request up.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use insightera_engine::Workspace;
use insightera_engine::stream;
use tokio::net::TcpListener;

use crate::printer::Printer;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is waited when no connection can be taken.
const PAUSE: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics that were found out last; none at first.
type Newest = Arc<Mutex<Option<Bytes>>>;

/// Answers at `address` from now on, until the process ends.
///
/// # Errors
/// When the address cannot be listened at.
pub async fn serve(workspace: Workspace, names: Vec<String>, address: SocketAddr, printer: &Printer) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("`--metrics {address}`: the address cannot be listened at; name a free port"))?;
    printer.message(&format!("metrics at http://{}/metrics", listener.local_addr().unwrap_or(address)));
    let newest = Newest::default();
    tokio::spawn(find_out(workspace, names, newest.clone(), printer.clone()));
    tokio::spawn(answer(listener, newest));
    Ok(())
}

/// Looks how streams are, again and again. What cannot be looked at is told once.
async fn find_out(workspace: Workspace, names: Vec<String>, newest: Newest, printer: Printer) {
    let mut told = Vec::new();
    loop {
        let (own, wanted) = (workspace.clone(), names.clone());
        let look = move || wanted.iter().map(|name| stream::status(&own, name)).collect::<Vec<_>>();
        let Ok(found) = tokio::task::spawn_blocking(look).await else { return };
        let (mut statuses, mut errors) = (Vec::new(), Vec::new());
        for (name, status) in names.iter().zip(found) {
            match status {
                Ok(status) => statuses.push(status),
                Err(error) => errors.push(format!("{name}: there are no metrics of it: {error}")),
            }
        }
        errors.iter().filter(|error| !told.contains(*error)).for_each(|error| printer.warning(error));
        told = errors;
        *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream::exposition(&statuses).into());
        tokio::time::sleep(EVERY).await;
    }
}

async fn answer(listener: TcpListener, newest: Newest) {
    loop {
        // As long as there are too many open files there is none.
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let newest = newest.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = respond(&request, &newest);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // Who hangs up is nobody's trouble but their own.
            let _ = server.serve_connection(TokioIo::new(connection), service).await;
        });
    }
}

fn respond(request: &Request<Incoming>, newest: &Newest) -> Response<Full<Bytes>> {
    let found = newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (status, body) = match (request.uri().path(), found) {
        ("/metrics", Some(body)) => (StatusCode::OK, body),
        ("/metrics", None) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"not yet; ask again\n")),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"metrics are at /metrics\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(TEXT));
    response
}
