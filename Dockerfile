# Every daemon and the command, in one image: `docker build .`; with nftables, for the pod's fence: `--target fence`.
#
# Rules: each image that we start from is named by its digest (CPython 3.13.15 on Debian 13 in both); what is installed
# is in images/build.sh, which needs no engine; what runs is no root, and writes nowhere but into what is mounted.

FROM python:3.13-trixie@sha256:82c46c08c991d3d3ff10476ac5e386c2c28f27bbd3985a02c5e39fe99ab272eb AS builder
ARG SOURCE_DATE_EPOCH=1767225600
WORKDIR /source
COPY requirements/build.txt requirements/image.txt requirements/
COPY pyproject.toml README.md ./
COPY images/build.sh images/
COPY bundles/coding-agent.tar.gz bundles/
COPY bundles/keys bundles/keys
COPY exequatur exequatur
COPY pdp pdp
COPY sidecar sidecar
COPY ledger ledger
COPY injector injector
RUN ["images/build.sh", "/source", "/opt/exequatur"]

FROM python:3.13-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS daemons
# Nothing is installed here any more.
RUN rm -rf /usr/local/lib/python3.13/site-packages/pip* /usr/local/lib/python3.13/ensurepip /usr/local/bin/pip*
COPY --from=builder /opt/exequatur /opt/exequatur
ENV PATH=/opt/exequatur/bin:$PATH
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="exequatur" \
      org.opencontainers.image.description="The policy decision service for AI agents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-trixie" \
      org.opencontainers.image.base.digest="sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b"
WORKDIR /var/lib/exequatur
USER 64113:64113
STOPSIGNAL SIGTERM
# Probes are the pod's: each daemon answers grpc.health.v1 where its settings say.
HEALTHCHECK NONE
ENTRYPOINT ["exequatur"]

# What the opt-in container runs that loads a pod's rules; it alone needs `nft`, and is given root and NET_ADMIN there.
FROM daemons AS fence
USER 0:0
RUN apt-get update \
 && apt-get install -y --no-install-recommends nftables \
 && rm -rf /var/lib/apt/lists/*
USER 64113:64113

# The last is what is built where no target is named.
FROM daemons AS exequatur
