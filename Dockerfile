# The gateway. docs/deploy.md says how to run it.
FROM python:3.13-slim-bookworm AS base

FROM base AS built
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel . \
 && python -m venv /opt/cascade \
 && wheel=$(ls /wheel/*.whl) \
 && /opt/cascade/bin/pip install --no-cache-dir "${wheel}[gateway,redis]"

FROM base
RUN useradd --system --uid 10001 --create-home --home-dir /home/cascade cascade \
 && install -d -o cascade -g cascade /home/cascade/.cache
COPY --from=built /opt/cascade /opt/cascade
ENV PATH=/opt/cascade/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /home/cascade
EXPOSE 8600
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8600, timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["cascade"]
CMD ["--help"]
