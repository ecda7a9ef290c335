# make test          the checks of every change, in a few minutes
# make long          the slow tests
# make demo DATA=..  the whole chain on crystals of your own (a table or folder), in about ten minutes
# make clean         remove what these made; `make clean-venv` the environment too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: test long check lint demo clean clean-venv
.DEFAULT_GOAL := test

$(VENV)/installed: pyproject.toml .ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c .ci/constraints.txt -e '.[dev]'
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 -m "not slow"

long check: $(VENV)/installed
	$(BIN)/pytest -m slow

# Short enough to watch, far too short to be good: STEPS=10000 RL_STEPS=100 is a start. Everything goes below $(DEMO).
DEMO ?= demo
TARGET ?= formation_energy_per_atom
VALUE ?= -2
STEPS ?= 300
RL_STEPS ?= 20
RUN := $(BIN)/chemeleon
SHORT := --set output=$(DEMO)/runs --set data.path=$(DEMO)/data/crystals --set training.max_steps=$(STEPS) \
         --set training.val_every=100 --overwrite
REWARD := --set model=$(DEMO)/runs/ldm --set reward.components.0.predictor=$(DEMO)/runs/predictor \
          --set reward.components.0.target_name=$(TARGET) --set reward.components.0.target_value=$(VALUE) \
          --set reward.components.0.clip_min=null

demo: $(VENV)/installed
	@test -n "$(DATA)" || { echo "make demo DATA=your.csv (a table or folder of crystals with a column $(TARGET))"; exit 2; }
	$(RUN) fetch-data --source $(DATA) --out $(DEMO)/data --set name=crystals --overwrite
	$(RUN) train-vae recipes/vae.yaml $(SHORT)
	$(RUN) train-ldm recipes/ldm.yaml $(SHORT) --set vae=$(DEMO)/runs/vae
	$(RUN) train-predictor recipes/predictor_bandgap.yaml $(SHORT) --set vae=$(DEMO)/runs/vae \
	    --set name=predictor --set 'targets={$(TARGET): {}}'
	$(RUN) train-rl recipes/bandgap.yaml $(REWARD) --set output=$(DEMO)/runs --set name=rl --overwrite \
	    --set max_steps=$(RL_STEPS) --set num_group_samples=32 --set groups_per_step=2 --set val_samples=64
	$(RUN) sample --model $(DEMO)/runs/ldm -n 100 --out $(DEMO)/before.cif
	$(RUN) sample --model $(DEMO)/runs/rl -n 100 --out $(DEMO)/after.cif
	$(RUN) score $(DEMO)/before.cif --reward bandgap $(REWARD)
	$(RUN) score $(DEMO)/after.cif --reward bandgap $(REWARD)

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build

clean-venv: clean
	rm -rf $(VENV)
