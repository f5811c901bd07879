# Portcullis in a small image. Not built where it was written, which had no container engine: the first build is yours.
#
#   docker build -t portcullis .
#   docker run -p 8000:8000 -e WEBUI_SECRET_KEY -e DATABASE_URL -v ./conf:/etc/portcullis:ro portcullis

FROM rust:1.95.0-bookworm AS build
# zlib-ng, inside Pingora, is built with cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin portcullis

FROM debian:bookworm-slim
# Certificates to verify servers by.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/portcullis portcullis
COPY --from=build /src/target/dist/portcullis /usr/local/bin/portcullis
COPY conf/gateway.toml conf/servers.toml /etc/portcullis/
USER portcullis
WORKDIR /var/lib/portcullis
EXPOSE 8000
# SIGTERM drains; give it longer than `shutdown.grace_secs`: `docker stop --time 75`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["portcullis"]
CMD ["run", "--config", "/etc/portcullis"]
