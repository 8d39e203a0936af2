import java.io.BufferedOutputStream;
import java.io.BufferedReader;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Events for a benchmark. A file has lines `KEY TAB EVENT`; a key is always in the same partition. The first `#` of an event
 * becomes the number that it is sent as, from 0 on, so that no two are the same.
 *
 * fill SERVERS TOPIC PARTITIONS FILE COUNT: so many events, from its beginning again at its end, as fast as it goes.
 * more SERVERS TOPIC FILE COUNT: the same into a topic that is there.
 * create SERVERS TOPIC PARTITIONS: an empty topic.
 * watch SERVERS TOPIC: says `ready`, and then when the first message that is new was read, in milliseconds since 1970.
 * live SERVERS TOPIC OUTPUT RATE SECONDS FILE LINGER DUE: an open loop: event i is due at i / RATE, is sent at the next
 * millisecond or as soon after as it goes, and has the time it was due in its header `scheduled-send-time` (nanoseconds of this
 * process). LINGER is the producer's `linger.ms`. Beside it the output topic is read; a message's header `insightera-id` ends
 * in the partition and offset of its event. Answers the latencies from due to read, in milliseconds, of the events that were
 * due after the first tenth, and the medians and 99th percentiles of all of them by the second that they were due in; and when
 * event 0 was due, in microseconds since 1970. The files DUE with a partition's number after it get the same of every offset:
 * longs, the high byte first, 0 where there is no event.
 */
public class KafkaLoad {
    private static final long TICK = 1_000_000;

