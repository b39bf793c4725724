# syntax=docker/dockerfile:1
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=unknown
# Static, and with the time zones inside, because the final image holds neither a C library nor zone files.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/build-cache \
    GOCACHE=/build-cache CGO_ENABLED=0 go build -trimpath -tags timetzdata -ldflags "-s -w -X main.version=${VERSION}" -o /consultd ./cmd/consultd

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /consultd /consultd
USER 65532:65532
EXPOSE 8080
# Mount the configuration as /etc/consultd/consultd.yaml and secrets as files; set ops.addr to :8080 to be seen from outside.
# No HEALTHCHECK: an orchestrator asks /healthz and /readyz itself. SIGTERM drains first, so leave it longer than shutdown.drain.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/consultd"]
CMD ["run", "--config", "/etc/consultd/consultd.yaml"]
