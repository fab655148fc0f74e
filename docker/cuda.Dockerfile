# syntax=docker/dockerfile:1
# Dawson on NVIDIA GPUs: ONNX Runtime with the CUDA provider (CUDA 12, cuDNN 9), the network inside.
#
#   docker build -f docker/cuda.Dockerfile -t dawson:cuda .
#   docker run --rm --gpus 1 --read-only --tmpfs /tmp -v dawson:/var/lib/dawson -p 127.0.0.1:8080:8080 \
#              -e DAWSON_INSECURE_NO_AUTH=true dawson:cuda
#
# TensorRT's own libraries are not inside; the device tensorrt needs an image that has libnvinfer 10.
# The same rules for names and digests as in docker/Dockerfile.

FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY tools/fetch_runtime.py tools/
RUN python3 tools/fetch_runtime.py --cuda
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin dawson \
 && install -D target/release/dawson /opt/dawson/bin/dawson \
 && strip --strip-debug /opt/dawson/bin/dawson

# Ubuntu 24.04 has a newer C library than the stage above, 22.04 an older one: the program would not start.
FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/dawson
COPY --from=build /src/runtime/onnxruntime /opt/dawson/runtime/onnxruntime
COPY --from=build /opt/dawson/bin /opt/dawson/bin
COPY models/brain-anatomy /opt/dawson/models/brain-anatomy
COPY models/ms-lesion /opt/dawson/models/ms-lesion
COPY LICENSE /opt/dawson/
LABEL org.opencontainers.image.title="Dawson" \
      org.opencontainers.image.description="Finds multiple-sclerosis lesions in brain MRI. Research use only, not for diagnosis." \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/dawson/bin:/usr/local/bin:/usr/bin:/bin \
    DAWSON_LISTEN=0.0.0.0:8080 \
    DAWSON_STATE=/var/lib/dawson \
    DAWSON_DEVICE=cuda:0 \
    NVIDIA_TF32_OVERRIDE=0 \
    DAWSON_LOG_FORMAT=json
WORKDIR /etc/dawson
USER 10001:10001
VOLUME /var/lib/dawson
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=6s --start-period=120s --retries=3 CMD ["dawson", "health"]
ENTRYPOINT ["dawson"]
CMD ["serve"]
