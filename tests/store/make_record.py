"""Make the record t1 of a store, taking some seconds, or read it. Run as `make_record.py ROOT SECONDS`."""

import os
import sys
import time
from pathlib import Path

from fmray.store import Store


def main(root: str, seconds: float) -> None:
    with Store(root).create("things", "t1") as draft:
        if draft.existing is None:
            Path(draft.folder, "data.txt").write_text(str(os.getpid()))
            time.sleep(seconds)
            draft.commit({"by": os.getpid()})
            print("made")
        else:
            print("read")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
