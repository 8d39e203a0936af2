//! A webhook that fails, refuses, hangs and asks for time: a server in this
//! process.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use insightera_core::SystemClock;
use serde_json::Value;

use super::super::receiver::tests::watch;
use super::*;

/// What came: the status it was answered with, its key and its body.
type Came = Arc<Mutex<Vec<(u16, String, Value)>>>;

/// Answers `answers` one after the other (a status, and more lines of the
/// head), and then 200; 0 is no answer at all.
struct Server {
    url: String,
    came: Came,
}

impl Server {
    fn start(answers: &[(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}/secret-token", listener.local_addr().unwrap().port());
        let (came, answers) = (Came::default(), Arc::new(Mutex::new(VecDeque::from(answers.to_vec()))));
        let own = came.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (came, answers) = (own.clone(), answers.clone());
                std::thread::spawn(move || while answer(&stream, &came, &answers).is_some() {});
            }
        });
        Self { url, came }
    }

    fn open(&self, timeout: i64) -> (LiveWebhook, Arc<Receiver>) {
        let (watch, _) = watch(Arc::new(SystemClock::new()));
        LiveWebhook::open(&Secret::new(&self.url), timeout, watch).unwrap()
    }

    /// The offsets of what it took, request by request.
    fn taken(&self) -> Vec<Vec<i64>> {
        let offset = |one: &Value| one["id"].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
        let offsets = |body: &Value| body["predictions"].as_array().unwrap().iter().map(offset).collect();
        let came = self.came.lock().unwrap();
        came.iter().filter(|(status, ..)| *status == 200).map(|(.., body)| offsets(body)).collect()
    }
}

/// Reads a request and answers it; none when there are no more.
fn answer(mut stream: &TcpStream, came: &Came, answers: &Mutex<VecDeque<(u16, &'static str)>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut key, mut line) = (0, String::new(), String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "idempotency-key" => key = value.to_owned(),
            _ => {}
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (status, head) = answers.lock().unwrap().pop_front().unwrap_or((200, ""));
    came.lock().unwrap().push((status, key, serde_json::from_slice(&body).unwrap()));
    if status == 0 {
        std::thread::sleep(Duration::from_secs(5));
        return None;
    }
    let said = if status == 200 { "" } else { "no\r\n such thing" };
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{head}\r\n{said}", said.len()).ok()
}

fn send(webhook: &LiveWebhook, sent: &Sent, from: i64, count: usize) -> Result<()> {
    let value = Int64Array::from_iter_values((0..count).map(|row| row as i64));
    let rows = RecordBatch::try_from_iter([("value", Arc::new(value) as ArrayRef)]).unwrap();
    let places: Vec<(u32, i64)> = (0..count).map(|row| (0, from + row as i64)).collect();
    sent.add(count);
    webhook.send(sent, &insightera_events::lines(&rows).unwrap(), &places)
}

#[test]
fn what_is_not_taken_is_sent_again_in_order_with_the_same_key() {
    let server = Server::start(&[(503, ""), (200, ""), (429, "retry-after: 1\r\n"), (0, ""), (500, "")]);
    let (webhook, receiver) = server.open(1_500_000);
    let sent = Sent::new(&receiver);
    let began = receiver.watch.clock.monotonic_seconds();
    for poll in 0..5 {
        send(&webhook, &sent, 500 * poll, 500).unwrap();
    }
    sent.wait().unwrap();
    assert!(receiver.watch.clock.monotonic_seconds() - began >= 1.0, "it asked for a second");
    assert_eq!(server.taken().concat(), (0..2500).collect::<Vec<i64>>());
    let came = server.came.lock().unwrap();
    for pair in came.windows(2) {
        // A request that was not taken comes again, whole.
        assert_eq!(pair[0].0 != 200, pair[0].1 == pair[1].1);
        assert!(pair[0].0 == 200 || pair[0].2 == pair[1].2);
    }
    assert!(came[0].1.starts_with("live/0/0-live/0/") && came[0].1.ends_with("-run-1"), "{}", came[0].1);
    assert_eq!(receiver.waiting(), 0);
}

#[test]
fn a_refusal_ends_the_stream_and_shows_no_secret() {
    let server = Server::start(&[(200, ""), (400, "")]);
    let (webhook, receiver) = server.open(5_000_000);
    let (first, second) = (Sent::new(&receiver), Sent::new(&receiver));
    send(&webhook, &first, 0, 1).unwrap();
    first.wait().unwrap();
    send(&webhook, &second, 7, 2).unwrap();
    let error = second.wait().unwrap_err();
    let text = format!("{error} {}", error.get_hint().unwrap());
    let says = [
        "refused the predictions `live/0/7` to `live/0/8`",
        "400",
        "no such thing",
        "nothing is lost",
        "http://127.0.0.1:",
    ];
    assert!(error.kind() == ErrorKind::Invalid && says.iter().all(|says| text.contains(says)), "{text}");
    assert!(!text.contains("secret-token"), "{text}");
    assert!(receiver.refusal().is_err());
}

#[test]
fn nobody_there_is_waited_for_until_the_stream_is_told_to_stop() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server { url: format!("http://{nobody}/secret-token"), came: Came::default() };
    let (webhook, receiver) = server.open(5_000_000);
    let sent = Sent::new(&receiver);
    send(&webhook, &sent, 0, 3).unwrap();
    std::thread::scope(|threads| {
        let waits = threads.spawn(|| sent.wait());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waits.is_finished());
        receiver.watch.stop.store(true, Ordering::SeqCst);
        let error = waits.join().unwrap().unwrap_err();
        assert!(error.retryable() && error.to_string().contains("onnect"), "{error}");
        assert!(!error.to_string().contains("secret-token"), "{error}");
    });
}
