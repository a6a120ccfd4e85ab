# docker build -t robust-segmentation .                          for the CPU
# docker build --build-arg TORCH=cuda -t robust-segmentation .   for NVIDIA's GPUs
# docs/development.md#in-a-container says how to run it.
FROM python:3.11-slim-bookworm

# g++: torch.compile (--compile) translates with it.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*

# A user without rights. The home can be written by any, as `docker run --user` names the one who owns the mounted files.
RUN useradd --create-home --uid 1000 user && chmod 777 /home/user && install --directory --mode 777 /work

# Both names, as in the Makefile: which one pip hands to the build of visdom depends on its version.
ENV PIP_CONSTRAINT=/app/constraints.txt PIP_BUILD_CONSTRAINT=/app/constraints.txt PIP_NO_CACHE_DIR=1 \
    HOME=/home/user PYTHONUNBUFFERED=1

WORKDIR /app
COPY requirements.txt constraints.txt ./

# cpu: torch and torchvision both from PyTorch's index, as the wheel of torchvision on PyPI needs the CUDA build of torch
# beside it. cuda: both from PyPI, where torch brings the CUDA libraries. What follows "# development" is for tests.
ARG TORCH=cpu
# The versions are in constraints.txt.
# hadolint ignore=DL3013
RUN case "$TORCH" in \
      cpu) pip install --index-url https://download.pytorch.org/whl/cpu torch torchvision ;; \
      cuda) ;; \
      *) echo "TORCH=$TORCH: give cpu or cuda" >&2; exit 1 ;; \
    esac \
 && sed '/^# development/,$d' requirements.txt > /tmp/requirements.txt \
 && pip install --requirement /tmp/requirements.txt \
 && rm /tmp/requirements.txt

COPY . .

USER 1000:1000
WORKDIR /work
CMD ["python", "/app/main.py", "--version"]
