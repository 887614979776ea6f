"""Write to a store without end, as fast as possible; whoever started this kills it. Run as `kill_writer.py ROOT`."""

import sys

from fmray.store import Store, write_atomic_folder


def main(root: str) -> None:
    store = Store(root)
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        text = str(number) * 500
        store.write_json("runs/j/value.json", {"number": number, "text": text})
        store.append("runs/j/events.jsonl", {"number": number, "text": text})
        write_atomic_folder(
            store.path("runs/j/states", f"{number:08d}"), {"a": text.encode(), "b": b"x"}, {"number": number}
        )
        with store.create("things", f"t{number}") as draft:
            with open(f"{draft.folder}/data", "w") as file:
                file.write(text)
            draft.commit({"number": number})


if __name__ == "__main__":
    main(sys.argv[1])
