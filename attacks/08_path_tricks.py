"""Names that lead somewhere else: of classes, which gsd-export makes folders of, and of optional sections."""

import tempfile
from pathlib import Path

from gsdata import forging
from victim import command, good_file, open_all, report, said_badly

NAMES = (
    "../../escaped", "/escaped", "..", ".", "a/../../escaped", "..\\..\\escaped", "C:\\escaped", "\\\\host\\share", "~", "$HOME",
    "nul\0byte", "line\nbreak", "CON", "aux.txt", "x" * 5000, "same", "SAME", "-rf", " ", "", "%2e%2e%2f", "export.json", "a.", "\u202egnp",
)  # fmt: skip
BAD_SECTIONS = ("../a.b", "/etc/passwd", "a..b", "a", "test." + "x" * 40, "counts", "A.b", "a.b\n", "")


def inside(folder: Path) -> set[Path]:
    """All files below a folder, and where links lead."""
    return {path.resolve() for path in folder.rglob("*") if not path.is_dir()}


def export(kind: str) -> list[str]:
    """What is wrong after an export of a file with these classes: anything outside its output, or a class without its image."""
    with tempfile.TemporaryDirectory() as name:
        around = Path(name).resolve()
        victim = around / "a" / "b" / "c"
        victim.mkdir(parents=True)
        count = len(NAMES)
        (around / "hostile.gsd").write_bytes(good_file(count, labels=list(range(count)), classes=NAMES))
        out = victim / "out"
        done = command("export", around / "hostile.gsd", "--to", kind, "-o", out)
        outside = [path for path in inside(around) - {around / "hostile.gsd"} if out not in path.parents]
        found = [f"gsd-export --to {kind} wrote {path}" for path in outside]
        if kind == "png":
            folders = {path.parent.name for path in inside(out) if path.suffix == ".png"}
            print(f"  folders: {', '.join(sorted(folders))[:200]}")
            found += [f"{len(folders)} folders for {count} classes"] if len(folders) != count else []
        return found + said_badly(f"gsd-export --to {kind} of {count} classes with hostile names", done, [0])


header, sections = forging.take_apart(good_file(optional_sections={"test.a": b"x"}))
names = {
    f"an optional section named {name[:20]!r}": forging.put_together(
        header | {"sections": [*header["sections"][:-1], name]}, sections
    )
    for name in BAD_SECTIONS
}
report([*export("png"), *export("wds"), *open_all(names, expect_error=True)])
