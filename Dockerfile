# docker build -t hdmap_mlflow .                                # for CPUs
# docker build -t hdmap_mlflow --build-arg TORCH=cu126 .        # for CUDA 12.6; run it with --gpus all
# docker run --rm -v "$PWD:/data" hdmap_mlflow hdmap train patchcore --data-root HDMAP
FROM python:3.11-slim

ARG TORCH=cpu
RUN pip install --no-cache-dir torch torchvision --index-url "https://download.pytorch.org/whl/$TORCH"

# torch is a layer of its own: it changes seldom and is large.
COPY pyproject.toml README.md LICENSE /src/
COPY hdmap_mlflow /src/hdmap_mlflow
RUN pip install --no-cache-dir "/src[grid,postgresql]"

# Runs, maps and the cache lie in the folder that is mounted here.
WORKDIR /data
ENV HDMAP_CACHE=/data/.hdmap_cache MPLCONFIGDIR=/tmp/matplotlib
EXPOSE 5000
CMD ["hdmap", "--help"]
