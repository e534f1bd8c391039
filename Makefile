#: make run    pictures of ten classes in distilled/, from the shipped plan (.venv without PyTorch)
#: make test   every test (.venv with everything)
#: make test-openvino  the tests of OpenVINO, by an ONNX Runtime that has it built in (x86-64)
#: make check  ruff, mypy --strict on the installed wheel, layering
#: make setup  .venv with everything that generating, export, training and the tests need
#: PYTHON=python3.12 chooses the interpreter that .venv is made with.

PYTHON ?= python3
BIN := .venv/bin
# Folders are listed too: their time changes when a file is removed.
PACKAGED := $(shell find export runtime hieramp_ref engines/__init__.py engines/var_cifar10.plan \
                    -name __pycache__ -prune -o -print 2>/dev/null)

.PHONY: help run setup test test-openvino check
help:
	@sed -n 's/^#: //p' Makefile

run: .venv/.run
	$(BIN)/hieramp-run --ipc 10 --out distilled --overwrite

setup: .venv/.setup

test: .venv/.setup
	$(BIN)/pytest

# That ONNX Runtime is another wheel of the same module, so it lies in a folder of its own and goes before .venv's.
OPENVINO := .venv/openvino
test-openvino: .venv/.setup $(OPENVINO)/.installed
	PYTHONPATH=$(OPENVINO) $(BIN)/pytest -k openvino

$(OPENVINO)/.installed: constraints.txt | $(BIN)/pip
	rm -rf $(OPENVINO)
	$(BIN)/python -m pip install -c constraints.txt --no-deps --target $(OPENVINO) onnxruntime-openvino
	touch $@

# mypy runs outside the root, so that hieramp_ref is the installed one too.
check: .venv/.setup
	$(BIN)/ruff check .
	cd .venv && bin/mypy --config-file ../pyproject.toml -p hieramp.runtime -p hieramp.export -p hieramp_ref
	$(BIN)/pytest -q tests/test_layering.py

$(BIN)/pip:
	$(PYTHON) -m venv .venv

# pip adds what is missing, replaces the project and removes nothing else, so the two stamps can come in any order.
# build/ would carry removed modules over into the next wheel.
.venv/.run: EXTRAS := cpu
.venv/.setup: EXTRAS := cpu,export,train,eval,dev
.venv/.run .venv/.setup: pyproject.toml constraints.txt $(PACKAGED) | $(BIN)/pip
	rm -rf build hieramp.egg-info
	$(BIN)/python -m pip install -c constraints.txt '.[$(EXTRAS)]'
	rm -rf build hieramp.egg-info
	touch $@
