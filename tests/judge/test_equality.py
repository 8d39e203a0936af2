"""Deletes by value, written by Iceberg's Java library: the rows that are left are Spark's.

DuckDB is asked as well where no value is null: 1.5.5 takes rows with nulls out that no delete has.
"""

import contextlib
import datetime
import uuid

import pyarrow as pa
import pytest

from lakehouse import FEATURES, Project, canonical, duckdb_connection, multiset, rows

DAY = datetime.date(2026, 3, 1)
CREATE = "(id INT, name STRING, day DATE, big BIGINT, region STRING, note STRING)"


class Lake(Project):
    """A project that Java's library and ours write in turn."""

    def open(self, spark):
        self.spark = spark
        return self

    @property
    def java(self):
        return self.spark._jvm.org.apache.iceberg

    @contextlib.contextmanager
    def loaded(self, table):
        """The table by Java's own catalog, which is closed again: one that stays open keeps SQLite locked."""
        catalog = self.java.jdbc.JdbcCatalog()
        catalog.setConf(self.spark._jsc.hadoopConfiguration())
        catalog.initialize("insightera", {"uri": f"jdbc:sqlite:{self.database}", "jdbc.schema-version": "V1",
                                          "warehouse": f"file://{self.folder}/warehouse"})
        try:
            yield catalog.loadTable(self.java.catalog.TableIdentifier.parse(table))
        finally:
            catalog.close()

    def read_with_spark(self, table):
        frame = self.spark.read.format("iceberg").load(self.metadata_location(table).removeprefix("file://"))
        found = [row.asDict() for row in frame.collect()]
        return pa.table({column: [row[column] for row in found] for column in frame.columns})

    def new_file(self, loaded):
        name = f"deletes-{uuid.uuid4()}.parquet"
        place = loaded.locationProvider().newDataLocation(name)
        return self.java.encryption.EncryptedFiles.plainAsEncryptedOutput(loaded.io().newOutputFile(place))

    def delete_by_position(self, table, column, value):
        """One commit with one delete file: the rows of data files that have this value."""
        import pyarrow.parquet as pq

        places = []
        for path in sorted(self.table(table).inspect.files()["file_path"].to_pylist()):
            if "deletes-" not in path:
                found = pq.read_table(path.removeprefix("file://"), columns=[column])[column].to_pylist()
                places += [(path, row) for row, value_ in enumerate(found) if value_ == value]
        with self.loaded(table) as loaded:
            factory = self.java.data.GenericAppenderFactory(loaded.schema(), loaded.spec())
            writer = factory.newPosDeleteWriter(self.new_file(loaded), self.java.FileFormat.PARQUET, None)
            for path, row in places:
                writer.write(self.java.deletes.PositionDelete.create().set(path, row, None))
            writer.close()
            loaded.newRowDelta().addDeletes(writer.toDeleteFile()).commit()

    def set_long(self, record, column, value):
        """A small number of Python's would become an Integer of Java's."""
        gateway, java = self.spark._sc._gateway, self.spark._jvm.java
        numbers = gateway.new_array(self.spark._jvm.long, 1)
        numbers[0] = value
        boxed = java.util.stream.LongStream.of(numbers).boxed().toArray()
        given = gateway.new_array(java.lang.Object, 2)
        given[0] = column
        java.lang.System.arraycopy(boxed, 0, given, 1, 1)
        kinds = gateway.new_array(java.lang.Class, 2)
        kinds[0], kinds[1] = java.lang.Class.forName("java.lang.String"), java.lang.Class.forName("java.lang.Object")
        record.getClass().getMethod("setField", kinds).invoke(record, given)

    def delete_by_value(self, table, columns, values, partition=None, spec_id=None):
        """One commit with one delete file: rows of older files with these values in these columns are gone.

        `partition` has the values of the partition's columns.
        """
        with self.loaded(table) as loaded:
            whole = loaded.schema()
            spec = loaded.spec() if spec_id is None else loaded.specs().get(spec_id)
            schema = whole.select(columns)
            ids = self.spark._sc._gateway.new_array(self.spark._jvm.int, len(columns))
            for at, column in enumerate(columns):
                ids[at] = whole.findField(column).fieldId()
            key = None
            if partition:
                row = self.java.data.GenericRecord.create(whole)
                for column, value in partition.items():
                    row.setField(column, value)
                key = self.java.PartitionKey(spec, whole)
                key.partition(row)
            factory = self.java.data.GenericAppenderFactory(whole, spec, ids, schema, None)
            writer = factory.newEqDeleteWriter(self.new_file(loaded), self.java.FileFormat.PARQUET, key)
            for value in values:
                record = self.java.data.GenericRecord.create(schema)
                for column, part in zip(columns, value, strict=True):
                    if isinstance(part, int) and str(whole.findField(column).type()) == "long":
                        self.set_long(record, column, part)
                        continue
                    if isinstance(part, datetime.date):
                        part = self.spark._jvm.java.time.LocalDate.parse(part.isoformat())
                    record.setField(column, part)
                writer.write(record)
            writer.close()
            file = writer.toDeleteFile()
            assert file.content().toString() == "EQUALITY_DELETES" and list(file.equalityFieldIds()) == list(ids)
            loaded.newRowDelta().addDeletes(file).commit()

    def ours(self, statement):
        answer = self.call("sql", statement)
        assert answer.code == 0, (statement, answer)

    def same(self, table, count, duckdb=False):
        """The rows as everybody reads them."""
        judged = self.read_with_spark(table)
        columns = judged.column_names
        wanted = multiset(judged)
        found = {}
        for row in self.sql(f"SELECT {', '.join(columns)} FROM {table}"):
            values = []
            for column in columns:
                value = row[column]
                if column == "day" and value is not None:
                    value = datetime.date.fromisoformat(value)
                values.append(canonical(value))
            found[tuple(values)] = found.get(tuple(values), 0) + 1
        assert found == wanted, (sorted(map(str, found)), sorted(map(str, wanted)))
        assert sum(wanted.values()) == count, wanted
        # The key alone: the deletes' columns are read though nobody asks for them.
        counted = self.sql(f"SELECT count(*) AS n, count(DISTINCT note) AS notes FROM {table}")[0]
        assert counted == {"n": count, "notes": len(set(judged["note"].to_pylist()))}
        if duckdb:
            by_duckdb = duckdb_connection().sql(f"SELECT * FROM iceberg_scan('{self.metadata_location(table)}')")
            assert multiset(by_duckdb.to_arrow_table(), columns) == wanted
        return wanted


