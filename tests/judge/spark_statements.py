"""Runs SQL statements in a Spark of its own: spark_statements.py STATEMENTS.json SCRATCH

STATEMENTS.json holds [project folder, [statement, ...]]; the rows of the last
statement are printed as JSON. Exit code 3: there is no Spark here.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "bench"))

project, statements = json.loads(Path(sys.argv[1]).read_text())
try:
    from spark_session import session

    spark = session("judge", sys.argv[2], project=project, driver_memory="2g")
except Exception as error:  # no Java, no Maven, no jar
    print(str(error).splitlines()[0], file=sys.stderr)
    sys.exit(3)
rows = []
for statement in statements:
    rows = [row.asDict() for row in spark.sql(statement).collect()]
print(json.dumps(rows, default=str))
spark.stop()
