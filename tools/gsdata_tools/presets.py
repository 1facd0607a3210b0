"""``gsd-distill --preset``: the settings of the published sets, and our own beside them.

A preset is nothing but words of a command line, put before those that were typed: what is typed overrides it, and the run records
resolved options as for any other command. ``gsdd-*`` are the rows of GSDD (arXiv:2509.26219, appendix A, Tables 7 to 12; ``-config`` and
``-script``: its published code, where that differs), with their images, Gaussians and protocols. Such a set takes 144 bits a Gaussian there, which
is how it uses up its IPC; here it takes about a third of that, and the preset asks for those bytes. ``gsdata-*`` are the same methods
with all bytes of the IPC, spent as the planner would.

Not as published: the optimiser of the Gaussians and its rates, and the first fit. Whether images are whitened, the experts say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gsdata.budget import Bits, coded_bits
from gsdata_tools.usage import UsageError, note

BITS = Bits(10, 8, 8, 8)
"""Widths of the ``gsdd-*`` presets: bfloat16, in which they were published, has 8 significant bits."""
FIXED_BYTES = 1001
"""What ``gsdata.budget.plan`` takes off for header, table and labels, and one for rounding."""
BUDGET = ("--bytes", "--ipc")
_PUBLISHED = "--boundary 0.1 --init real --choose random"


@dataclass(frozen=True)
class Preset:
    """The settings of one set.

    Attributes:
        method: verb of ``gsd-distill``.
        ipc: the published budget.
        images: of each class; 0 leaves images, Gaussians and widths to the planner, which spends the whole budget.
        gaussians: of each image; not used without ``images``.
        protocol: what else the command line says.
        classes: number of classes.
        side: height and width of the images.
        measured: what ``benchmarks/results/`` says about it.
    """

    method: str
    ipc: int
    images: int
    gaussians: int
    protocol: str
    classes: int = 10
    side: int = 32
    measured: str = "not measured"

    @property
    def bytes(self) -> int:
        """Bytes that hold ``images`` of ``gaussians`` at ``BITS``, as far as can be said before coding."""
        bits = coded_bits(BITS, (self.side, self.side), self.gaussians)
        return math.ceil(self.classes * self.images * self.gaussians * bits / 8) + FIXED_BYTES

    def budget(self) -> list[str]:
        """Words that say how many bytes there are."""
        return ["--bytes", str(self.bytes)] if self.images else ["--ipc", str(self.ipc)]

    def words(self) -> list[str]:
        """All other words, without the verb."""
        if not self.images:
            return self.protocol.split()
        counts = f"--images-per-class {self.images} --gaussians {self.gaussians} --bits {','.join(map(str, BITS))}"
        return [*counts.split(), *_PUBLISHED.split(), *self.protocol.split()]


def _tm(data: str, syn_steps: int, batch_syn: int, start: int, lr_lr: str, model: str = "ConvNet-D3") -> str:
    """Tables 7 to 9."""
    return (
        f"{data} --model {model} --iterations 15000 --syn-steps {syn_steps} --batch-syn {batch_syn} "
        f"--max-start-epoch {start} --expert-epochs 2 --lr-init 0.01 --lr-lr {lr_lr}"
    ).strip()


def _dm(data: str, batch_real: int, batch_syn: int = 0, model: str = "ConvNet-D5") -> str:
    """Tables 10 and 11; one step for all classes, where the published code makes one for each in turn."""
    return (
        f"{data} --model {model} --iterations 20000 --batch-real {batch_real} --batch-syn {batch_syn} "
        "--classes-per-step 0 --networks random"
    )


def _dc(batch_real: int, iterations: int) -> str:
    """Table 12."""
    return (
        f"{_NETTE} --model ConvNet-D5 --iterations {iterations} --batch-real {batch_real} --batch-syn 0 "
        "--classes-per-step 0 --outer-loop 1 --networks random"
    )


_C10, _NETTE = "--data cifar10", "--data imagenette-128"
# CIFAR-100 and 256 pixels have no built-in name: --data is left to the user.
PRESETS = {
    "gsdd-cifar10-ipc1": Preset("tm", 1, 30, 22, _tm(_C10, 60, 300, 30, "1e-5")),
    "gsdd-cifar10-ipc10": Preset("tm", 10, 160, 42, _tm(_C10, 60, 380, 30, "1e-5")),
    "gsdd-cifar10-ipc10-config": Preset("tm", 10, 80, 85, _tm(_C10, 60, 312, 30, "1e-5")),
    "gsdd-cifar10-ipc10-script": Preset("tm", 10, 120, 56, _tm(_C10, 60, 312, 30, "1e-5")),
    "gsdd-cifar10-ipc50": Preset("tm", 50, 250, 136, _tm(_C10, 60, 360, 30, "1e-5")),
    "gsdd-cifar100-ipc1": Preset("tm", 1, 30, 22, _tm("", 60, 512, 30, "1e-5"), 100),
    "gsdd-cifar100-ipc10": Preset("tm", 10, 80, 85, _tm("", 60, 512, 30, "1e-5"), 100),
    "gsdd-cifar100-ipc50": Preset("tm", 50, 400, 85, _tm("", 60, 640, 30, "1e-5"), 100),
    "gsdd-imagenet128-ipc1": Preset("tm", 1, 64, 170, _tm(_NETTE, 20, 150, 40, "1e-6", "ConvNet-D5"), side=128),
    "gsdd-imagenet128-ipc10": Preset("tm", 10, 640, 170, _tm(_NETTE, 20, 160, 40, "1e-5", "ConvNet-D5"), side=128),
    "gsdd-imagenet128-ipc1-dm": Preset("dm", 1, 200, 54, _dm(_NETTE, 1024), side=128),
    "gsdd-imagenet128-ipc1-dm-config": Preset("dm", 1, 120, 91, _dm(_NETTE, 512), side=128),
    # 512 synthetic images in all, 51 of a class; the depth of the network is not published.
    "gsdd-imagenet256-ipc1-dm": Preset("dm", 1, 120, 364, _dm("--size 256", 512, 51, "ConvNet-D6"), side=256),
    "gsdd-imagenet128-ipc1-dc": Preset("dc", 1, 200, 54, _dc(720, 5000), side=128),
    "gsdd-imagenet128-ipc1-dc-config": Preset("dc", 1, 64, 170, _dc(128, 1000), side=128),
    "gsdata-cifar10-ipc1-dm": Preset("dm", 1, 0, 0, _C10, measured="measured, see docs/benchmarks.md"),
    "gsdata-cifar10-ipc1": Preset("tm", 1, 0, 0, _tm(_C10, 60, 300, 30, "1e-5")),
    "gsdata-cifar10-ipc10": Preset("tm", 10, 0, 0, _tm(_C10, 60, 380, 30, "1e-5")),
    "gsdata-cifar10-ipc50": Preset("tm", 50, 0, 0, _tm(_C10, 60, 360, 30, "1e-5")),
    "gsdata-cifar100-ipc1": Preset("tm", 1, 0, 0, _tm("", 60, 512, 30, "1e-5"), 100),
    "gsdata-cifar100-ipc10": Preset("tm", 10, 0, 0, _tm("", 60, 512, 30, "1e-5"), 100),
    "gsdata-cifar100-ipc50": Preset("tm", 50, 0, 0, _tm("", 60, 640, 30, "1e-5"), 100),
    "gsdata-imagenet128-ipc1": Preset("tm", 1, 0, 0, _tm(_NETTE, 20, 150, 40, "1e-6", "ConvNet-D5"), side=128),
    "gsdata-imagenet128-ipc10": Preset("tm", 10, 0, 0, _tm(_NETTE, 20, 160, 40, "1e-5", "ConvNet-D5"), side=128),
    "gsdata-imagenet128-ipc1-dm": Preset("dm", 1, 0, 0, f"{_NETTE} --model ConvNet-D5", side=128),
    "gsdata-imagenet256-ipc1-dm": Preset("dm", 1, 0, 0, "--size 256 --model ConvNet-D6", side=256),
    "gsdata-imagenet128-ipc1-dc": Preset("dc", 1, 0, 0, _dc(720, 5000), side=128),
}
UNAVAILABLE = {"gsdd-imagenet1k-ipc1": "SRe2L", "gsdd-imagenet1k-ipc10": "SRe2L"}
"""Published rows made with methods that ``gsd-distill`` does not have."""


def listing() -> str:
    """What ``--help`` says of all presets."""
    lines = ["presets (gsd-distill --preset NAME ...; options that are typed override it):"]
    for name, preset in PRESETS.items():
        spent = (
            f"{preset.images} images of {preset.gaussians} Gaussians a class" if preset.images else "images as planned"
        )
        lines.append(f"  {name:<32} {preset.method}  {spent}; {preset.measured}")
    return "\n".join([*lines, "", *_NOTES])


_NOTES = (
    "gsdd-* are the published rows (GSDD, arXiv:2509.26219): their images, Gaussians and protocols, in about a third of their bytes.",
    "gsdata-* spend all bytes of that IPC. tm also needs --expert-dir, from gsd-experts with its defaults (ConvNet-D5 at 128 pixels).",
    "CIFAR-100 and 256 pixels also need --data. The published images of CIFAR were whitened: gsd-experts --zca.",
)


def expand(argv: Sequence[str]) -> list[str]:
    """A command line with ``--preset NAME`` replaced by what it stands for; the verb may then be left out.

    Options of the preset come first, so that the same ones, typed, override them; a budget that is typed in bytes replaces one
    in IPC, and the other way round.

    Raises:
        UsageError: the preset is unknown, belongs to another verb or to a method that is not there, or there are two.
    """
    rest, names = [], []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--preset":
            names.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    if not names or {"-h", "--help"} & set(rest):
        return rest
    if len(names) > 1:
        raise UsageError(f"--preset is given {len(names)} times; give one")
    preset = _named(names[0])
    method = rest.pop(0) if rest and not rest[0].startswith("-") else preset.method
    if method != preset.method:
        raise UsageError(
            f"--preset {names[0]} is one of gsd-distill {preset.method}, found {method}; leave the verb out"
        )
    typed = {word.partition("=")[0] for word in rest}
    budget = [] if typed & set(BUDGET) else preset.budget()
    made = [method, *budget, *preset.words()]
    if "--quiet" not in typed:
        note(f"--preset {names[0]}: gsd-distill {' '.join(made)}")
        note(f"cost: {_cost(preset)}")
    return [*made, *rest]


def _named(name: str) -> Preset:
    if name in UNAVAILABLE:
        raise UsageError(f"--preset {name}: the published set was made with {UNAVAILABLE[name]}, which is not there")
    if name not in PRESETS:
        import difflib

        near = difflib.get_close_matches(name, PRESETS, 3, 0.5)
        raise UsageError(
            f"--preset {name!r} is unknown; {'nearest: ' + ', '.join(near) + '; ' if near else ''}gsd-distill --help lists all"
        )
    return PRESETS[name]


def _cost(preset: Preset) -> str:
    """What a run takes, before it starts."""
    words = preset.words()
    said = dict(zip(words[::2], words[1::2], strict=True))
    if "--iterations" not in said:
        return f"--time-limit says how long; {preset.measured}"
    number = int(said["--iterations"])
    if preset.method == "tm":
        images = f"{said['--syn-steps']} x {said['--batch-syn']} synthetic images, differentiated twice"
    else:
        images = f"{preset.classes} x {said['--batch-real']} real images and the synthetic ones"
    return f"{number:,} iterations of {images}; {preset.measured}"
