"""Names that lead somewhere else: of classes, which gsd-export makes folders of, and of optional sections."""

import tempfile
from pathlib import Path

from gsdata import forging
from victim import command, good_file, open_all, report, said_badly

NAMES = (
    "../../escaped", "..", ".", "a/../../escaped", "..\\..\\escaped", "C:\\escaped", "\\\\host\\share", "~", "$HOME",
    "nul\0byte", "line\nbreak", "CON", "aux.txt", "x" * 5000, "same", "SAME", "-rf", " ", "", "%2e%2e%2f", "export.json", "a.", "\u202egnp",
)  # fmt: skip
BAD_SECTIONS = ("../a.b", "/etc/passwd", "a..b", "a", "test." + "x" * 40, "counts", "A.b", "a.b\n", "")


def inside(folder: Path) -> set[Path]:
    """All files below a folder, and where links lead."""
    return {path.resolve() for path in folder.rglob("*") if not path.is_dir()}


def export(kind: str, names: tuple[str, ...]) -> list[str]:
    """What is wrong after an export of a file with these classes: anything outside its output, or a class without its image."""
    with tempfile.TemporaryDirectory() as name:
        around = Path(name).resolve()
        victim = around / "a" / "b" / "c"
        victim.mkdir(parents=True)
        names = (*names, str(around / "escaped"))
        count = len(names)
        (around / "hostile.gsd").write_bytes(good_file(count, labels=list(range(count)), classes=names))
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
sections_named = {
    f"an optional section named {name[:20]!r}": forging.put_together(
        header | {"sections": [*header["sections"][:-1], name]}, sections
    )
    for name in BAD_SECTIONS
}
failures = [*export("png", NAMES[:1]), *export("png", NAMES), *export("wds", NAMES)]
report([*failures, *open_all(sections_named, expect_error=True)])