    public static void main(String[] arguments) throws Exception {
        String servers = arguments[1];
        Properties settings = new Properties();
        settings.put("bootstrap.servers", servers);
        settings.put("key.serializer", ByteArraySerializer.class.getName());
        settings.put("value.serializer", ByteArraySerializer.class.getName());
        boolean fill = arguments[0].equals("fill");
        settings.put("linger.ms", fill ? "50" : arguments.length > 7 ? arguments[7] : "1");
        settings.put("batch.size", fill ? "262144" : "16384");
        settings.put("acks", "1");
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", servers));
             KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings)) {
            if (fill || arguments[0].equals("create")) {
                create(admin, arguments[2], Integer.parseInt(arguments[3]));
            }
            switch (arguments[0]) {
                case "fill" -> fill(producer, arguments[2], Path.of(arguments[4]), Long.parseLong(arguments[5]));
                case "more" -> fill(producer, arguments[2], Path.of(arguments[3]), Long.parseLong(arguments[4]));
                case "live" -> live(servers, producer, arguments);
                case "watch" -> watch(servers, arguments[2]);
                default -> { }
            }
        }
    }

    private static void create(Admin admin, String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    }

    /** A line of the file: what it is sent as, its event before and after the `#`. */
    private record Line(byte[] key, byte[] before, byte[] after) {
        static Line of(String line) {
            int tab = line.indexOf('\t'), number = line.indexOf('#', tab);
            return new Line(bytes(line.substring(0, tab)), bytes(line.substring(tab + 1, number < 0 ? line.length() : number)),
                number < 0 ? null : bytes(line.substring(number + 1)));
        }

        private static byte[] bytes(String text) {
            return text.getBytes(StandardCharsets.UTF_8);
        }

        ProducerRecord<byte[], byte[]> as(String topic, long number) {
            if (after == null) {
                return new ProducerRecord<>(topic, key, before);
            }
            byte[] digits = bytes(Long.toString(number));
            byte[] event = Arrays.copyOf(before, before.length + digits.length + after.length);
            System.arraycopy(digits, 0, event, before.length, digits.length);
            System.arraycopy(after, 0, event, before.length + digits.length, after.length);
            return new ProducerRecord<>(topic, key, event);
        }
    }

    private static void fill(KafkaProducer<byte[], byte[]> producer, String topic, Path file, long count) throws Exception {
        long sent = 0;
        while (sent < count) {
            try (BufferedReader lines = Files.newBufferedReader(file)) {
                for (String line = lines.readLine(); line != null && sent < count; line = lines.readLine()) {
                    producer.send(Line.of(line).as(topic, sent));
                    sent++;
                }
            }
        }
        producer.flush();
        System.out.println("{\"sent\": " + sent + "}");
    }

    private static void watch(String servers, String topic) {
        try (KafkaConsumer<byte[], byte[]> consumer = outputs(servers, topic)) {
            System.out.println("ready");
            while (consumer.poll(Duration.ofMillis(50)).isEmpty()) {
                // Nothing yet.
            }
            System.out.println(System.currentTimeMillis());
        }
    }

    /** By partition and offset: a time, or 0. Arrays, so that measuring takes little of the processors that are measured. */
    private static final class Times {
        private final long[][] times;

        Times(int partitions, int count) {
            times = new long[partitions][count / partitions + 1];
        }

        void put(int partition, long offset, long time) {
            if (offset >= times[partition].length) {
                times[partition] = Arrays.copyOf(times[partition], (int) offset + times[partition].length / 4 + 1);
            }
            if (times[partition][(int) offset] == 0) {
                times[partition][(int) offset] = time;
            }
        }

        long get(int partition, int offset) {
            return offset < times[partition].length ? times[partition][offset] : 0;
        }

        /** Writes them, moved to the beginning of 1970 by so many microseconds. */
        void write(String files, long epoch) throws IOException {
            for (int partition = 0; partition < times.length; partition++) {
                Path file = Path.of(files + partition);
                try (DataOutputStream out = new DataOutputStream(new BufferedOutputStream(Files.newOutputStream(file)))) {
                    for (long time : times[partition]) {
                        out.writeLong(time == 0 ? 0 : epoch + time / 1000);
                    }
                }
            }
        }
    }

    /** Some numbers. */
    private static final class Numbers {
        private double[] values = new double[1024];
        private int count;

        void add(double value) {
            if (count == values.length) {
                values = Arrays.copyOf(values, count * 2);
            }
            values[count++] = value;
        }

        double quantile(double share) {
            if (count == 0) {
                return -1;
            }
            Arrays.sort(values, 0, count);
            return values[(int) Math.min(count - 1, (long) (count * share))];
        }
    }

    private static void live(String servers, KafkaProducer<byte[], byte[]> producer, String[] arguments) throws Exception {
        String topic = arguments[2];
        double rate = Double.parseDouble(arguments[4]);
        double seconds = Double.parseDouble(arguments[5]);
        int count = (int) (rate * seconds);
        Line[] lines;
        try (Stream<String> read = Files.lines(Path.of(arguments[6]))) {
            lines = read.limit(count).map(Line::of).toArray(Line[]::new);
        }
        int partitions = producer.partitionsFor(topic).size();
        Times due = new Times(partitions, count), read = new Times(partitions, count);
        AtomicInteger answered = new AtomicInteger();
        KafkaConsumer<byte[], byte[]> consumer = outputs(servers, arguments[3]);
        Thread reader = new Thread(() -> {
            int found = 0;
            while (!Thread.currentThread().isInterrupted() && found < count) {
                for (ConsumerRecord<byte[], byte[]> one : consumer.poll(Duration.ofMillis(50))) {
                    byte[] id = one.headers().lastHeader("insightera-id").value();
                    int end = id.length;
                    long offset = 0, partition = 0, unit = 1;
                    while (id[--end] != '/') {
                        offset += unit * (id[end] - '0');
                        unit *= 10;
                    }
                    unit = 1;
                    while (id[--end] != '/') {
                        partition += unit * (id[end] - '0');
                        unit *= 10;
                    }
                    read.put((int) partition, offset, System.nanoTime());
                    found++;
                }
            }
        });
        reader.start();
        long epoch = epoch();
        long start = System.nanoTime() + 100_000_000L;
        long behind = 0;
        for (int index = 0; index < count; index++) {
            long at = start + (long) (index * 1e9 / rate);
            // All that are due are sent together: a processor that wakes up for each has little time left for others.
            while (System.nanoTime() < at) {
                LockSupport.parkNanos(TICK);
            }
            behind = Math.max(behind, System.nanoTime() - at);
            ProducerRecord<byte[], byte[]> record = lines[index % lines.length].as(topic, index);
            record.headers().add("scheduled-send-time", ByteBuffer.allocate(8).putLong(at).array());
            producer.send(record, (where, error) -> {
                if (error == null) {
                    due.put(where.partition(), where.offset(), at);
                    answered.incrementAndGet();
                }
            });
        }
        producer.flush();
        reader.join(30_000);
        reader.interrupt();
        reader.join();
        long from = start + (long) (count * 1e8 / rate);
        List<Numbers> bySecond = new ArrayList<>();
        for (int second = 0; second < Math.ceil(seconds); second++) {
            bySecond.add(new Numbers());
        }
        Numbers all = new Numbers();
        long missing = 0, found = 0;
        for (int partition = 0; partition < partitions; partition++) {
            for (int offset = 0; offset < due.times[partition].length; offset++) {
                long sent = due.get(partition, offset), came = read.get(partition, offset);
                if (sent == 0) {
                    continue;
                }
                if (came == 0) {
                    missing++;
                    continue;
                }
                found++;
                double latency = (came - sent) / 1e6;
                bySecond.get((int) Math.min(seconds - 1, (sent - start) / 1_000_000_000L)).add(latency);
                if (sent >= from) {
                    all.add(latency);
                }
            }
        }
        due.write(arguments[8], epoch);
        System.out.printf("{\"sent\": %d, \"read\": %d, \"missing\": %d, \"measured\": %d, \"p50\": %.3f, \"p99\": %.3f, "
            + "\"max\": %.3f, \"producer_behind_ms\": %.3f, \"start\": %d, \"p50_by_second\": [%s], \"p99_by_second\": [%s]}%n",
            answered.get(), found, missing, all.count, all.quantile(0.5), all.quantile(0.99), all.quantile(1.0), behind / 1e6,
            epoch + start / 1000, quantiles(bySecond, 0.5), quantiles(bySecond, 0.99));
    }

    private static String quantiles(List<Numbers> some, double share) {
        return some.stream().map(one -> String.format("%.1f", one.quantile(share))).collect(Collectors.joining(", "));
    }

    /** Microseconds since 1970 when `System.nanoTime()` was 0. */
    private static long epoch() {
        long before = System.nanoTime();
        Instant now = Instant.now();
        return now.getEpochSecond() * 1_000_000 + now.getNano() / 1000 - (before + System.nanoTime()) / 2000;
    }

    private static KafkaConsumer<byte[], byte[]> outputs(String servers, String topic) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", servers);
        settings.put("key.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("value.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("fetch.max.wait.ms", "5");
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings);
        List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
            .map(one -> new TopicPartition(topic, one.partition())).collect(Collectors.toList());
        consumer.assign(partitions);
        consumer.seekToEnd(partitions);
        partitions.forEach(consumer::position);
        return consumer;
    }
}
