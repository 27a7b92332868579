"""A health check for containers: `python -IS deploy/compose/ready.py PORT` exits with 0 when `/ready` answers 200.

The image has no curl. `http.client` and not `urllib`, which would ask a proxy that the engine puts into containers.
"""

import sys
from http.client import HTTPConnection

connection = HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=3)
connection.request("GET", "/ready")
answer = connection.getresponse()
print(answer.status, answer.read(2000).decode(errors="replace"))
sys.exit(answer.status != 200)
