"""The vector process of the embedded stack: `edge_server`, with its log in our format."""

import os
import sys

from ke.runtime import logs
from ke.storage.vectors import edge_server

if __name__ == "__main__":
    logs.configure("vectors", os.environ.get("KE_LOG_LEVEL", "INFO"))
    sys.exit(edge_server.main())
