#!/usr/bin/env bash
# What is to be measured on a CUDA device, in parts that each end within nine minutes.
#
#     benchmarks/gpu.sh PART OUTPUT_FOLDER [--tiny] [--seconds N] [--autotune]
#
#   tests       ops, nn, models, convert, export and training on the device, against float64 on the CPU
#   operators   every way to compute every operator, and where the dispatcher does not choose the fastest
#   models      ResNet-50 and its tied relatives: images/s of inference and training, and peak memory
#   imagenette  the same networks trained on Imagenette, seed by seed; the images come from the zip file that the
#               environment variable IMAGENETTE_ZIP names: imagenette/{train,val}/<class>/*.jpg
#
# A part writes OUTPUT_FOLDER/gpu-PART.json after every figure and prints a table last. The same command again goes on
# where the last one stopped; a folder belongs to one card and one version of torch. For a second measurement, take
# another folder. --tiny runs all of it on small shapes, on a CPU if there is no CUDA device. --seconds is the time
# after which nothing new is begun (480); 45 seconds later the part ends whatever it is doing. --autotune lets cuDNN try
# out its algorithms, which torch does not do by default.
#
# Needs Python with torch, torchvision, timm, scipy, pytest and hypothesis; tiedconv need not be installed.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
PATH=$repository/.venv/bin:$PATH
export PYTHONPATH=$repository/src:$repository/benchmarks${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
exec python3 -m gpu "$@"
