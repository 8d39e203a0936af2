"""Changes by Debezium's own classes, as Apicurio's Avro converter and Kafka Connect's JSON converter write them; jars from
Maven Central."""

import subprocess
from pathlib import Path

from kafka_broker import fetched

HERE = Path(__file__).resolve().parent
VERSION = "2.7.4.Final"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>insightera</groupId><artifactId>debezium-of-the-tests</artifactId><version>1</version>
<dependencies>
<dependency><groupId>io.debezium</groupId><artifactId>debezium-core</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>io.apicurio</groupId><artifactId>apicurio-registry-utils-converter</artifactId>
<version>2.6.13.Final</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>connect-api</artifactId><version>3.7.0</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>connect-json</artifactId><version>3.7.0</version></dependency>
</dependencies></project>
"""


class Writer:
    """Writes the changes (op, nim, number) of the table of DebeziumChanges.java."""

    def __init__(self, folder):
        self.classpath = f"{folder}:{fetched(f'debezium-{VERSION}', POM)}"
        subprocess.run(["javac", "-cp", self.classpath, "-d", folder, HERE / "DebeziumChanges.java"], check=True)

    def write(self, changes, *words):
        """The schema, and Avro and JSON of each change; `later` is a word for the table as it was altered."""
        lines = "".join(f"{op} {nim} {number}\n" for op, nim, number in changes)
        done = subprocess.run(["java", "-cp", self.classpath, "DebeziumChanges", *words], input=lines, capture_output=True,
                              text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        schema, *made = done.stdout.splitlines()
        pairs = [line.split(" ", 1) for line in made]
        return schema, [bytes.fromhex(avro) for avro, _ in pairs], [json for _, json in pairs]
