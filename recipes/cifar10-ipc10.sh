#!/bin/sh
# CIFAR-10 in the bytes of 10 float32 images per class, by trajectory matching, for a GPU. Not measured.
set -e
gsd-experts --data cifar10 --experts 20 -o cifar10-experts/
gsd-distill --preset gsdata-cifar10-ipc10 --expert-dir cifar10-experts/ -o cifar10-ipc10.gsd
gsd-eval cifar10-ipc10.gsd --data cifar10 --protocol gsdd --seeds 3 --baselines random-gsd,webp,jpeg
