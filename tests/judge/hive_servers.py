"""Hive Metastores of two generations from Maven Central. Both run on Java 17 as they are.

Hive 3.1, over an embedded Derby, is what most clients speak to: Spark 3.5 and PyIceberg call methods that Hive 4 has
not got any more. Hive 4 compares an alteration with the parameter that it expects: over PostgreSQL, since the columns
that it compares have a type in Derby that cannot be compared.
"""

import os
import shutil
import socket
import subprocess
import threading
import xml.sax.saxutils
from pathlib import Path

from servers import CACHE, HERE, Server, free_port, need

VERSIONS = {"hive3": ("hive-standalone-metastore", "3.1.3", "org.apache.hadoop.hive.metastore.tools"),
            "hive4": ("hive-standalone-metastore-server", "4.0.1", "org.apache.hadoop.hive.metastore.tools.schematool")}
# What their archives expect of a Hadoop beside them.
BESIDE = ["org.apache.hadoop:hadoop-client-api:3.4.1", "org.apache.hadoop:hadoop-client-runtime:3.4.1",
          "org.apache.hadoop:hadoop-hdfs:3.4.1", "commons-cli:commons-cli:1.5.0", "commons-io:commons-io:2.16.1",
          "commons-collections:commons-collections:3.2.2", "commons-logging:commons-logging:1.1.3",
          "com.google.code.gson:gson:2.9.0", "javax.servlet:javax.servlet-api:3.1.0",
          "org.apache.httpcomponents:httpclient:4.5.13", "org.slf4j:slf4j-api:1.7.36"]
JAVA = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def fetch(folder, artifacts):
    """The artifacts, and nothing that they depend on; `group:artifact:version[:type:classifier]`."""
    every = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
    tags = ("groupId", "artifactId", "version", "type", "classifier")
    wanted = "".join(
        "<dependency>" + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, artifact.split(":"))) + every
        + "</dependency>" for artifact in artifacts)
    (folder / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>insightera</groupId><artifactId>hive-of-the-tests</artifactId><version>1</version>"
        f"<dependencies>{wanted}</dependencies></project>")
    subprocess.run(["mvn", "-q", "-B", "-f", folder / "pom.xml", "dependency:copy-dependencies",
                    "-DincludeScope=runtime", f"-DoutputDirectory={folder}"], check=True, timeout=900)


def install(name, make):
    """A folder of the cache, made whole or not at all."""
    folder = CACHE / name
    if not (folder / "done").exists():
        need("Hive Metastore", "mvn", "there is no Maven to fetch it with")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / "done").touch()
    return folder


def derby(folder):
    return {"javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={folder};create=true",
            "javax.jdo.option.ConnectionDriverName": "org.apache.derby.jdbc.EmbeddedDriver"}


def postgresql(server, name):
    return {"javax.jdo.option.ConnectionURL": f"jdbc:postgresql://127.0.0.1:{server.port}/{name}",
            "javax.jdo.option.ConnectionDriverName": "org.postgresql.Driver",
            "javax.jdo.option.ConnectionUserName": "judge",
            "javax.jdo.option.ConnectionPassword": server.password}


