"""What the scripts share: their arguments, and one way to fail."""

import os
import ssl
import sys

how, host, port, ca, user, other = sys.argv[1:7]
port = int(port)
password = os.environ["PASSWORD"]
context = ssl.create_default_context(cafile=ca)
timeout = 30


def check(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")
