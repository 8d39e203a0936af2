use super::*;

fn sample() -> Message {
    let column = |name: &str| Record::new([(1, Value::text(name)), (2, Value::text("bigint"))]);
    let body = Record::new([
        (1, Value::text("tabel \u{e9}")),
        (2, Value::Bool(true)),
        (3, Value::Byte(-7)),
        (4, Value::Double(f64::NAN.to_bits())),
        (5, Value::Short(-300)),
        (6, Value::Int(i32::MIN)),
        (7, Value::Long(i64::MAX)),
        (8, Value::Record(Record::new([(1, Value::records([column("a"), column("b")]))]))),
        (9, Value::texts_by_text([("table_type", "ICEBERG"), ("", "")])),
        (10, Value::texts(Vec::<String>::new())),
        (-1, Value::Text(vec![0xFF, 0])),
    ]);
    Message { kind: Kind::Reply, method: "get_table_req".into(), sequence: 7, body }
}

fn head() -> Vec<u8> {
    let mut bytes = 0x8001_0002_u32.to_be_bytes().to_vec();
    write_text(&mut bytes, b"m");
    bytes.extend(1_i32.to_be_bytes());
    bytes
}

fn refused(body: &[u8], told: &str) {
    let mut bytes = head();
    bytes.extend(body);
    let Err(error) = Message::decode(bytes.as_slice()) else { panic!("it was read; `{told}` was expected") };
    assert!(error.to_string().contains(told), "expected `{told}` in `{error}`");
}

#[test]
fn a_message_is_read_as_it_was_written() {
    for kind in [Kind::Call, Kind::Reply, Kind::Exception] {
        let message = Message { kind, ..sample() };
        let bytes = message.encode();
        let found = Message::decode(bytes.as_slice()).unwrap();
        assert_eq!(found, message);
        assert_eq!(found.encode(), bytes);
    }
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    let arguments = Record::new([(1, Value::text("ns")), (3, Value::Bool(false))]);
    let call = Message { kind: Kind::Call, method: "drop".into(), sequence: 2, body: arguments };
    let expected =
        b"\x80\x01\x00\x01\x00\x00\x00\x04drop\x00\x00\x00\x02\x0b\x00\x01\x00\x00\x00\x02ns\x02\x00\x03\x00\x00";
    assert_eq!(call.encode(), expected);
}

#[test]
fn a_message_that_ends_early_is_refused_wherever_it_ends() {
    let bytes = sample().encode();
    for end in 0..bytes.len() {
        let error = Message::decode(&bytes[..end]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "at {end}: {error}");
    }
}

#[test]
fn a_changed_byte_is_refused_or_read_without_harm() {
    let bytes = sample().encode();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            if let Ok(message) = Message::decode(changed.as_slice()) {
                assert_eq!(Message::decode(message.encode().as_slice()).unwrap(), message);
            }
        }
    }
}

#[test]
fn sizes_that_are_only_claimed_are_not_believed() {
    // A string of 2 GB, of 60 MB that is not there, of a negative length.
    refused(b"\x0b\x00\x01\x7f\xff\xff\xff", "longer than");
    refused(b"\x0b\x00\x01\x03\xc0\x00\x00abc", "end of file");
    refused(b"\x0b\x00\x01\xff\xff\xff\xff", "the length -1");
    // Collections.
    refused(b"\x0f\x00\x01\x02\x7f\xff\xff\xff", "claims 2147483647 items");
    refused(b"\x0f\x00\x01\x02\xff\xff\xff\xfe", "claims -2 items");
    refused(b"\x0d\x00\x01\x0b\x0b\x00\x20\x00\x00", "claims 2097152 items");
    refused(b"\x0d\x00\x01\x0b\x0b\x00\x0f\x00\x00", "end of file");
    // A method's name.
    let mut bytes = 0x8001_0002_u32.to_be_bytes().to_vec();
    bytes.extend(b"\x00\x01\x00\x00");
    assert!(Message::decode(bytes.as_slice()).unwrap_err().to_string().contains("longer than 256"));
}

#[test]
fn many_small_values_are_as_bounded_as_a_large_one() {
    // Empty lists in a list of lists: five bytes each.
    let mut body = b"\x0f\x00\x01\x0f\x00\x1e\x84\x70".to_vec();
    body.extend(b"\x02\x00\x00\x00\x00".repeat(1_999_984));
    refused(&body, "end of file");
    let mut body = Vec::new();
    for id in 0..3_i16 {
        body.push(LIST);
        body.extend(id.to_be_bytes());
        body.push(BOOL);
        body.extend(900_000_i32.to_be_bytes());
        body.resize(body.len() + 900_000, 1);
    }
    refused(&body, "claims 900000 items");
}

#[test]
fn depth_has_an_end() {
    // Records in records, lists in lists, both far deeper than the stack would bear.
    refused(&b"\x0c\x00\x01".repeat(1_000_000), "nested deeper than 16");
    let mut lists = b"\x0f\x00\x01".to_vec();
    lists.extend(b"\x0f\x00\x00\x00\x01".repeat(1_000_000));
    refused(&lists, "nested deeper than 16");
    let mut maps = b"\x0d\x00\x01".to_vec();
    maps.extend(b"\x0b\x0d\x00\x00\x00\x01\x00\x00\x00\x00".repeat(1_000_000));
    refused(&maps, "nested deeper than 16");
}

#[test]
fn what_is_no_value_of_the_protocol_is_named() {
    refused(b"\x01\x00\x01", "`1` is no type");
    refused(b"\x63\x00\x01", "`99` is no type");
    refused(b"\x0f\x00\x01\x63\x00\x00\x00\x01", "`99` is no type");
    refused(b"\x0e\x00\x01\x0b\x00\x00\x00\x00", "a set");
    refused(b"\x02\x00\x01\x02", "neither true nor false");
    refused(b"\x02\x00\x01\x01\x02\x00\x01\x01", "the field 1 twice");
    for bytes in [b"HTTP/1.1 400 Bad Request".as_slice(), b"\x00\x00\x00\x20", b"\x80\x02\x00\x02", b"\x80\x01\x00\x04"]
    {
        let error = Message::decode(bytes).unwrap_err();
        assert!(error.to_string().contains("begins no message"), "{error}");
    }
}

#[test]
fn a_field_of_another_type_is_not_there() {
    let record = sample().body;
    assert_eq!((record.text(1), record.text(2), record.text(-1)), (Some("tabel \u{e9}"), None, None));
    assert_eq!((record.int(6), record.int(7), record.long(7)), (Some(i32::MIN), None, Some(i64::MAX)));
    assert!(record.record(1).is_none() && record.record(8).is_some());
    assert_eq!(record.texts_by_text(9).len(), 2);
    assert!(record.texts_by_text(8).is_empty());
}