def settings(folder, database, warehouse):
    values = {
        **database,
        "metastore.warehouse.dir": f"file://{warehouse}/managed",
        "metastore.warehouse.external.dir": f"file://{warehouse}/external",
        "metastore.thrift.bind.host": "127.0.0.1",
        # The default of Hive 3 is in a jar that a metastore alone has not got.
        "metastore.expression.proxy": "org.apache.hadoop.hive.metastore.DefaultPartitionExpressionProxy",
        "metastore.task.threads.always": "org.apache.hadoop.hive.metastore.events.EventCleanerTask",
    }
    escape = xml.sax.saxutils.escape
    properties = "".join(f"<property><name>{key}</name><value>{escape(str(value))}</value></property>"
                         for key, value in values.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metastore-site.xml").write_text(f"<configuration>{properties}</configuration>")


class Hive:
    """A metastore of `version`, its database in `folder` or on a server of PostgreSQL."""

    def __init__(self, version, folder, postgres=None):
        need("Hive Metastore", "java", "there is no Java")
        artifact, number, tools = VERSIONS[version]
        beside = install("hive-beside", lambda home: fetch(home, BESIDE))

        def make(home):
            fetch(home, [f"org.apache.hive:{artifact}:{number}:tar.gz:bin"])
            archive = next(home.glob("*.tar.gz"))
            subprocess.run(["tar", "xzf", archive, "-C", home, "--strip-components=1"], check=True)
            archive.unlink()
            # An empty database, made once by Hive's own tool.
            settings(home / "empty-settings", derby(home / "empty"), home)
            done = subprocess.run([*JAVA, "-cp", f"{home}/empty-settings:{home}/lib/*:{beside}/*",
                                   f"{tools}.MetastoreSchemaTool", "-dbType", "derby", "-initSchema"],
                                  env={**os.environ, "METASTORE_HOME": str(home)}, cwd=home,
                                  capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

        home = install(f"hive-{number}", make)
        folder = Path(folder)
        if postgres:
            postgres.sql("CREATE DATABASE hive", "postgres")
            scripts = home / "scripts" / "metastore" / "upgrade" / "postgres"
            postgres.sql((scripts / "hive-schema-4.0.0.postgres.sql").read_text(), "hive")
            database = postgresql(postgres, "hive")
        else:
            shutil.copytree(home / "empty", folder / "database")
            database = derby(folder / "database")
            if version == "hive4":
                # Or it tries for twenty seconds what its database cannot do.
                database["metastore.hmshandler.retry.interval"] = "10ms"
        settings(folder / "conf", database, folder)
        self.port = free_port()
        program = [HERE / "HiveMetastore.java", self.port] if version == "hive3" else [
            "org.apache.hadoop.hive.metastore.HiveMetaStore", "-p", self.port]
        self.server = Server([*JAVA, "-cp", f"{folder}/conf:{home}/lib/*:{beside}/*", *program], self.port,
                             folder / "hive.log", cwd=folder)
        self.version, self.uri = version, f"thrift://127.0.0.1:{self.port}"

    def catalog(self, warehouse):
        """PyIceberg's; it asks Hive 4 by the method that Hive 4 has."""
        from hive_metastore.ttypes import GetTableRequest
        from pyiceberg.catalog.hive import HiveCatalog

        class Hive4Catalog(HiveCatalog):
            def _get_hive_table(self, open_client, database_name, table_name):
                request = GetTableRequest(dbName=database_name, tblName=table_name)
                return open_client.get_table_req(request).table

        kind = HiveCatalog if self.version == "hive3" else Hive4Catalog
        return kind("judge", uri=self.uri, warehouse=warehouse)

    def entry(self, name):
        """A table's entry, by PyIceberg's client."""
        from hive_metastore.ttypes import GetTableRequest

        database, table = name.split(".")
        with self.catalog("file:///nowhere")._client as client:
            return client.get_table_req(GetTableRequest(dbName=database, tblName=table)).table

    def clear(self):
        """Without any table; no file is touched."""
        with self.catalog("file:///nowhere")._client as client:
            for database in client.get_all_databases():
                for table in client.get_all_tables(database):
                    client.drop_table(database, table, False)
                if database != "default":
                    client.drop_database(database, False, False)

    def stop(self):
        self.server.stop()


class HiveProxy:
    """Stands before a metastore and fails at one alteration of a table when it is told to.

    `fail` is None, "before" (it does not arrive), "after" (its answer does not), or what is done before it arrives.
    """

    def __init__(self, port):
        self.target, self.fail, self.failed = port, None, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            lose = threading.Event()
            threading.Thread(target=self.requests, args=(client, server, lose), daemon=True).start()
            threading.Thread(target=self.answers, args=(client, server, lose), daemon=True).start()

    def requests(self, client, server, lose):
        while some := self.receive(client):
            if self.fail and b"alter_table_with_environment_context" in some:
                when, self.fail, self.failed = self.fail, None, self.failed + 1
                if when == "before":
                    break
                if when == "after":
                    lose.set()
                else:
                    when()
            server.sendall(some)
        self.end(client, server)

    def answers(self, client, server, lose):
        while some := self.receive(server):
            if lose.is_set():
                break
            client.sendall(some)
        self.end(client, server)

    @staticmethod
    def receive(source):
        try:
            return source.recv(1 << 16)
        except OSError:
            return b""

    @staticmethod
    def end(*ends):
        for one in ends:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        self.listener.close()
