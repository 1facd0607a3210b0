#!/bin/sh
# CIFAR-10 in the bytes of one float32 image per class, by distribution matching. Measured: see README.md.
set -e
gsd-distill --preset gsdata-cifar10-ipc1-dm --iterations 2400 -o cifar10-ipc1.gsd
gsd-eval cifar10-ipc1.gsd --data cifar10 --seeds 3 --baselines random-gsd,webp,jpeg
