import io.apicurio.registry.utils.converter.avro.AvroData;
import io.apicurio.registry.utils.converter.avro.AvroDataConfig;
import io.debezium.data.Envelope;
import io.debezium.data.Json;
import io.debezium.data.VariableScaleDecimal;
import io.debezium.time.MicroTime;
import io.debezium.time.MicroTimestamp;
import io.debezium.time.NanoTimestamp;
import io.debezium.time.ZonedTimestamp;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.ZoneOffset;
import java.util.Date;
import java.util.HexFormat;
import java.util.Map;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.connect.data.Decimal;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.json.JsonConverter;

/**
 * Changes by Debezium's own envelope and types, as a registry's Avro converter and as Kafka Connect's JSON converter
 * write them. A line in is `op nim number`; the first line out is the Avro schema, then one a change: hexadecimal Avro
 * and JSON. With the word `later` the table has been altered.
 */
public class DebeziumChanges {
    private static final long START = 1_767_600_000L;

    private static Schema table(boolean later) {
        SchemaBuilder table = SchemaBuilder.struct().optional().name("campus.public.students.Value");
        if (later) {
            table.field("level", SchemaBuilder.int16().defaultValue((short) 1).build());
        }
        return table
            .field("nim", Schema.STRING_SCHEMA)
            .field("gpa", Schema.OPTIONAL_FLOAT64_SCHEMA)
            .field("active", SchemaBuilder.bool().optional().defaultValue(true).build())
            .field("changed", MicroTimestamp.builder().defaultValue(0L).build())
            .field("enrolled", io.debezium.time.Timestamp.builder().optional().build())
            .field("exact", NanoTimestamp.builder().optional().build())
            .field("zoned", ZonedTimestamp.builder().optional().build())
            .field("born", io.debezium.time.Date.builder().optional().build())
            .field("clock", MicroTime.builder().optional().build())
            .field("moment", org.apache.kafka.connect.data.Timestamp.builder().optional().build())
            .field("day", org.apache.kafka.connect.data.Date.builder().optional().build())
            .field("fee", Decimal.builder(2).parameter("connect.decimal.precision", "10")
                .defaultValue(new BigDecimal("0.00")).build())
            .field("balance", VariableScaleDecimal.builder().optional().build())
            .field("extra", Json.builder().optional().build())
            .build();
    }

    private static Struct row(Schema table, String nim, int number, boolean later) {
        Instant changed = Instant.ofEpochSecond(START, number * 137_001_000L);
        Struct row = new Struct(table).put("nim", nim)
            .put("changed", MicroTimestamp.toEpochMicros(changed.atOffset(ZoneOffset.UTC).toLocalDateTime(), null))
            .put("fee", BigDecimal.valueOf(number * 101L - 5000, 2));
        if (later) {
            row.put("level", (short) number);
        }
        if (number % 4 == 3) {
            return row.put("active", null);
        }
        return row.put("gpa", number / 7.0).put("active", number % 2 == 0)
            .put("enrolled", io.debezium.time.Timestamp.toEpochMillis(changed.atOffset(ZoneOffset.UTC).toLocalDateTime(), null))
            .put("exact", NanoTimestamp.toEpochNanos(changed.plusNanos(999).atOffset(ZoneOffset.UTC).toLocalDateTime(), null))
            .put("zoned", ZonedTimestamp.toIsoString(changed.atZone(ZoneOffset.ofHours(7)), null, null))
            .put("born", io.debezium.time.Date.toEpochDay(java.time.LocalDate.of(1969, 12, 1).plusDays(number), null))
            .put("clock", number * 1_000_003L)
            .put("moment", Date.from(changed))
            .put("day", Date.from(Instant.ofEpochSecond(number * 86_400L)))
            .put("balance", VariableScaleDecimal.fromLogical(VariableScaleDecimal.optionalSchema(),
                new BigDecimal(BigInteger.valueOf(-number), number % 4)))
            .put("extra", "{\"seat\": \"S" + number + "\"}");
    }

    private static Struct change(Envelope envelope, String op, Struct row, Struct source, Instant at) {
        return switch (op) {
            case "c" -> envelope.create(row, source, at);
            case "r" -> envelope.read(row, source, at);
            case "u" -> envelope.update(null, row, source, at);
            case "d" -> envelope.delete(row, source, at);
            default -> envelope.truncate(source, at);
        };
    }

    public static void main(String[] arguments) throws Exception {
        boolean later = arguments.length > 0 && arguments[0].equals("later");
        Schema from = SchemaBuilder.struct().name("io.debezium.connector.postgresql.Source")
            .field("version", Schema.STRING_SCHEMA).field("ts_ms", Schema.INT64_SCHEMA)
            .field("table", Schema.STRING_SCHEMA).build();
        Schema table = table(later);
        Envelope envelope = Envelope.defineSchema().withName("campus.public.students.Envelope").withRecord(table)
            .withSource(from).build();
        AvroData avro = new AvroData(new AvroDataConfig(Map.of()));
        org.apache.avro.Schema schema = avro.fromConnectSchema(envelope.schema());
        System.out.println(schema);
        JsonConverter json = new JsonConverter();
        json.configure(Map.of("schemas.enable", "false", "converter.type", "value", "decimal.format", "NUMERIC"));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            int number = Integer.parseInt(words[2]);
            Instant at = Instant.ofEpochSecond(START, number * 1_000_000L);
            Struct source = new Struct(from).put("version", "3").put("ts_ms", 7L).put("table", "students");
            Struct value = change(envelope, words[0], row(table, words[1], number, later), source, at);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
            new GenericDatumWriter<Object>(schema).write(avro.fromConnectData(envelope.schema(), value), encoder);
            encoder.flush();
            String text = new String(json.fromConnectData("students", envelope.schema(), value), StandardCharsets.UTF_8);
            System.out.println(HexFormat.of().formatHex(out.toByteArray()) + " " + text);
        }
    }
}
