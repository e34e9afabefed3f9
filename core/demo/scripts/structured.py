"""A log of JSON objects, one a line, as services write them for collectors."""

import json
import random
import signal
import sys
import time

PATHS = ("/", "/login", "/api/orders", "/api/orders/17", "/static/app.js")
LEVELS = ("debug", "info", "info", "info", "info", "warning", "error")

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container has no default action
while True:
    level = random.choice(LEVELS)
    record: dict[str, object] = {
        "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": level,
        "msg": {"warning": "slow request", "error": "request failed"}.get(level, "request"),
        "method": random.choice(("GET", "GET", "POST")),
        "path": random.choice(PATHS),
        "status": 500 if level == "error" else 200,
        "duration_ms": round(random.expovariate(1 / 40), 1),
        "client": {"ip": f"192.0.2.{random.randrange(1, 255)}", "agent": "demo/1.0"},
    }
    print(json.dumps(record), flush=True)
    time.sleep(1)
