import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Commands, one a line, words by tabs: create, grow, read, records, delete, trim, begin, send, hex, keyed, end, file. */
public class KafkaCommands {
    /** What was sent with it as its id. */
    private static String id(ConsumerRecord<String, String> one) {
        return new String(one.headers().lastHeader("insightera-id").value(), StandardCharsets.UTF_8);
    }

    /** All records of a topic, of unfinished transactions too: what `place` says of each, key and value. */
    private static String read(String servers, String topic, Function<ConsumerRecord<String, String>, String> place) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", servers);
        settings.put("key.deserializer", StringDeserializer.class.getName());
        settings.put("value.deserializer", StringDeserializer.class.getName());
        List<String> found = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                .map(one -> new TopicPartition(topic, one.partition())).collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(one -> consumer.position(one) < ends.get(one))) {
                for (ConsumerRecord<String, String> one : consumer.poll(Duration.ofMillis(200))) {
                    String value = one.value() == null ? "TOMBSTONE" : one.value();
                    found.add(place.apply(one) + "\u0002" + one.key() + "\u0002" + value);
                }
            }
        }
        return String.join("\u0001", found);
    }

    /** Whether the broker knows of a topic that its controller has made. */
    private static boolean isReady(Admin admin, String topic) throws Exception {
        try {
            return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().stream()
                .allMatch(one -> one.leader() != null);
        } catch (ExecutionException error) {
            if (error.getCause() instanceof UnknownTopicOrPartitionException) {
                return false;
            }
            throw error;
        }
    }

    private static byte[] value(String word) {
        return word.equals("TOMBSTONE") ? null : word.getBytes(StandardCharsets.UTF_8);
    }

    public static void main(String[] arguments) throws Exception {
        Properties plain = new Properties();
        plain.put("bootstrap.servers", arguments[0]);
        plain.put("key.serializer", StringSerializer.class.getName());
        plain.put("value.serializer", ByteArraySerializer.class.getName());
        plain.put("linger.ms", "5");
        Properties transactional = new Properties();
        transactional.putAll(plain);
        transactional.put("transactional.id", "tests");
        Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]));
        KafkaProducer<String, byte[]> free = new KafkaProducer<>(plain);
        KafkaProducer<String, byte[]> bound = null;
        KafkaProducer<String, byte[]> current = free;
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split("\t", -1);
            String answer = "";
            try {
                switch (words[0]) {
                    case "ready" -> admin.describeCluster().nodes().get();
                    case "create" -> {
                        Map<String, String> settings = new HashMap<>();
                        for (int i = 3; i < words.length; i++) {
                            String[] pair = words[i].split("=", 2);
                            settings.put(pair[0].replace('_', '.'), pair[1]);
                        }
                        NewTopic topic = new NewTopic(words[1], Integer.parseInt(words[2]), (short) 1).configs(settings);
                        admin.createTopics(List.of(topic)).all().get();
                        while (!isReady(admin, words[1])) {
                            Thread.sleep(10);
                        }
                    }
                    case "grow" -> admin.createPartitions(Map.of(words[1],
                        NewPartitions.increaseTo(Integer.parseInt(words[2])))).all().get();
                    case "read" -> answer = read(arguments[0], words[1], KafkaCommands::id);
                    case "records" -> answer = read(arguments[0], words[1],
                        one -> one.partition() + "\u0002" + one.offset());
                    case "delete" -> {
                        admin.deleteTopics(List.of(words[1])).all().get();
                        while (admin.listTopics().names().get().contains(words[1])) {
                            Thread.sleep(10);
                        }
                    }
                    case "trim" -> admin.deleteRecords(Map.of(new TopicPartition(words[1], Integer.parseInt(words[2])),
                        RecordsToDelete.beforeOffset(Long.parseLong(words[3])))).all().get();
                    case "begin" -> {
                        sent.clear();
                        current = free;
                        if (!words[1].equals("plain")) {
                            if (bound == null) {
                                bound = new KafkaProducer<>(transactional);
                                bound.initTransactions();
                            }
                            current = bound;
                            bound.beginTransaction();
                        }
                    }
                    case "send" -> sent.add(current.send(new ProducerRecord<>(words[1], Integer.parseInt(words[2]),
                        null, value(words[3]))));
                    case "keyed" -> sent.add(current.send(new ProducerRecord<>(words[1], Integer.parseInt(words[2]),
                        Long.valueOf(words[5]), words[4], value(words[3]))));
                    case "hex" -> sent.add(current.send(new ProducerRecord<>(words[1], Integer.parseInt(words[2]),
                        null, HexFormat.of().parseHex(words[3]))));
                    case "file" -> {
                        // Lines of a partition, a tab and an event.
                        sent.clear();
                        for (String one : Files.readAllLines(Path.of(words[2]))) {
                            int tab = one.indexOf('\t');
                            sent.add(free.send(new ProducerRecord<>(words[1], Integer.parseInt(one.substring(0, tab)),
                                null, one.substring(tab + 1).getBytes(StandardCharsets.UTF_8))));
                        }
                        free.flush();
                        for (Future<RecordMetadata> one : sent) {
                            one.get();
                        }
                    }
                    case "end" -> {
                        current.flush();
                        List<String> offsets = new ArrayList<>();
                        for (Future<RecordMetadata> one : sent) {
                            offsets.add(Long.toString(one.get().offset()));
                        }
                        if (words[1].equals("commit")) {
                            bound.commitTransaction();
                        } else if (words[1].equals("abort")) {
                            bound.abortTransaction();
                        }
                        answer = offsets.stream().collect(Collectors.joining(","));
                    }
                    default -> throw new IllegalArgumentException(words[0]);
                }
                System.out.println("ok " + answer);
            } catch (Exception error) {
                error.printStackTrace();
                System.out.println("failed " + error);
            }
            System.out.flush();
        }
    }
}
