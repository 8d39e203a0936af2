//! A metastore that does what it is told, and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::super::thrift::{Kind, Message, Record, Value};
use super::super::{DATABASE_PARAMETERS, entry};

/// What becomes of the next call of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not arrive.
    LostBefore,
    /// It is carried out, and the answer does not arrive.
    LostAfter,
    /// Something else is answered.
    Garbage(&'static [u8]),
    /// Nothing is ever answered.
    Silence,
    /// Somebody who takes no lock changes the entry first.
    Overtaken,
}

#[derive(Default)]
pub struct State {
    pub databases: BTreeMap<String, Record>,
    pub tables: BTreeMap<(String, String), Record>,
    /// Locks by number, the first of a table has it.
    pub locks: BTreeMap<i64, (String, String)>,
    pub agents: BTreeMap<i64, String>,
    pub faults: Vec<(&'static str, Fault)>,
    pub calls: Vec<String>,
    pub missing: BTreeSet<&'static str>,
    /// Whether an alteration is compared with what it expects.
    pub compares: bool,
    /// Whether the database is one that cannot compare.
    pub derby: bool,
    next_lock: i64,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    pub server: String,
}

type Outcome = Result<Option<Value>, (i16, String)>;

impl Fake {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { compares: true, ..State::default() }));
        let default = Record::new([(1, Value::text("default"))]);
        state.lock().unwrap().databases.insert("default".into(), default);
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { state, server }
    }

    pub fn count(&self, method: &str) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|call| *call == method).count()
    }

    pub fn fail(&self, method: &'static str, fault: Fault) {
        self.state.lock().unwrap().faults.push((method, fault));
    }

    pub fn table(&self, namespace: &str, name: &str) -> Record {
        self.state.lock().unwrap().tables[&(namespace.to_owned(), name.to_owned())].clone()
    }

    pub fn locks(&self) -> usize {
        self.state.lock().unwrap().locks.len()
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    while let Ok(call) = Message::decode(&mut reader) {
        let answer = {
            let mut state = state.lock().unwrap();
            state.calls.push(call.method.clone());
            let fault = state.faults.iter().position(|(method, _)| *method == call.method);
            let fault = fault.map(|at| state.faults.remove(at).1);
            match fault {
                Some(Fault::LostBefore) => return,
                Some(Fault::Garbage(bytes)) => bytes.to_vec(),
                Some(Fault::Silence) => {
                    drop(state);
                    std::thread::sleep(std::time::Duration::from_secs(5));
                    return;
                }
                other => {
                    if other == Some(Fault::Overtaken) {
                        state.overtake(&call.body);
                    }
                    let answer = state.answer(&call);
                    if other == Some(Fault::LostAfter) {
                        return;
                    }
                    answer
                }
            }
        };
        if out.write_all(&answer).is_err() {
            return;
        }
    }
}

impl State {
    fn overtake(&mut self, arguments: &Record) {
        let key = (arguments.text(1).unwrap().to_owned(), arguments.text(2).unwrap().to_owned());
        let mut entry = self.tables[&key].clone();
        let mut parameters = entry.texts_by_text(9);
        // Another state of the same table: a copy of its file.
        let from = parameters[entry::LOCATION].clone();
        let to = from.replace(".gz.metadata.json", "-other.gz.metadata.json");
        std::fs::copy(from.trim_start_matches("file://"), to.trim_start_matches("file://")).unwrap();
        parameters.insert(entry::LOCATION.into(), to);
        entry.set(9, Value::texts_by_text(parameters));
        self.tables.insert(key, entry);
    }

    fn answer(&mut self, call: &Message) -> Vec<u8> {
        let reply = |kind, body| Message { kind, method: call.method.clone(), sequence: call.sequence, body }.encode();
        if self.missing.contains(call.method.as_str()) {
            let told = Record::new([(1, Value::text("Invalid method name")), (2, Value::Int(1))]);
            return reply(Kind::Exception, told);
        }
        let body = match self.act(&call.method, &call.body) {
            Ok(result) => Record::new(result.map(|value| (0, value))),
            Err((field, message)) => Record::new([(field, Value::Record(Record::new([(1, Value::text(message))])))]),
        };
        reply(Kind::Reply, body)
    }

