# Larder's image: Python, the pinned packages, Larder; no compiler, no pip, no shell tools of ours. It builds with BuildKit
# and with the older builder alike, and the same inputs give the same files, down to their times.

# A digest can be pinned: --build-arg PYTHON_IMAGE=python:3.11.17-slim-trixie@sha256:...
ARG PYTHON_IMAGE=python:3.11.17-slim-trixie
FROM ${PYTHON_IMAGE} AS base

# ---------------------------------------------------------------- build
FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    # Compiled code would otherwise depend on the order of sets.
    PYTHONHASHSEED=0
WORKDIR /build

# Packages change seldom: their layers come first. The build backend stays out of the environment that is shipped.
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /build/tools \
 && /build/tools/bin/pip install --require-hashes --only-binary :all: --requirement requirements-build.txt
RUN python -m venv --without-pip /opt/larder \
 && /build/tools/bin/pip --python /opt/larder/bin/python install \
      --no-compile --require-hashes --only-binary :all: --requirement requirements.txt

COPY pyproject.toml README.md LICENSE larder_entry.py ./
COPY app ./app
COPY alembic ./alembic
RUN /build/tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /build/wheel . \
 && /build/tools/bin/pip --python /opt/larder/bin/python install --no-compile --no-index --no-deps /build/wheel/*.whl
COPY compose/passwords.py /opt/larder/lib/compose/
COPY compose/with_urls.sh /opt/larder/bin/with-urls

# Compiled here, because nothing can be written at run time; valid by content, so that no file's time matters.
RUN /opt/larder/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/larder/lib \
 && find /opt/larder -exec touch --no-dereference --date=@0 {} +

# ---------------------------------------------------------------- what is shipped
FROM base
COPY --from=build /opt/larder /opt/larder
ENV PATH=/opt/larder/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LARDER_HOST=0.0.0.0 \
    LARDER_PORT=8000
# The version is that of pyproject.toml; tests/compose holds them against each other. The build may name its commit:
# --build-arg REVISION=$(git rev-parse HEAD)
ARG REVISION=
LABEL org.opencontainers.image.title="Larder" \
      org.opencontainers.image.description="A product and stock service whose cache never answers with the past" \
      org.opencontainers.image.version="0.3.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
# By number: the account needs no name, no home and no line in /etc/passwd.
USER 10001:10001
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["larder", "serve", "--migrate"]
