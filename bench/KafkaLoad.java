import java.io.BufferedReader;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Collectors;
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
 * Events for a benchmark. A file has lines `KEY TAB EVENT`; a key is always in the same partition.
 *
 * fill SERVERS TOPIC PARTITIONS FILE COUNT: so many events, from its beginning again at its end, as fast as it goes.
 * create SERVERS TOPIC PARTITIONS: an empty topic.
 * live SERVERS TOPIC OUTPUT RATE SECONDS FILE: an open loop: event i is due at i / RATE, is sent then or as soon after as it
 * goes, and has the time it was due in its header `scheduled-send-time` (nanoseconds of this process). Beside it the output
 * topic is read; a message's header `insightera-id` ends in the partition and offset of its event. Answers the
 * latencies from due to read, in milliseconds, of the events that were due after the first tenth.
 */
public class KafkaLoad {
    public static void main(String[] arguments) throws Exception {
        String servers = arguments[1];
        Properties settings = new Properties();
        settings.put("bootstrap.servers", servers);
        settings.put("key.serializer", ByteArraySerializer.class.getName());
        settings.put("value.serializer", ByteArraySerializer.class.getName());
        boolean fill = arguments[0].equals("fill");
        settings.put("linger.ms", fill ? "50" : "0");
        settings.put("batch.size", fill ? "262144" : "16384");
        settings.put("acks", "1");
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", servers));
             KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings)) {
            if (!arguments[0].equals("live")) {
                create(admin, arguments[2], Integer.parseInt(arguments[3]));
            }
            if (fill) {
                fill(producer, arguments[2], Path.of(arguments[4]), Long.parseLong(arguments[5]));
            } else if (arguments[0].equals("live")) {
                live(servers, producer, arguments);
            }
        }
    }

    private static void create(Admin admin, String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, String line) {
        int tab = line.indexOf('\t');
        return new ProducerRecord<>(topic, line.substring(0, tab).getBytes(StandardCharsets.UTF_8),
            line.substring(tab + 1).getBytes(StandardCharsets.UTF_8));
    }

    private static void fill(KafkaProducer<byte[], byte[]> producer, String topic, Path file, long count) throws Exception {
        long sent = 0;
        while (sent < count) {
            try (BufferedReader lines = Files.newBufferedReader(file)) {
                for (String line = lines.readLine(); line != null && sent < count; line = lines.readLine()) {
                    producer.send(record(topic, line));
                    sent++;
                }
            }
        }
        producer.flush();
        System.out.println("{\"sent\": " + sent + "}");
    }

    private static void live(String servers, KafkaProducer<byte[], byte[]> producer, String[] arguments) throws Exception {
        String topic = arguments[2];
        double rate = Double.parseDouble(arguments[4]);
        int count = (int) (rate * Double.parseDouble(arguments[5]));
        List<String> lines = Files.readAllLines(Path.of(arguments[6]));
        // By partition and offset: when an event was due, and when its prediction was read.
        Map<String, Long> due = new ConcurrentHashMap<>(2 * count);
        Map<String, Long> read = new ConcurrentHashMap<>(2 * count);
        KafkaConsumer<byte[], byte[]> consumer = outputs(servers, arguments[3]);
        Thread reader = new Thread(() -> {
            while (!Thread.currentThread().isInterrupted() && read.size() < count) {
                for (ConsumerRecord<byte[], byte[]> one : consumer.poll(Duration.ofMillis(50))) {
                    String id = new String(one.headers().lastHeader("insightera-id").value(), StandardCharsets.UTF_8);
                    read.putIfAbsent(id.substring(id.indexOf('/') + 1), System.nanoTime());
                }
            }
        });
        reader.start();
        long start = System.nanoTime() + 100_000_000L;
        long behind = 0;
        for (int index = 0; index < count; index++) {
            long at = start + (long) (index * 1e9 / rate);
            while (System.nanoTime() < at) {
                LockSupport.parkNanos(Math.min(200_000L, at - System.nanoTime()));
            }
            behind = Math.max(behind, System.nanoTime() - at);
            ProducerRecord<byte[], byte[]> record = record(topic, lines.get(index % lines.size()));
            record.headers().add("scheduled-send-time", ByteBuffer.allocate(8).putLong(at).array());
            producer.send(record, (where, error) -> {
                if (error == null) {
                    due.put(where.partition() + "/" + where.offset(), at);
                }
            });
        }
        producer.flush();
        reader.join(30_000);
        reader.interrupt();
        reader.join();
        long from = start + (long) (count * 1e8 / rate);
        double[] latencies = due.entrySet().stream().filter(one -> one.getValue() >= from && read.containsKey(one.getKey()))
            .mapToDouble(one -> (read.get(one.getKey()) - one.getValue()) / 1e6).sorted().toArray();
        long missing = due.keySet().stream().filter(one -> !read.containsKey(one)).count();
        System.out.printf("{\"sent\": %d, \"read\": %d, \"missing\": %d, \"measured\": %d, \"p50\": %.3f, \"p99\": %.3f, "
            + "\"max\": %.3f, \"producer_behind_ms\": %.3f}%n", due.size(), read.size(), missing, latencies.length,
            latencies[latencies.length / 2], latencies[latencies.length * 99 / 100], latencies[latencies.length - 1],
            behind / 1e6);
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
