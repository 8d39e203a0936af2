//! Events per second of the stream's windows, on one core.
//!
//! `cargo run --release -p insightera-core --example stream_speed [keys] [events]`:
//! count and filtered count over seven day tiles, in batches of 4,096, and the
//! bytes and seconds of checkpoints. Where Linux tells it, the seconds that the
//! thread was on a core count, so that a busy machine says the same.

#![expect(clippy::print_stdout, reason = "it prints its measurement")]

use insightera_core::stream::{
    Aggregate, Batch, Bits, Column, ColumnType, Coverage, EachEvent, Function, KeyType, Keys, LatePolicy, OnClose,
    Plan, Settings, Strings, Values, Window, WindowSet, close,
};
use insightera_core::{Clock, SystemClock};

const DAY: i64 = 86_400_000_000;
const BATCH: usize = 4_096;

/// Seconds on a core, or of the clock.
struct Stopwatch(SystemClock);

impl Stopwatch {
    fn new() -> Self {
        Self(SystemClock::new())
    }

    fn seconds(&self) -> f64 {
        let on_core = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        let nanoseconds = on_core.as_deref().and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        nanoseconds.map_or_else(|| self.0.monotonic_seconds(), |nanoseconds| nanoseconds / 1e9)
    }
}

/// Events as columns.
struct Events {
    offsets: Vec<i64>,
    times: Vec<i64>,
    ids: Vec<u64>,
    name_offsets: Vec<i32>,
    names: Vec<u8>,
    flags: Vec<u8>,
}

/// Events over 30 days, each up to an hour late.
fn events(keys: u64, from: usize, count: usize, of: usize) -> Events {
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_add(from as u64);
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut events = Events {
        offsets: (from as i64..(from + count) as i64).collect(),
        times: Vec::new(),
        ids: Vec::new(),
        name_offsets: vec![0],
        names: Vec::new(),
        flags: (0..count.div_ceil(8)).map(|_| random() as u8).collect(),
    };
    for at in from..from + count {
        let now = (30.0 * DAY as f64 * at as f64 / of as f64) as i64;
        events.times.push(now - (random() % 3_600_000_000) as i64);
        let id = random() % keys;
        events.ids.push(id);
        events.names.extend_from_slice(format!("{id:010}").as_bytes());
        events.name_offsets.push(events.names.len() as i32);
    }
    events
}

fn plan(window: Window, key: KeyType) -> std::sync::Arc<Plan> {
    let count =
        |name: &str, filter| Aggregate { name: name.to_owned(), function: Function::Count, argument: None, filter };
    let settings = Settings {
        keys: vec![key],
        columns: vec![ColumnType::Boolean],
        sets: vec![WindowSet {
            name: "seven days".to_owned(),
            key: 0,
            window,
            aggregates: vec![count("events", None), count("attended", Some(0))],
        }],
        meaning: 0,
        allowed_lateness: DAY,
        max_future: DAY,
        late: LatePolicy::SideOutput,
        max_state_bytes: 4 << 30,
    };
    Plan::new(settings).expect("good settings")
}

/// Calls `each` with every batch, and gives the seconds spent in it.
fn run(keys: u64, count: usize, key: KeyType, mut each: impl FnMut(&Batch<'_>)) -> f64 {
    let clock = Stopwatch::new();
    let mut seconds = 0.0;
    for part in (0..count).step_by(1 << 20) {
        let part_count = (1 << 20).min(count - part);
        let events = events(keys, part, part_count, count);
        let started = clock.seconds();
        for from in (0..part_count).step_by(BATCH) {
            let to = (from + BATCH).min(part_count);
            let column = Column { values: Values::Boolean(Bits::new(&events.flags, from)), valid: None };
            let keys = match key {
                KeyType::Id => Keys::Ids(&events.ids[from..to]),
                KeyType::Bytes => Keys::Bytes(Strings::new(&events.name_offsets[from..=to], &events.names)),
            };
            each(&Batch {
                partition: 0,
                offsets: &events.offsets[from..to],
                event_times: &events.times[from..to],
                arrivals: &events.times[from..to],
                keys: &[keys],
                columns: &[column],
            });
        }
        seconds += clock.seconds() - started;
    }
    seconds
}

fn main() {
    let clock = Stopwatch::new();
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let keys = arguments.next().unwrap_or(100_000);
    let count = arguments.next().unwrap_or(20_000_000) as usize;
    let rolling = Window::Rolling { tile: DAY, tiles: 7, offset: 0 };
    for key in [KeyType::Id, KeyType::Bytes] {
        let plan = plan(rolling, key);
        let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
        let mut out = plan.event_output();
        let mut check = 0i64;
        let seconds = run(keys, count, key, |batch| {
            out.clear();
            state.process(batch, 0, &mut |_| Ok(Vec::new()), &mut out).expect("good events");
            check = check.wrapping_add(out.sets[0].window_ends[0]);
        });
        let each = state.state_bytes() as f64 / state.keys() as f64;
        println!(
            "each_event, {key:?} keys: {:.2} million events/s, {} keys, {each:.0} bytes per key ({check:x})",
            count as f64 / seconds / 1e6,
            state.keys(),
        );
        let started = clock.seconds();
        let bytes = state.checkpoint();
        let wrote = clock.seconds() - started;
        let started = clock.seconds();
        let restored = EachEvent::restore(&plan, &bytes).expect("its own checkpoint");
        println!(
            "    checkpoint: {:.1} bytes per key, written in {wrote:.3} s, restored in {:.3} s",
            bytes.len() as f64 / restored.keys() as f64,
            clock.seconds() - started
        );
    }
    let plan = plan(Window::Hopping { size: 7 * DAY, slide: DAY, offset: 0 }, KeyType::Id);
    let mut state = OnClose::new(&plan, 0, 0, Coverage::Everything).expect("no late policy");
    let (mut out, mut rows, mut closed) = (Vec::new(), plan.closed_output(), 0);
    let count = count / 4;
    let seconds = run(keys, count, KeyType::Id, |batch| {
        out.clear();
        state.process(batch, 0, &mut out).expect("good events");
        if let Some(watermark) = state.watermark() {
            close(&mut [&mut state], watermark, &mut rows);
        }
        closed += rows[0].len();
        rows[0].clear();
    });
    println!(
        "on_close, 7 days sliding by one: {:.2} million events/s, {closed} rows, {:.0} bytes per key of {} windows",
        count as f64 / seconds / 1e6,
        state.state_bytes() as f64 / keys as f64,
        state.windows(),
    );
}
