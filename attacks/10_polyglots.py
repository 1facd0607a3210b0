"""Files that are something else, too: a reader must take none of it for its own, and run none of it."""

import io
import pickle
import tempfile
import zipfile
from pathlib import Path

from gsdata import forging
from victim import command, good_file, open_all, report, said_badly

with tempfile.TemporaryDirectory() as folder:
    proof = Path(folder) / "it-ran"

    class Payload:
        """Makes a file when it is unpickled."""

        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (proof,)

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("archive/data.pkl", pickle.dumps(Payload()))
    script = f"#!/bin/sh\ntouch {proof}\nexit\n".encode()
    page = f"<!DOCTYPE html><script>alert(1)</script><img src=x onerror=alert('{proof}')>".encode()
    good = good_file()
    both = {"pickle": pickle.dumps(Payload()), "zip (a checkpoint of PyTorch)": archive.getvalue(), "script": script}
    both |= {"web page": page, "PDF": b"%PDF-1.7\n%%EOF\n"}
    refused = {f"a {name} with a .gsd after it": data + good for name, data in both.items()}
    refused |= {f"a .gsd with a {name} after it": good + data for name, data in both.items()}
    refused |= {f"a {name} alone": data for name, data in both.items()}
    header, sections = forging.take_apart(good)
    hidden = forging.put_together(header, sections, file_length=len(good) + 4) + b"PK\5\6"
    refused["a file length that covers what is appended"] = hidden
    harmless = {
        f"a {name} as optional section and as metadata": good_file(
            optional_sections={"test.hidden": data}, metadata={"data": data, "text": data.decode("latin-1")}
        )
        for name, data in both.items()
    }
    # A zip is read from its end, so that the last optional section makes the file a whole zip, too.
    assert all(zipfile.is_zipfile(io.BytesIO(data)) for name, data in harmless.items() if "zip" in name)
    failures = open_all(refused, expect_error=True) + open_all(harmless, expect_error=False)
    for number, data in enumerate(harmless.values()):
        path = Path(folder) / f"{number}.gsd"
        path.write_bytes(data)
        failures += said_badly("gsd-inspect of it", command("inspect", path, "--verify"), [0])
    report([*failures, *(["something ran"] if proof.exists() else [])])
