"""Other people's servers, each on the loopback address with its data in a folder of the test.

S3: Versity's S3 gateway (`go install`), a server for production over a file system. It checks
signatures, conditional puts and multipart uploads; it has one account, so neither roles nor
temporary credentials are shown, and no bucket is in another region.
REST: Iceberg's reference implementation in Java over its JDBC catalog, and Project Nessie, whose
implementation of the protocol is its own; both from Maven Central.
PostgreSQL: the one of Debian. Azure: Azurite from npm, which has no hierarchical namespace.
"""

import datetime
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from conftest import missing

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("INSIGHTERA_JARS") or HERE.parent.parent / ".cache")
VERSITY = "1.8.0"
ICEBERG = "1.10.0"
AZURITE = "3.35.0"
NESSIE = "0.99.0"
NESSIE_SHA256 = "ce9fa33e2878bf5ea3981876b9e6204cabc0362b3dd82326b10e47271a78c417"
KEY_ID, KEY = "judge", "judge-and-jury"
# Azurite's own account, which its documents give.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>insightera</groupId><artifactId>rest-of-the-tests</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.iceberg</groupId><artifactId>iceberg-core</artifactId><version>{ICEBERG}</version></dependency>
<dependency><groupId>org.apache.iceberg</groupId><artifactId>iceberg-core</artifactId><version>{ICEBERG}</version>
<classifier>tests</classifier></dependency>
<dependency><groupId>org.apache.iceberg</groupId><artifactId>iceberg-aws</artifactId><version>{ICEBERG}</version></dependency>
<dependency><groupId>org.apache.iceberg</groupId><artifactId>iceberg-aws-bundle</artifactId><version>{ICEBERG}</version></dependency>
<dependency><groupId>org.eclipse.jetty</groupId><artifactId>jetty-servlet</artifactId><version>11.0.25</version></dependency>
<dependency><groupId>org.xerial</groupId><artifactId>sqlite-jdbc</artifactId><version>3.49.1.0</version></dependency>
<dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-client-api</artifactId><version>3.4.1</version></dependency>
<dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-client-runtime</artifactId><version>3.4.1</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>2.0.17</version></dependency>
</dependencies></project>
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def need(what, program, why):
    if not shutil.which(program):
        missing(what, why)


class Server:
    """A process that listens on a port."""

    def __init__(self, command, port, log, environment=None, **options):
        self.port, self.log = port, Path(log)
        with open(self.log, "a") as output:
            self.process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output,
                                            stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})},
                                            **options)
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert time.monotonic() < deadline, f"not up: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def s3(folder, versions=False):
    """An S3 server with the empty bucket `lake`, which can keep versions."""
    gateway = CACHE / f"versitygw-{VERSITY}" / "versitygw"
    if not gateway.exists():
        need("S3", "go", "there is no Go to build the S3 server with")
        subprocess.run(["go", "install", f"github.com/versity/versitygw/cmd/versitygw@v{VERSITY}"], check=True,
                       env={**os.environ, "GOBIN": str(gateway.parent), "GOFLAGS": "-mod=mod"}, timeout=900)
    for part in ("objects/lake", "attributes", "versions"):
        (Path(folder) / part).mkdir(parents=True)
    port = free_port()
    further = ["--versioning-dir", Path(folder) / "versions"] if versions else []
    return Server([gateway, "--port", f"127.0.0.1:{port}", "posix", "--sidecar", Path(folder) / "attributes", *further,
                   Path(folder) / "objects"], port, Path(folder) / "s3.log",
                  {"ROOT_ACCESS_KEY": KEY_ID, "ROOT_SECRET_KEY": KEY})


def ask_s3(server, method, key="", query=None, body=b""):
    """The answer to a signed request about the bucket `lake`, for what PyArrow has no call."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day, time_ = f"{now:%Y%m%d}", f"{now:%Y%m%dT%H%M%SZ}"
    quote = lambda text: urllib.parse.quote(text, safe="-_.~")  # noqa: E731
    path = urllib.parse.quote(f"/lake/{key}".rstrip("/"), safe="/-_.~")
    asked = "&".join(f"{quote(k)}={quote(v)}" for k, v in sorted((query or {}).items()))
    content = hashlib.sha256(body).hexdigest()
    headers = {"host": f"127.0.0.1:{server.port}", "x-amz-content-sha256": content, "x-amz-date": time_}
    names = ";".join(sorted(headers))
    canonical = "\n".join([method, path, asked, *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names,
                           content])
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", time_, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key_ = f"AWS4{KEY}".encode()
    for part in scope.split("/"):
        key_ = hmac.digest(key_, part.encode(), "sha256")
    headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={names}, "
                                f"Signature={hmac.digest(key_, text.encode(), 'sha256').hex()}")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path + (f"?{asked}" if asked else ""), body, headers)
    response = connection.getresponse()
    content = response.read()
    assert response.status < 300, content
    return content


def rest(folder, store=None):
    """Iceberg's REST catalogs, by the first part of the path; their tables are in `folder` or in the store."""
    need("REST", "java", "there is no Java")
    jars = CACHE / f"rest-{ICEBERG}"
    if not (jars / "done").exists():
        need("REST", "mvn", "there is no Maven to fetch the REST catalog with")
        shutil.rmtree(jars, ignore_errors=True)
        jars.mkdir(parents=True)
        (jars / "pom.xml").write_text(POM)
        subprocess.run(["mvn", "-q", "-B", "-f", jars / "pom.xml", "dependency:copy-dependencies",
                        "-DincludeScope=runtime", f"-DoutputDirectory={jars}"], check=True, timeout=900)
        (jars / "done").touch()
    port = free_port()
    warehouse, properties = f"file://{folder}/warehouse", []
    if store:
        warehouse = "s3://lake"
        properties += ["io-impl=org.apache.iceberg.aws.s3.S3FileIO", f"s3.endpoint={store.address}",
                       "s3.path-style-access=true", f"s3.access-key-id={KEY_ID}", f"s3.secret-access-key={KEY}",
                       "client.region=us-east-1"]
    return Server(["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{jars}/*", HERE / "RestCatalog.java", port,
                   folder, warehouse, *properties], port, Path(folder) / "rest.log")


