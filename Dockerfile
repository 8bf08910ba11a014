# One image for all of ke's processes; the command says which. Runtime dependencies only, each at its locked version
# and checked against its locked hash.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir --disable-pip-version-check "$(grep -o '^uv==[^ ]*' requirements.lock)" \
    && python -m venv --without-pip /opt/ke \
    && uv pip install --python /opt/ke/bin/python --no-cache --compile-bytecode \
        --requirement pyproject.toml --constraints requirements.lock
COPY ke ke
COPY workflows workflows
COPY activities activities
COPY api api
COPY worker.py .
RUN uv build --no-cache --wheel --build-constraints requirements.lock --require-hashes --out-dir /dist \
    && uv pip install --python /opt/ke/bin/python --no-cache --compile-bytecode --no-deps /dist/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /home/ke --create-home ke
COPY --from=build /opt/ke /opt/ke
ENV PATH=/opt/ke/bin:$PATH PYTHONUNBUFFERED=1
USER ke
WORKDIR /home/ke
EXPOSE 8080
# The gateway; `python -P -m worker` is a worker, `ke init` prepares Postgres and Temporal.
CMD ["python", "-P", "-m", "uvicorn", "api.app:create_app", "--factory", "--host", "0.0.0.0", "--port", "8080", \
     "--no-access-log", "--timeout-graceful-shutdown", "10"]