    fn act(&mut self, method: &str, arguments: &Record) -> Outcome {
        let text = |id: i16| arguments.text(id).unwrap_or_default().to_owned();
        let request = arguments.record(1).cloned().unwrap_or_default();
        match method {
            "get_database" => match self.databases.get(&text(1)) {
                Some(database) => Ok(Some(Value::Record(database.clone()))),
                None => Err((1, "no database".into())),
            },
            "get_all_databases" => Ok(Some(Value::texts(self.databases.keys().cloned()))),
            "create_database" => {
                let name = request.text(1).unwrap().to_owned();
                match self.databases.insert(name, request) {
                    Some(_) => Err((1, "is there".into())),
                    None => Ok(None),
                }
            }
            "alter_database" => {
                self.databases.insert(text(1), arguments.record(2).unwrap().clone());
                Ok(None)
            }
            "get_all_tables" => {
                let names = self.tables.keys().filter(|(namespace, _)| *namespace == text(1));
                Ok(Some(Value::texts(names.map(|(_, name)| name.clone()))))
            }
            "get_table" => self.found(&(text(1), text(2))).map(|table| Some(Value::Record(table))),
            "get_table_req" => {
                let key = (request.text(1).unwrap().to_owned(), request.text(2).unwrap().to_owned());
                self.found(&key).map(|table| Some(Value::Record(Record::new([(1, Value::Record(table))]))))
            }
            "get_table_objects_by_name" => Ok(Some(self.objects(arguments))),
            "get_table_objects_by_name_req" => Ok(Some(Value::Record(Record::new([(1, self.objects(&request))])))),
            "create_table" => {
                let key = (request.text(2).unwrap().to_owned(), request.text(1).unwrap().to_owned());
                if !self.databases.contains_key(&key.0) {
                    return Err((4, "no database".into()));
                }
                if self.tables.contains_key(&key) {
                    return Err((1, "is there".into()));
                }
                self.tables.insert(key, request);
                Ok(None)
            }
            "drop_table" => match self.tables.remove(&(text(1), text(2))) {
                Some(_) if arguments.get(3) == Some(&Value::Bool(false)) => Ok(None),
                Some(_) => Err((2, "the files were to be deleted".into())),
                None => Err((1, "no table".into())),
            },
            "alter_table_with_environment_context" => self.alter(arguments),
            "lock" => {
                let component = request.get(1).and_then(Value::as_list).unwrap()[0].clone();
                let Value::Record(component) = component else { panic!("a lock of nothing") };
                assert_eq!((component.int(1), component.int(2)), (Some(3), Some(2)));
                self.next_lock += 1;
                let of = (component.text(3).unwrap().to_owned(), component.text(4).unwrap().to_owned());
                self.locks.insert(self.next_lock, of);
                self.agents.insert(self.next_lock, request.text(5).unwrap().to_owned());
                Ok(Some(self.lock(self.next_lock)))
            }
            "check_lock" => Ok(Some(self.lock(request.long(1).unwrap()))),
            "unlock" => match self.locks.remove(&request.long(1).unwrap()) {
                Some(_) => Ok(None),
                None => Err((1, "no lock".into())),
            },
            "show_locks" => {
                let locks = self
                    .locks
                    .keys()
                    .map(|id| Record::new([(1, Value::Long(*id)), (13, Value::text(self.agents[id].clone()))]));
                Ok(Some(Value::Record(Record::new([(1, Value::records(locks))]))))
            }
            "set_ugi" => Ok(Some(Value::texts([text(1)]))),
            other => panic!("the fake has no `{other}`"),
        }
    }

    fn lock(&self, id: i64) -> Value {
        let of = &self.locks[&id];
        let first = self.locks.iter().find(|(_, other)| *other == of).map(|(id, _)| *id);
        let state = if first == Some(id) { 1 } else { 2 };
        Value::Record(Record::new([(1, Value::Long(id)), (2, Value::Int(state))]))
    }

    fn found(&self, key: &(String, String)) -> Result<Record, (i16, String)> {
        self.tables.get(key).cloned().ok_or((2, "no table".to_owned()))
    }

    fn objects(&self, arguments: &Record) -> Value {
        let namespace = arguments.text(1).unwrap();
        let names = arguments.get(2).and_then(Value::as_list).unwrap();
        let keys = names.iter().map(|name| (namespace.to_owned(), name.as_text().unwrap().to_owned()));
        Value::records(keys.filter_map(|key| self.tables.get(&key).cloned()))
    }

    fn alter(&mut self, arguments: &Record) -> Outcome {
        let key = (arguments.text(1).unwrap().to_owned(), arguments.text(2).unwrap().to_owned());
        let next = arguments.record(3).unwrap().clone();
        let context = arguments.record(4).unwrap().texts_by_text(1);
        assert_eq!(context["DO_NOT_UPDATE_STATS"], "true");
        let Some(old) = self.tables.get(&key) else {
            return Err((1, format!("table {}.{} doesn't exist", key.0, key.1)));
        };
        if let Some(parameter) = context.get("expected_parameter_key").filter(|_| self.compares) {
            if self.derby {
                return Err((
                    2,
                    "Comparisons between 'CLOB (UCS_BASIC)' and 'CLOB (UCS_BASIC)' are not supported".into(),
                ));
            }
            if old.texts_by_text(9).get(parameter) != Some(&context["expected_parameter_value"]) {
                return Err((
                    2,
                    format!("The table has been modified. The parameter value for key '{parameter}' is 'x'"),
                ));
            }
        }
        let to = (next.text(2).unwrap().to_owned(), next.text(1).unwrap().to_owned());
        if to != key && self.tables.contains_key(&to) {
            return Err((1, "new table already exists".into()));
        }
        self.tables.remove(&key);
        self.tables.insert(to, next);
        Ok(None)
    }
}

/// A database with a parameter.
pub fn database(name: &str, key: &str, value: &str) -> Record {
    Record::new([(1, Value::text(name)), (DATABASE_PARAMETERS, Value::texts_by_text([(key, value)]))])
}
