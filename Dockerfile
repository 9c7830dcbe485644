# Worker, jobs and server of the same versions as the tests, without the sandbox's packages and the
# tools. Never built by a test: `make prove` runs its pip commands and the start of its command in a
# virtual environment instead.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
WORKDIR /opt/cmek

# ssh-keygen verifies signed approvals
RUN apt-get update && apt-get install --yes --no-install-recommends openssh-client && rm -rf /var/lib/apt/lists/*

COPY requirements.lock ./
RUN pip install --no-deps --only-binary :all: --require-hashes --requirement requirements.lock
COPY . .
# Readable for the user below, whatever the umask of the clone was; nothing here belongs to that user.
RUN chmod -R a+rX .
# Editable, so that `cmek deploy` finds prefect.yaml.
RUN pip install --no-deps --no-build-isolation --editable .

# The approvers: a file of your own image, as docs/operations.md says. Without it nothing is attached.
RUN mkdir -m 0755 /etc/cmek
ENV CMEK_REQUIRED_SIGNATURES=1

RUN useradd --create-home --uid 10001 cmek
# by number, so that Kubernetes can see that it is not root
USER 10001
ENV PREFECT_HOME=/home/cmek/.prefect
CMD ["prefect", "worker", "start", "--pool", "cmek", "--no-create-pool-if-not-found"]
