# Microtome in a container, made by the Makefile's own steps:
#   docker build --tag microtome .
#   docker run --volume "$PWD/results:/home/microtome/microtome/results" microtome
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home microtome

USER microtome
COPY --chown=microtome . /home/microtome/microtome
WORKDIR /home/microtome/microtome
RUN make .venv/installed && mkdir -p results

# Another command instead of `run`: plan, verify, show FILE.
ENTRYPOINT [".venv/bin/microtome"]
CMD ["run"]
