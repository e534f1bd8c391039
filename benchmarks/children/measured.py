"""Run a command, let it print, then print its exit code, its seconds and the most memory it held as a line of JSON.

It is a process of its own, small since it imports little, because Linux counts what the starting process holds at that
moment towards the peak of the started one.
"""

import json
import os
import subprocess
import sys
import time

BYTES_A_UNIT = 1 if sys.platform == "darwin" else 1024


def main(command: list[str]) -> None:
    """The peak is the kernel's count (`wait4`), which includes file pages that are mapped and have been read."""
    began = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    print(json.dumps({"exit_code": child.returncode, "seconds": time.perf_counter() - began,
                      "peak_rss_bytes": usage.ru_maxrss * BYTES_A_UNIT}))


if __name__ == "__main__":
    main(sys.argv[1:])
