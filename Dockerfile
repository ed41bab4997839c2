# Microtome in a container, made by the Makefile's own step; see docs/cluster.md.
#   docker build --tag microtome .
#   docker run --rm --volume "$PWD:/data" microtome          # results/ in this folder
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 microtome \
    && install --directory --owner microtome /opt/microtome /data

USER microtome
COPY --chown=microtome . /opt/microtome
RUN make --directory /opt/microtome .venv/installed

WORKDIR /data
ENTRYPOINT ["/opt/microtome/.venv/bin/microtome"]
CMD ["run"]
