# Two images. The last stage is for everything in a cluster; `--target slim` has neither torch nor CUDA, and is enough for the
# watcher, which submits to Kubeflow, and the exporter.
# The packages are installed on BASE_IMAGE, which must have Python 3.11 with venv and pip. What is shipped stands on
# RUNTIME_IMAGE, which needs only the same Python at the same path: no pip, no shell.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG RUNTIME_IMAGE=${BASE_IMAGE}

FROM ${BASE_IMAGE} AS packages
WORKDIR /src
# pip stays outside of what is shipped.
RUN mkdir -p /folders/cache && python3 -m venv --without-pip /opt/retrain
COPY requirements-slim.lock .
RUN python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir --require-hashes -r requirements-slim.lock

FROM packages AS build-slim
COPY pyproject.toml README.md LICENSE ./
COPY retrain retrain
COPY pipelines pipelines
# setuptools is there already, at the locked version.
RUN python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir --no-deps --no-build-isolation .
# Not shipped: setuptools, the packages' own tests, and botocore's descriptions of services that are not used. Only the
# modules that watcher and exporter import are compiled. All of them would take twice the space.
RUN python3 -m pip --python /opt/retrain/bin/python uninstall --yes setuptools \
 && cd /opt/retrain/lib/python3*/site-packages \
 && find . -depth -type d \( -name __pycache__ -o -name tests \) -exec rm -r {} + \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sqs ! -name 'sso*' ! -name sts -exec rm -r {} + \
 && /opt/retrain/bin/python -m compileall -q retrain \
 && /opt/retrain/bin/python -c "import boto3, kfp.kubernetes, obstore.store, PIL.Image, webdataset, retrain.cli, \
    retrain.kubeflow.client, retrain.monitoring.exporter, retrain.monitoring.report, retrain.watcher.watcher; \
    boto3.client('sqs', 'eu-west-1')"

FROM ${RUNTIME_IMAGE} AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="retrain" \
      org.opencontainers.image.description="Keeps image classifiers up to date for a fraction of the compute" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The root filesystem may be read-only: what is written goes to /tmp and /cache, which are volumes in a cluster.
ENV PATH=/opt/retrain/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    RETRAIN_CACHE=/cache \
    RETRAIN_TASKS=/etc/retrain/tasks
COPY --from=packages --chown=65532:65532 /folders /
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["retrain"]

FROM runtime AS slim
COPY --from=build-slim /opt/retrain /opt/retrain

FROM packages AS build
COPY requirements-image.lock .
RUN python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY retrain retrain
COPY pipelines pipelines
RUN python3 -m pip --python /opt/retrain/bin/python install --no-cache-dir --no-deps --no-build-isolation .

FROM runtime
COPY --from=build /opt/retrain /opt/retrain
