# The marketplace's image: every head of every service, and the gateway. Without arguments it says what it can run.
FROM python:3.11-slim AS build
RUN python -m venv /venv
WORKDIR /build
COPY constraints.txt pyproject.toml LICENSE README.md ./
COPY src src
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt pip \
    && /venv/bin/pip install --no-cache-dir --constraint constraints.txt --group marketplace '.[engines]'

FROM python:3.11-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app chimera
COPY --from=build /venv /venv
WORKDIR /app
COPY chimera.toml names.toml ./
COPY marketplace marketplace
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["chimera"]
CMD ["--help"]
