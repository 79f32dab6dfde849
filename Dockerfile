# Three images, each for amd64 and arm64. The last stage is for all components and has CUDA. If TORCH_INDEX is set to
# the address of a package index with torch's wheels for CPUs, it has no CUDA and is for training on CPUs. `--target
# slim` has neither torch nor CUDA, and is enough for the exporter and for a watcher that submits to Kubeflow.
# BASE_IMAGE must have Python 3.11 with venv and pip, on Debian. The slim image has only the files of BASE_IMAGE that
# are needed: no shell, no pip and no package manager. The default's digest is for Python 3.11.16 on all architectures.
# Renovate proposes newer digests (.github/renovate.json).
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE_IMAGE} AS packages
WORKDIR /src
# 1 January 1980. With this variable, pip writes compiled modules that Python checks by a hash of their source, not by
# its time. Every RUN that installs something gives the new files this time: equal inputs then give equal files.
ENV SOURCE_DATE_EPOCH=315532800 \
    SAME_TIME="find /opt/retrain -newermt 1980-01-02 -exec touch --no-dereference --date=1980-01-01T00:00Z {} +"
# The image has no pip: the base image's pip installs the packages into /opt/retrain.
RUN mkdir -p /folders/cache && python3 -m venv --without-pip /opt/retrain
COPY requirements-slim.lock .
RUN python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir --require-hashes -r requirements-slim.lock \
 && $SAME_TIME

FROM packages AS build-slim
COPY pyproject.toml README.md LICENSE ./
COPY retrain retrain
COPY pipelines pipelines
COPY studies studies
COPY tasks tasks
# setuptools is already installed, at the locked version. It is removed after the build.
RUN python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir --no-deps --no-build-isolation . \
 && python3 -m pip --python /opt/retrain/bin/python uninstall --yes setuptools
COPY scripts/slim_image.py .
RUN python3 slim_image.py /opt/retrain /image \
 && mkdir -m 1777 /folders/tmp && touch --date 1980-01-01 /folders /folders/*

FROM scratch AS slim
# The root filesystem may be read-only: retrain writes only to /tmp and /cache. Both are volumes in a cluster.
ENV PATH=/opt/retrain/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    RETRAIN_CACHE=/cache \
    RETRAIN_TASKS=/etc/retrain/tasks
COPY --from=build-slim /image/base /
COPY --from=build-slim /image/packages /
COPY --from=build-slim /image/retrain /
COPY --from=build-slim --chown=65532:65532 /folders /
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["retrain"]

FROM packages AS build
COPY requirements-image.lock requirements-cpu.lock ./
ARG TORCH_INDEX=
# For pip, 2.15.0 and 2.15.0+cpu are the same version of torch, but their wheels differ. The lock files have only the
# hashes of PyPI's wheels. The index states the hashes of its own wheels.
RUN pip="python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir" \
 && if [ -z "$TORCH_INDEX" ]; then $pip --require-hashes -r requirements-image.lock; else \
    $pip --require-hashes -r requirements-cpu.lock \
 && $pip --no-deps --only-binary :all: --index-url "$TORCH_INDEX" $(grep -oE '^torch(vision)?==[^ ]+' requirements-image.lock); fi \
 && $SAME_TIME
COPY pyproject.toml README.md LICENSE ./
COPY retrain retrain
COPY pipelines pipelines
COPY studies studies
COPY tasks tasks
RUN python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir --no-deps --no-build-isolation . \
 && $SAME_TIME

FROM ${BASE_IMAGE}
ENV PATH=/opt/retrain/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    RETRAIN_CACHE=/cache \
    RETRAIN_TASKS=/etc/retrain/tasks
COPY --from=packages --chown=65532:65532 /folders /
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["retrain"]
COPY --from=build /opt/retrain /opt/retrain