@pytest.fixture
def lake(tmp_path, binary, spark_driver):
    return Lake(tmp_path / "project", binary).create().open(spark_driver)


def values(numbers, note, region="'north'"):
    """One row a number; every seventh has no name, every eleventh no day."""
    made = []
    for n in numbers:
        name = "NULL" if n % 7 == 0 else f"'n{n % 5}'"
        day = "NULL" if n % 11 == 0 else f"DATE '{DAY + datetime.timedelta(days=n % 3)}'"
        made.append(f"({n}, {name}, {day}, {n * 3_000_000_000}, {region}, '{note}-{n}')")
    return ", ".join(made)


def kept(numbers, gone):
    return [n for n in numbers if not gone(n)]


def test_deletes_of_several_columns_ages_and_types_hit_the_same_rows(lake):
    lake.ours(f"CREATE TABLE lake.people {CREATE}")
    lake.ours(f"INSERT INTO lake.people VALUES {values(range(60), 'a')}")
    lake.delete_by_value("lake.people", ["name"], [["n1"], [None]])
    first = kept(range(60), lambda n: n % 7 == 0 or n % 5 == 1)
    lake.same("lake.people", len(first))

    # The same values again are newer than the deletes, and stay.
    lake.ours(f"INSERT INTO lake.people VALUES {values(range(60), 'b')}")
    lake.same("lake.people", len(first) + 60)

    # Two columns, nulls among them; of a day that is another's.
    lake.delete_by_value("lake.people", ["id", "day"], [[22, None], [2, DAY + datetime.timedelta(days=2)], [3, None],
                                                         [4, DAY]])
    both = lambda n: n in (22, 2)  # noqa: E731
    first, second = kept(first, both), kept(range(60), both)
    lake.same("lake.people", len(first) + len(second))

    # Large numbers, and the columns of an earlier file once more with a newer number.
    lake.delete_by_value("lake.people", ["big"], [[n * 3_000_000_000] for n in (30, 31, 1000)])
    lake.delete_by_value("lake.people", ["name"], [["n2"]])
    more = lambda n: n in (30, 31) or (n % 5 == 2 and n % 7 != 0)  # noqa: E731
    first, second = kept(first, more), kept(second, more)
    lake.same("lake.people", len(first) + len(second))

    # Columns that have other names and types by now, or were not there before.
    lake.ours("ALTER TABLE lake.people RENAME COLUMN name TO label")
    lake.ours("ALTER TABLE lake.people ALTER COLUMN id TYPE BIGINT")
    lake.ours("ALTER TABLE lake.people ADD COLUMN level INT")
    lake.ours("INSERT INTO lake.people VALUES (7000000000, 'n3', NULL, 1, 'north', 'c-1', 4), (40, 'n3', NULL, 1, 'north', 'c-2', NULL)")
    lake.delete_by_value("lake.people", ["label", "id"], [["n3", 33], ["n3", 7000000000], ["n0", 40]])
    old = lambda n: n in (33, 40)  # noqa: E731
    first, second = kept(first, old), kept(second, old)
    lake.same("lake.people", len(first) + len(second) + 1)
    lake.delete_by_value("lake.people", ["level", "id"], [[None, 44], [5, 45]])
    first, second = kept(first, lambda n: n == 44), kept(second, lambda n: n == 44)
    total = len(first) + len(second) + 1
    before = lake.same("lake.people", total)

    # By position on top; then our own rewrite, and deletes after it.
    lake.delete_by_position("lake.people", "note", "b-9")
    lake.same("lake.people", total - 1)
    done = lake.sql("CALL system.rewrite_data_files(table => 'lake.people', options => map('rewrite-all', 'true'))")[0]
    assert done["rewritten_data_files_count"] >= 3, done
    assert lake.same("lake.people", total - 1) < before
    assert lake.sql("SELECT count(*) AS n FROM lake.people.files WHERE content > 0") == [{"n": 0}]
    lake.delete_by_value("lake.people", ["label"], [["n4"]])
    gone = lambda n: n % 5 == 4 and n % 7 != 0  # noqa: E731
    first, second = kept(first, gone), kept(kept(second, lambda n: n == 9), gone)
    total = len(first) + len(second) + 1
    lake.same("lake.people", total)

    # Our own statements on a table with such deletes.
    lake.ours("DELETE FROM lake.people WHERE note = 'c-2'")
    lake.ours("UPDATE lake.people SET region = 'south' WHERE id < 30")
    lake.same("lake.people", total - 1)