def java(least):
    """A Java of at least this version: the one of the path, or one that is installed beside it."""
    homes = [os.environ["JAVA_HOME"]] if os.environ.get("JAVA_HOME") else []
    homes += sorted(map(str, Path("/usr/lib/jvm").glob("*")))
    for program in ["java", *(f"{home}/bin/java" for home in homes)]:
        if shutil.which(program):
            told = subprocess.run([program, "-version"], capture_output=True, text=True).stderr
            version = re.search(r'version "(\d+)', told)
            if version and int(version.group(1)) >= least:
                return program
    return missing("Nessie", f"there is no Java {least}: apt-get install openjdk-{least}-jre-headless, or set JAVA_HOME")


class Nessie:
    """Project Nessie's REST catalog, everything but the tables in memory; a branch of it is a catalog by itself."""

    def __init__(self, folder, store):
        program = java(21)
        home = CACHE / f"nessie-{NESSIE}"
        jar = home / f"nessie-quarkus-{NESSIE}-runner.jar"
        if not (home / "done").exists():
            need("Nessie", "mvn", "there is no Maven to fetch Nessie with")
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            subprocess.run(["mvn", "-q", "-B", "dependency:copy", f"-DoutputDirectory={home}",
                            f"-Dartifact=org.projectnessie.nessie:nessie-quarkus:{NESSIE}:jar:runner"],
                           check=True, timeout=900)
            with open(jar, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            assert found == NESSIE_SHA256, f"Maven gave another `{jar.name}`: {found}"
            (home / "done").touch()
        port, management = free_port(), free_port()
        s3 = "nessie.catalog.service.s3.default-options"
        settings = {
            "quarkus.http.host": "127.0.0.1", "quarkus.http.port": port,
            "quarkus.management.host": "127.0.0.1", "quarkus.management.port": management,
            "quarkus.otel.sdk.disabled": "true",
            "nessie.version.store.type": "IN_MEMORY",
            "nessie.catalog.default-warehouse": "lake",
            "nessie.catalog.warehouses.lake.location": "s3://lake/nessie",
            f"{s3}.endpoint": store.address, f"{s3}.path-style-access": "true", f"{s3}.region": "us-east-1",
            f"{s3}.request-signing-enabled": "false", f"{s3}.access-key": "urn:nessie-secret:quarkus:judge",
            "judge.name": KEY_ID, "judge.secret": KEY,
        }
        (Path(folder) / "nessie.properties").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        self.server = Server([program, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                              f"-Dquarkus.config.locations={folder}/nessie.properties", "-jar", jar], port,
                             Path(folder) / "nessie.log", cwd=folder)
        self.port = port

    def branch(self, name):
        """The address of a new, empty branch."""
        api = f"{self.server.address}/api/v2/trees"
        with urllib.request.urlopen(f"{api}/main", timeout=60) as answer:
            main = json.load(answer)["reference"]
        request = urllib.request.Request(f"{api}?name={name}&type=BRANCH", json.dumps(main).encode(),
                                         {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()
        return f"{self.server.address}/iceberg/{name}"

    def stop(self):
        self.server.stop()


class Proxy:
    """Stands before a REST catalog: asks for tokens, and fails when it is told to.

    `fail` is None, "before" (the next commit is not passed on and is answered with 503) or "after" (it is
    passed on, `meanwhile` is done, and the connection ends without an answer).
    """

    def __init__(self, target):
        proxy, self.target = self, target
        self.fail, self.failed, self.token, self.tokens, self.seen = None, 0, None, 0, []
        self.meanwhile = lambda: None

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path.endswith("/v1/oauth/tokens"):
                    form = urllib.parse.parse_qs(body.decode())
                    if form.get("client_secret") != ["of-the-client"] or form.get("client_id") != ["judge"]:
                        return self.answer(401, b'{"error": "invalid_client"}')
                    proxy.tokens += 1
                    proxy.token = f"token-{proxy.tokens}"
                    return self.answer(200, json.dumps({"access_token": proxy.token, "token_type": "bearer"}).encode())
                if self.headers.get("Authorization") != f"Bearer {proxy.token}":
                    return self.answer(401, b'{"error": {"message": "no", "type": "NotAuthorizedException", "code": 401}}')
                proxy.seen.append((self.command, self.path))
                commit = self.command == "POST" and b'"requirements"' in body
                if commit and proxy.fail == "before":
                    proxy.fail, proxy.failed = None, proxy.failed + 1
                    return self.answer(503, b'{"error": {"message": "later", "type": "Slow", "code": 503}}')
                connection = http.client.HTTPConnection(urllib.parse.urlsplit(proxy.target).netloc, timeout=60)
                kept = {"Content-Type": self.headers["Content-Type"]} if self.headers["Content-Type"] else {}
                connection.request(self.command, self.path, body or None, kept)
                response = connection.getresponse()
                content = response.read()
                if commit and proxy.fail == "after":
                    assert response.status == 200, content
                    proxy.fail, proxy.failed = None, proxy.failed + 1
                    proxy.meanwhile()
                    self.close_connection = True
                    return None
                # A server tells its own address, which would be gone to past the proxy.
                own = f"127.0.0.1:{urllib.parse.urlsplit(proxy.target).port}"
                here = f"127.0.0.1:{proxy.server.server_port}"
                if "/v1/config" in self.path:
                    content = content.replace(own.encode(), here.encode())
                return self.answer(response.status, content)

            do_GET = do_POST = do_DELETE = do_HEAD = forward

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}{urllib.parse.urlsplit(target).path}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Postgres:
    """A database server with the database `lake`, user `judge`."""

    def __init__(self, folder, tls=False):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [
            Path(path) for path in [shutil.which("initdb")] if path]
        if not found:
            missing("PostgreSQL", "there is no PostgreSQL server: apt-get install postgresql")
        self.programs, self.folder, self.port = found[-1].parent, Path(folder), free_port()
        self.folder.mkdir(parents=True)
        # The server refuses to run as root.
        self.user = {}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres" if "postgres" in (u.pw_name for u in pwd.getpwall()) else "nobody")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            above = self.folder
            while above != Path("/tmp") and above != above.parent:
                above = above.parent
                if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
                    above.chmod(above.stat().st_mode | 0o011)
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.password = "of-the-judge"
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        self.call("initdb", "-D", self.folder / "data", "-U", "judge", "--auth=scram-sha-256", f"--pwfile={secret}",
                  "--no-sync", "-E", "UTF8", "--locale=C")
        if tls:
            need("TLS", "openssl", "there is no openssl to make a certificate with")
            self.certificate, key = self.folder / "certificate.pem", self.folder / "data" / "key.pem"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                            "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                            "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out",
                            self.certificate], check=True, capture_output=True)
            key.chmod(0o600)
            if self.user:
                os.chown(key, self.user["user"], self.user["group"])
            with open(self.folder / "data" / "postgresql.conf", "a") as settings:
                settings.write(f"ssl = on\nssl_cert_file = '{self.certificate}'\nssl_key_file = '{key}'\n")
        self.start()
        self.sql("CREATE DATABASE lake", "postgres")

    def call(self, program, *arguments):
        done = subprocess.run([self.programs / program, *map(str, arguments)], capture_output=True, text=True,
                              timeout=120, cwd=self.folder, **self.user)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def start(self):
        self.server = Server([self.programs / "postgres", "-D", self.folder / "data", "-p", self.port, "-h",
                              "127.0.0.1", "-k", self.folder], self.port, self.folder.parent / "postgres.log",
                             cwd=self.folder, **self.user)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.sql("SELECT 1", "postgres")
                return
            except Exception:  # noqa: BLE001  it is starting up
                assert time.monotonic() < deadline, self.server.log.read_text()[-2000:]
                time.sleep(0.1)

    def sql(self, statement, database="lake"):
        import psycopg2

        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="judge", password=self.password,
                                      dbname=database)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    @property
    def uri(self):
        return f"postgresql://judge@127.0.0.1:{self.port}/lake"

    def stop(self):
        # SIGINT ends it at once; SIGTERM waits for clients.
        self.server.process.send_signal(signal.SIGINT)
        self.server.process.wait(20)


def azure(folder):
    """Azurite with the empty container `lake`."""
    need("Azure", "node", "there is no Node")
    home = CACHE / f"azurite-{AZURITE}"
    program = home / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        need("Azure", "npm", "there is no npm to fetch Azurite with")
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--prefix", home, f"azurite@{AZURITE}"],
                       check=True, timeout=600)
    port = free_port()
    server = Server([program, "--blobHost", "127.0.0.1", "--blobPort", port, "--location", folder,
                     "--skipApiVersionCheck", "--disableTelemetry", "--silent"], port, Path(folder) / "azure.log")
    from pyarrow.fs import AzureFileSystem

    authority = f"127.0.0.1:{port}"
    AzureFileSystem(AZURE_ACCOUNT, account_key=AZURE_KEY, blob_storage_authority=authority, blob_storage_scheme="http",
                    dfs_storage_authority=authority, dfs_storage_scheme="http").create_dir("lake")
    return server
