# Portcullis in a small image: the program, the C library, certificates, and nothing that could run besides.
#
#   docker build -t portcullis .
#   docker run -p 8000:8000 -e WEBUI_SECRET_KEY -e DATABASE_URL -v ./conf:/etc/portcullis:ro --stop-timeout 75 portcullis
#
# conf/compose/ and conf/kubernetes/ run it among others. What was tried of it stands in conf/compose/README.md.
# Pin the two bases by digest where your builds have to be the same for ever: `docker buildx imagetools inspect` tells it.

ARG RUST=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST}-${DEBIAN} AS build
# zlib-ng, inside Pingora, is built with cmake, jemalloc with make; scripts/bill is Python.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends cmake make python3 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock LICENSE ./
# Cargo wants every target to be there; which ones they are changes more seldom than what is in them.
COPY scripts/stub-targets scripts/bill scripts/
RUN scripts/stub-targets
COPY migrations migrations
COPY src src
# Registry and build folder stay from build to build, and out of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --bin portcullis \
    && install -D --strip target/dist/portcullis /image/usr/local/bin/portcullis \
    && install -d /image/usr/share/doc/portcullis \
    && scripts/bill sbom > /image/usr/share/doc/portcullis/portcullis.cdx.json \
    && scripts/bill licences > /image/usr/share/doc/portcullis/third-party-licences.txt

FROM debian:${DEBIAN}-slim AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libgcc-s1 && rm -rf /var/lib/apt/lists/*
# What the program loads, where it looks for it; certificates to verify servers by; a user without a password or a shell.
RUN mkdir -p /image/etc/ssl/certs /image/tmp /image/var/lib/portcullis \
    && for library in libc.so.6 libm.so.6 libgcc_s.so.1 libresolv.so.2 libnss_dns.so.2 libnss_files.so.2; do \
        cp --dereference --parents "$(find /usr/lib/ -name $library -print -quit)" /image || exit 1; done \
    # With a slash each: both lead elsewhere. One of them has it, which one is the processor's.
    && cp --dereference --parents "$(find /lib64/ /lib/ -maxdepth 1 -name 'ld-linux-*' -print -quit 2>/dev/null)" /image \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && echo 'portcullis:x:10001:10001:Portcullis:/var/lib/portcullis:/usr/sbin/nologin' > /image/etc/passwd \
    && echo 'portcullis:x:10001:' > /image/etc/group \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
    && chmod 1777 /image/tmp && chown 10001:10001 /image/var/lib/portcullis

FROM scratch
COPY --from=base /image /
COPY --from=build /image /
COPY LICENSE /usr/share/doc/portcullis/copyright
COPY conf/gateway.toml conf/servers.toml /etc/portcullis/
ENV PATH=/usr/local/bin
# By number, so that `runAsNonRoot` of Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /var/lib/portcullis
EXPOSE 8000 9090
# SIGTERM drains; give it longer than `shutdown.delay_secs` and `shutdown.grace_secs` together: `docker stop --time 75`.
# It needs no init beside it: it hears signals as the first process, and starts nothing that could be left behind.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["portcullis", "health", "--config", "/etc/portcullis"]
ENTRYPOINT ["portcullis"]
CMD ["run", "--config", "/etc/portcullis"]
