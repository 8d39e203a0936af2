import os, signal, time
import test_stream_kafka as K
from test_stream_kafka import *  # noqa
for n in list(globals()):
    if n.startswith("test_"): del globals()[n]
def test_stop(stream, broker, small_model):
    project, topic = stream
    write_pipeline(project, source_of(topic, broker))
    broker.topic(topic, 2)
    sent = Partitions(broker, topic, 2)
    process = running(project, "live")
    times = []
    try:
        for wait in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
            sent(25)
            time.sleep(wait)
            broker.process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=100)
            except Exception:
                os.system(f"gdb -p {process.pid} -batch -ex 'thread apply all bt 12' > /work/t/stop.gdb 2>&1")
            times.append((wait, round(time.monotonic() - begun, 1), process.returncode))
            broker.process.send_signal(signal.SIGCONT)
            process = running(project, "live")
            time.sleep(4)
    finally:
        broker.process.send_signal(signal.SIGCONT)
    print("TIMES", times)
    stop(process)
