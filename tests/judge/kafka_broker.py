"""A real Apache Kafka, one node, KRaft; jars from Maven Central, a producer in Java."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "4.1.0"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>insightera</groupId><artifactId>kafka-of-the-tests</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-server</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""

SETTINGS = """process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.retention.check.interval.ms=500
"""


def fetched(name, pom):
    """The classpath of a pom's jars, which are kept under a name."""
    folder = Path(os.environ.get("INSIGHTERA_JARS") or HERE.parent.parent / ".cache" / "jars") / name
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "pom.xml").write_text(pom)
        subprocess.run(["mvn", "-q", "-B", "-f", folder / "pom.xml", "dependency:copy-dependencies",
                        "-DincludeScope=runtime", f"-DoutputDirectory={folder}"],
                       check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
        (folder / "done").touch()
    return f"{folder}/*"


def libraries():
    return fetched(f"kafka-{VERSION}", POM)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SECURE = """
ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/broker.p12
ssl.keystore.password=of-the-test
ssl.key.password=of-the-test
ssl.client.auth=none
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
"""


class Broker:
    """One broker in a folder of its own; with `users` (name to password) also by TLS and SASL. `more` are lines of its
    settings, `java` arguments of its virtual machine."""

    def __init__(self, folder, users=None, more="", java=()):
        self.folder, self.classpath, self.java_arguments = Path(folder), libraries(), list(java)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, controller = free_port(), free_port()
        self.settings = self.folder / "server.properties"
        settings = SETTINGS.format(port=self.port, controller=controller, folder=self.folder)
        settings += more
        scram, self.ports = [], {}
        if users:
            self.certificate("broker")
            self.certificate("stranger")
            settings = self.secured(settings, users)
            for name, password in users.items():
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    scram += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        self.settings.write_text(settings)
        identity = self.java("kafka.tools.StorageTool", "random-uuid").strip().splitlines()[-1]
        self.java("kafka.tools.StorageTool", "format", "--standalone", "-t", identity, "-c", self.settings, *scram)
        self.process, self.producer = None, None

    def certificate(self, name):
        """A key with a certificate that it has signed itself: NAME.p12 and NAME.pem."""
        store = ["-keystore", self.folder / f"{name}.p12", "-storetype", "PKCS12", "-storepass", "of-the-test", "-alias", name]
        for arguments in (["-genkeypair", "-keyalg", "RSA", "-keysize", "2048", "-dname", f"CN={name}", "-validity", "2",
                           "-ext", "SAN=ip:127.0.0.1", "-ext", "bc:c"],
                          ["-exportcert", "-rfc", "-file", self.folder / f"{name}.pem"]):
            done = subprocess.run(["keytool", *map(str, arguments), *map(str, store)], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr

    def secured(self, settings, users):
        """The settings with listeners by SSL, SASL_SSL and SASL_PLAINTEXT."""
        self.ports = {protocol: free_port() for protocol in ("SSL", "SASL_SSL", "SASL_PLAINTEXT")}
        also = "".join(f",{protocol}://127.0.0.1:{port}" for protocol, port in self.ports.items())
        kinds = "".join(f",{protocol}:{protocol}" for protocol in self.ports)
        lines = []
        for line in settings.splitlines():
            if line.startswith(("listeners=", "advertised.listeners=")):
                line += also
            elif line.startswith("listener.security.protocol.map="):
                line += kinds
            lines.append(line)
        module = "org.apache.kafka.common.security"
        known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
        for listener in ("sasl_ssl", "sasl_plaintext"):
            prefix = f"listener.name.{listener}"
            lines.append(f"{prefix}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {known};")
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                lines.append(f"{prefix}.{mechanism}.sasl.jaas.config={module}.scram.ScramLoginModule required;")
        return "\n".join(lines) + SECURE.format(folder=self.folder)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def java(self, *arguments, **options):
        done = subprocess.run(["java", "-Xmx256m", "-cp", self.classpath, *map(str, arguments)], capture_output=True,
                              text=True, timeout=120, **options)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def start(self):
        log = open(self.folder / "broker.log", "a")
        self.process = subprocess.Popen(
            ["java", "-Xmx512m", "-XX:+UseSerialGC", *self.java_arguments, "-cp", self.classpath, "kafka.Kafka", str(self.settings)],
            stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while True:
            assert self.process.poll() is None, (self.folder / "broker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the broker does not answer"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.2)
        if self.producer is None:
            classes = self.folder / "classes"
            classes.mkdir(exist_ok=True)
            subprocess.run(["javac", "-cp", self.classpath, "-d", classes, HERE / "KafkaCommands.java"], check=True)
            self.producer = subprocess.Popen(
                ["java", "-Xmx128m", "-XX:+UseSerialGC", "-cp", f"{classes}:{self.classpath}", "KafkaCommands", self.address],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(self.folder / "producer.log", "a"), text=True)
            self.command("ready")
        return self

    def command(self, *words):
        """One line to the Java side, one line back."""
        self.producer.stdin.write("\t".join(words) + "\n")
        self.producer.stdin.flush()
        answer = self.producer.stdout.readline().rstrip("\n")
        assert answer.startswith("ok"), (words[:3], answer, (self.folder / "producer.log").read_text()[-2000:])
        return answer[3:]

    def topic(self, name, partitions, **settings):
        self.command("create", name, str(partitions), *(f"{k}={v}" for k, v in settings.items()))

    def send(self, topic, partition, lines, ending="plain"):
        """Sends lines, or bytes, or lines with a key and a time in milliseconds, to a partition; answers their offsets.
        `commit` and `abort` make it a transaction, `open` one that is there until `command("end", …)` ends it."""
        self.command("begin", ending)
        for line in lines:
            match line:
                case bytes():
                    self.command("hex", topic, str(partition), line.hex())
                case (text, key, time_):
                    self.command("keyed", topic, str(partition), text, key, str(time_))
                case text:
                    self.command("send", topic, str(partition), text)
        offsets = self.command("end", ending)
        return [int(offset) for offset in offsets.split(",")] if offsets else []

    def records(self, topic):
        """(partition, offset, key, value) of all records that are there, as a plain consumer reads them."""
        answer = self.command("records", topic)
        found = [record.split("\x02") for record in answer.split("\x01")] if answer else []
        return [(int(partition), int(offset), key, value) for partition, offset, key, value in found]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self):
        if self.producer:
            self.producer.kill()
            self.producer.wait()
        self.stop()
