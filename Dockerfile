# Both programs with the shipped weights. Building needs a package index, running needs no network:
#     docker build -t audiotok .
#     docker run --rm --network none --user "$(id -u)" -v "$PWD:/work" audiotok tts-lm say "The garden is quiet." -o hello.wav
#     docker run --rm -p 127.0.0.1:8000:8000 audiotok tts-lm serve --host 0.0.0.0
# For a server that others reach, add -e TTS_LM_API_KEY, and for a health check
#     --health-cmd "python -c 'from urllib.request import urlopen; urlopen(\"http://127.0.0.1:8000/health\")'"
# `docker stop -t 120` lets it finish the requests it has begun. The demo page needs --build-arg EXTRAS=serve,demo.
# For a CPU build of torch name an index that has it: --build-arg PIP_INDEX_URL=...
FROM python:3.12-slim AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS=serve
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY audiotok audiotok
COPY tts_lm tts_lm
RUN python -m venv /opt/audiotok
RUN /opt/audiotok/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:3.12-slim
COPY --from=build /opt/audiotok /opt/audiotok
# The user of `docker run` may have no home directory. Nothing is looked up on a hub.
ENV PATH=/opt/audiotok/bin:$PATH HF_HUB_OFFLINE=1 HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home speaker
USER speaker
WORKDIR /work
RUN tts-lm say "Ready." -o /tmp/ready.wav && rm /tmp/ready.wav
EXPOSE 8000
CMD ["tts-lm", "--help"]