def test_duckdb_agrees_where_no_value_is_null(lake):
    rows_of = lambda numbers, note: values([n for n in numbers if n % 7 and n % 11], note)  # noqa: E731
    lake.ours(f"CREATE TABLE lake.whole {CREATE}")
    lake.ours(f"INSERT INTO lake.whole VALUES {rows_of(range(30), 'a')}")
    lake.ours(f"INSERT INTO lake.whole VALUES {rows_of(range(30), 'b')}")
    everything = [n for n in range(30) if n % 7 and n % 11]
    lake.same("lake.whole", 2 * len(everything), duckdb=True)
    lake.delete_by_value("lake.whole", ["name"], [["n1"], ["n4"]])
    left = kept(everything, lambda n: n % 5 in (1, 4))
    lake.same("lake.whole", 2 * len(left), duckdb=True)
    lake.ours(f"INSERT INTO lake.whole VALUES {rows_of(range(30), 'c')}")
    lake.delete_by_value("lake.whole", ["id", "day"], [[2, DAY + datetime.timedelta(days=2)], [3, DAY + datetime.timedelta(days=2)]])
    left, newer = kept(left, lambda n: n == 2), kept(everything, lambda n: n == 2)
    lake.same("lake.whole", 2 * len(left) + len(newer), duckdb=True)
    lake.sql("CALL system.rewrite_data_files(table => 'lake.whole', options => map('rewrite-all', 'true'))")
    lake.same("lake.whole", 2 * len(left) + len(newer), duckdb=True)


def test_deletes_reach_their_partition_or_all_of_them(lake):
    lake.ours(f"CREATE TABLE lake.parts {CREATE}")
    lake.ours(f"INSERT INTO lake.parts VALUES {values(range(12), 'a')}")
    lake.ours("ALTER TABLE lake.parts ADD PARTITION FIELD region")
    north, south = (f"INSERT INTO lake.parts VALUES {values(range(12), note, region)}"
                    for note, region in (("n", "'north'"), ("s", "'south'")))
    lake.ours(north)
    lake.ours(south)
    lake.ours(f"INSERT INTO lake.parts VALUES {values(range(3), 'u', 'NULL')}")
    lake.same("lake.parts", 39)
    lake.delete_by_value("lake.parts", ["id"], [[3], [4]], partition={"region": "south"})
    lake.same("lake.parts", 37)
    # A partition whose value is null.
    lake.delete_by_value("lake.parts", ["id"], [[2], [3]], partition={"region": None})
    lake.same("lake.parts", 36)
    # Of the time before there were partitions: it reaches all of them.
    lake.delete_by_value("lake.parts", ["id"], [[5]], spec_id=0)
    lake.same("lake.parts", 33)
    lake.delete_by_value("lake.parts", ["name", "id"], [["n1", 1]], partition={"region": "north"})
    lake.same("lake.parts", 32)
    done = lake.sql("CALL system.rewrite_data_files(table => 'lake.parts', where => \"region = 'south'\", options => "
                    "map('rewrite-all', 'true'))")[0]
    assert done["rewritten_data_files_count"] >= 1, done
    lake.same("lake.parts", 32)
    lake.sql("CALL system.rewrite_data_files(table => 'lake.parts', options => map('rewrite-all', 'true'))")
    lake.same("lake.parts", 32)
    lake.delete_by_value("lake.parts", ["region"], [["south"]], partition={"region": "south"})
    lake.same("lake.parts", 32 - 9)


def test_a_run_sees_what_was_deleted_by_value(lake, small_model):
    lake.make_table(FEATURES, rows(range(100)), rows(range(100, 200)))
    lake.pipeline()
    lake.register(small_model)
    assert lake.run()["scored"] == 200
    lake.delete_by_value(FEATURES, ["nim"], [["000003"], ["000150"], ["900000"]])
    answer = lake.run()
    assert (answer["scored"], answer["removed"]) == (0, 2), answer
    # Deleted and written anew, as an upsert does.
    lake.delete_by_value(FEATURES, ["nim"], [["000004"]])
    lake.ours(f"INSERT INTO {FEATURES} VALUES ('000004', 1.25, 0.5, TIMESTAMP '2026-10-02 00:00:00')")
    answer = lake.run()
    assert (answer["scored"], answer["removed"], answer["reasons"]) == (1, 0, {"update": 1}), answer
    assert lake.verify()[0] == 0
