#!/bin/sh
# Imagenette at 128x128 in the bytes of one float32 image per class, by trajectory matching, for a GPU. Not measured.
set -e
gsd-experts --data imagenette-128 --model ConvNet-D5 --experts 20 -o imagenette-experts/
gsd-distill --preset gsdata-imagenet128-ipc1 --expert-dir imagenette-experts/ -o imagenette128-ipc1.gsd
gsd-eval imagenette128-ipc1.gsd --data imagenette-128 --protocol gsdd --seeds 3 --baselines random-gsd,webp,jpeg
