# byolt in containers; docs/docker.md says how to run each stage, and which of them were built where.
#
#   docker build --target train   --tag byolt:train .       learn, evaluate, export; CUDA, x86-64
#   docker build --target runtime --tag byolt:runtime .     the C++ library and its programs on ONNX Runtime; no Python
#   docker build --target jetson  --tag byolt:jetson --build-arg L4T_BASE=... .     the same with TensorRT, and Python's
ARG CUDA_BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
ARG DEBIAN_BASE=debian:13.1-slim
# Stands in for NVIDIA's JetPack image, which has to be named: the stage refuses a base without TensorRT.
ARG L4T_BASE=ubuntu:22.04

FROM ${DEBIAN_BASE} AS wheel
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY requirements.lock /source/
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --constraint requirements.lock build hatchling
COPY pyproject.toml README.md LICENSE /source/
COPY toolchain /source/toolchain
COPY export/byolt_export /source/export/byolt_export
RUN /opt/build/bin/python -m build --wheel --no-isolation --outdir /dist .

FROM ${CUDA_BASE} AS train
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 byolt \
    && install --directory --owner byolt --group byolt /work
# The lock holds the versions. TensorRT for RTX is not among the extras: NVIDIA's licence leaves it to the user.
COPY requirements.lock /opt/byolt/
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    python3 -m venv /opt/byolt/venv \
    && /opt/byolt/venv/bin/pip install --no-cache-dir --constraint /opt/byolt/requirements.lock \
        "byolt[all] @ file://$(echo /dist/byolt-*.whl)"
COPY recipes /opt/byolt/recipes
ENV PATH=/opt/byolt/venv/bin:$PATH ORT_DISABLE_TELEMETRY=1 NO_ALBUMENTATIONS_UPDATE=1
USER 10001
WORKDIR /work
HEALTHCHECK --interval=10m --timeout=60s CMD ["byolt", "doctor"]
ENTRYPOINT ["byolt"]
CMD ["--help"]

FROM ${DEBIAN_BASE} AS cpp-tools
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        cmake g++ libonnxruntime-dev libstb-dev make nlohmann-json3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY export/cpp /source

# The library that exports are proven with. Debian's is older, and other in what counts: its INT8 convolutions give an
# error five times as large, which fails the proof, and it writes a thousand lines to stderr whenever it is loaded.
FROM wheel AS onnxruntime
RUN /opt/build/bin/pip install --no-cache-dir --no-deps --constraint requirements.lock --target /opt/python \
        onnxruntime==1.32.0 \
    && mkdir -p /opt/onnxruntime/lib \
    && cp /opt/python/onnxruntime/capi/libonnxruntime.so.1.32.0 /opt/onnxruntime/lib/ \
    && ln -s libonnxruntime.so.1.32.0 /opt/onnxruntime/lib/libonnxruntime.so.1 \
    && ln -s libonnxruntime.so.1 /opt/onnxruntime/lib/libonnxruntime.so

FROM cpp-tools AS runtime-build
COPY --from=onnxruntime /opt/onnxruntime /opt/onnxruntime
RUN cmake -S /source -B /build -DCMAKE_INSTALL_PREFIX=/opt/byolt -DONNXRUNTIME_ROOT=/opt/onnxruntime \
    && cmake --build /build --parallel 2 \
    && cmake --install /build --strip

FROM ${DEBIAN_BASE} AS runtime
RUN useradd --create-home --uid 10001 byolt
COPY --from=onnxruntime /opt/onnxruntime /opt/onnxruntime
COPY --from=runtime-build /opt/byolt /opt/byolt
ENV PATH=/opt/byolt/bin:$PATH ORT_DISABLE_TELEMETRY=1
USER 10001
WORKDIR /home/byolt
# The bundle is mounted at /bundle; while it proves itself again, the container is healthy.
HEALTHCHECK --interval=1h --timeout=5m CMD ["byolt-verify", "/bundle"]
ENTRYPOINT ["byolt-verify"]
CMD ["/bundle"]

# hadolint ignore=DL3006
FROM ${L4T_BASE} AS jetson
RUN test -n "$(find /usr/include -name NvInfer.h)" \
    || { echo "L4T_BASE has no TensorRT: name NVIDIA's JetPack image with --build-arg L4T_BASE, see docs/docker.md" >&2; \
         exit 5; }
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        cmake g++ libstb-dev make nlohmann-json3-dev python3 python3-libnvinfer python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 --groups video byolt
COPY requirements-light.lock /opt/byolt/
# JetPack's own Python sees its TensorRT; ONNX Runtime comes as the CPU's, there is no other for this processor.
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    python3 -m venv --system-site-packages /opt/byolt/venv \
    && /opt/byolt/venv/bin/pip install --no-cache-dir --constraint /opt/byolt/requirements-light.lock \
        /dist/byolt-*.whl onnxruntime==1.23.2
# Its headers are Debian's: an older API than the library's, which every later library serves.
COPY --from=cpp-tools /usr/include/onnxruntime /opt/onnxruntime/include/onnxruntime
COPY export/cpp /source
RUN mkdir /opt/onnxruntime/lib \
    && ln -s /opt/byolt/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.1* /opt/onnxruntime/lib/ \
    && ln -s /opt/onnxruntime/lib/libonnxruntime.so.1.* /opt/onnxruntime/lib/libonnxruntime.so.1 \
    && ln -s libonnxruntime.so.1 /opt/onnxruntime/lib/libonnxruntime.so \
    && cmake -S /source -B /build -DCMAKE_INSTALL_PREFIX=/opt/byolt -DONNXRUNTIME_ROOT=/opt/onnxruntime \
        -DBYOLT_TENSORRT=ON -DCMAKE_INSTALL_RPATH=/opt/onnxruntime/lib \
    && cmake --build /build --parallel 2 \
    && cmake --install /build --strip \
    && rm -rf /build /source
ENV PATH=/opt/byolt/bin:/opt/byolt/venv/bin:$PATH ORT_DISABLE_TELEMETRY=1
USER 10001
WORKDIR /home/byolt
HEALTHCHECK --interval=1h --timeout=5m CMD ["byolt-verify", "/bundle"]
ENTRYPOINT ["byolt-verify"]
CMD ["/bundle"]
