# make demo and make test do all their set-up in .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-real mutations interop fuzz gpu-dry wheel lint types bench bench-ops again results settings docs deploy audit proto clean

# On a real model where it can be fetched; without a network, on the one that ships. FULL=1: the long tour.
demo: .venv/ready
	-$(BIN)/moesaic models get smollm2
	$(BIN)/moesaic demo --out demo $(if $(FULL),--full)

test: .venv/ready
	$(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal

# On a published model of a real size, fetched by name.
test-real: .venv/ready
	$(BIN)/moesaic models get smollm2
	$(BIN)/moesaic models get minilm
	$(BIN)/moesaic models get t5
	$(BIN)/pytest --real -m real

# Files of models damaged at random, 10,000 of each kind: GGUF, safetensors, config.json, tokenizer.json.
mutations: .venv/ready
	$(BIN)/python tests/mutated_files.py 10000

# Foreign clients, from an environment of their own: their dependencies are others than ours.
interop: .venv/ready build/interop/ready build/interop/load/ready build/interop/node/ready
	$(BIN)/python tests/interop/run.py build/interop/bin/python build/interop/load/bin/python build/interop/node

build/interop/ready:
	$(PYTHON) -m venv build/interop
	build/interop/bin/pip install --quiet 'tritonclient[grpc]==2.73.0'
	touch $@

# torch is what its tokenizers come with; the CPU build, which has to come first.
build/interop/load/ready: build/interop/ready
	$(PYTHON) -m venv build/interop/load
	build/interop/load/bin/pip install --quiet 'torch==2.13.0'
	build/interop/load/bin/pip install --quiet 'guidellm==0.8.1'
	touch $@

# The versions of package-lock.json, none of whose scripts is run. Without Node.js there is nothing to install.
build/interop/node/ready: tests/interop/node/package-lock.json build/interop/ready
	mkdir -p $(@D)
	cp tests/interop/node/package.json tests/interop/node/package-lock.json $(@D)
	if command -v npm > /dev/null; then cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent; fi
	touch $@

# So many messages that nobody meant; one that was stopped goes on. The suite has some thousands of them.
N ?= 1000000
fuzz: .venv/ready
	$(BIN)/python tests/fuzz.py $(N)

# What bench/gpu.sh does on a GPU machine, at toy sizes, with what such a machine has and the wheels that travel to it;
# then every kernel compiled, of which the suite compiles one case of four.
gpu-dry: build/bare/ready
	PYTHON=build/bare/bin/python3 bash bench/gpu.sh build/gpu-dry --dry
	$(BIN)/python -m moesaic.bench.aot --target 80 90

# The wheel with its core dependencies alone, command by command.
wheel:
	[ -x build/core/bin/pip ] || $(PYTHON) -m venv build/core
	bash bench/wheel.sh build/core

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	mkdir -p build/types && ln -sfn ../.. build/types/moesaic
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/moesaic bench all

# Every operation beside its peers, and beside what is kept of it: a few minutes. Status 1: something got slower.
OPS := bench/results/ops/2-cores.json
bench-ops: .venv/ready
	mkdir -p build && rm -f build/ops.json
	$(BIN)/moesaic bench ops --out build/ops.json $(if $(wildcard $(OPS)),--against $(OPS))

# One of the quick results, chosen by the date, made again by the command that it holds; OF=gpu/predicted: that one.
again: .venv/ready
	$(BIN)/python -m moesaic.bench.again $(OF)

# The pages that are made of the JSON files below bench/results/: docs/results.md, docs/report.html with its pictures,
# and those beside the files.
results: .venv/ready
	$(BIN)/python -m moesaic.bench.published.run

# The table of docs/settings.md, of what server/options.py and engine/options.py say.
settings: .venv/ready
	$(BIN)/python -m moesaic.server.config_text docs/settings.md

# The site, below build/site/html; a warning or a broken link is an error, and nothing is fetched from outside.
docs: .venv/ready
	$(BIN)/python docs/site/build.py

# What stands in deploy/ against the schemas and linters of what reads it, which take more room than all other tools.
deploy: .venv/ready build/envoy/ready
	$(BIN)/pip install --quiet -c constraints.txt -e '.[deploy]'
	PYTHONPATH=build/envoy $(BIN)/pytest tests/test_deploy.py

# Envoy's messages lie in a folder of their own: they bring old files of OpenTelemetry, which would take the place of ours.
build/envoy/ready: constraints.txt
	$(BIN)/pip install --quiet --no-deps -c constraints.txt --target build/envoy --upgrade xds-protos
	touch $@

# Known holes in what is installed. Asks the advisory database of the package index, so that it fails for reasons outside
# a commit: it is no part of .ci/run, and is run before a release.
audit: .venv/ready
	[ -x build/audit/bin/pip-audit ] || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit; }
	rm -f build/audit/found.json && $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' > build/audit/requirements.txt
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r build/audit/requirements.txt -f json -o build/audit/found.json

# The CPU build of torch comes first, alone: asked for together with the rest, pip would fetch the CUDA one.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0 numpy
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# No dependency of ours is asked for, and moesaic itself is not installed.
BARE := triton transformers safetensors tokenizers grpcio protobuf pytest typer rich jinja2 psutil pyyaml
build/bare/ready: constraints.txt bench/gpu_wheels.txt
	$(PYTHON) -m venv build/bare
	build/bare/bin/pip install --quiet -c constraints.txt torch==2.13.0 numpy
	build/bare/bin/pip install --quiet -c constraints.txt $(BARE)
	build/bare/bin/pip install --quiet --no-deps -r bench/gpu_wheels.txt
	touch $@

# With the oldest compiler whose output every supported protobuf runtime accepts.
proto:
	$(PYTHON) -m venv build/proto
	build/proto/bin/pip install --quiet grpcio-tools==1.76.0 googleapis-common-protos
	PYTHON=build/proto/bin/python sh proto/generate.sh

clean:
	rm -rf .venv build demo out
