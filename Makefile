# make test          the checks of every change, in a few minutes
# make long          the slow tests
# make demo          steer the generator that comes with the program towards a band gap of 3.0 eV
# make demo DATA=..  the whole chain on crystals of your own (a table or folder)
# make starter-check what the models that come with the program are worth: the figures of their cards, and steering
# make starter-models  train and pack these models again: hours
# make clean         remove what these made; `make clean-venv` the environment too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: test long check lint demo demo-starter demo-data have-starter starter-check starter-models clean clean-venv
.DEFAULT_GOAL := test

$(VENV)/installed: pyproject.toml .ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c .ci/constraints.txt -e '.[dev]'
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 -m "not slow"

long check: $(VENV)/installed
	$(BIN)/pytest -m slow

# Everything that these make goes below $(DEMO).
DEMO ?= demo
RUN := $(BIN)/chemeleon
STARTER := chemeleon_cli/starter

demo: $(if $(DATA),demo-data,demo-starter)

# Crystals before and after a few minutes of reinforcement learning, judged by what rewarded them and by what did not.
MINUTES ?= 3
SAMPLES ?= 500

demo-starter: export OMP_NUM_THREADS = 2
demo-starter: have-starter $(VENV)/installed
	$(RUN) fetch-data --source starter --out $(DEMO)/data --overwrite
	$(RUN) train-rl recipes/bandgap.yaml --set output=$(DEMO)/runs --overwrite \
	    --set training.max_minutes=$(MINUTES) --set training.val_samples=64
	$(RUN) sample --model starter -n $(SAMPLES) --out $(DEMO)/before.cif --overwrite
	$(RUN) sample --model $(DEMO)/runs/bandgap -n $(SAMPLES) --out $(DEMO)/after.cif --overwrite
	$(RUN) score $(DEMO)/before.cif --reward bandgap --overwrite
	$(RUN) score $(DEMO)/after.cif --reward bandgap --overwrite
	$(BIN)/python -m chemeleon_cli.starter.demo $(DEMO)/before.cif $(DEMO)/after.cif --picture $(DEMO)/gaps.png

have-starter:
	@test -f $(STARTER)/judge/meta.json || \
	    { echo "this checkout has no starter models yet; on crystals of your own: make demo DATA=your.csv"; exit 2; }

# Short enough to watch, far too short to be good: STEPS=10000 RL_STEPS=100 is a start.
TARGET ?= formation_energy_per_atom
VALUE ?= -2
STEPS ?= 300
RL_STEPS ?= 20
SHORT := --set output=$(DEMO)/runs --set data.path=$(DEMO)/data/crystals --set training.max_steps=$(STEPS) \
         --set training.val_every=100 --overwrite
REWARD := --set model=$(DEMO)/runs/ldm --set reward.components.0.predictor=$(DEMO)/runs/predictor \
          --set reward.components.0.target_name=$(TARGET) --set reward.components.0.target_value=$(VALUE) \
          --set reward.components.0.clip_min=null

demo-data: $(VENV)/installed
	$(RUN) fetch-data --source $(DATA) --out $(DEMO)/data --set name=crystals --overwrite
	$(RUN) train-vae recipes/vae.yaml $(SHORT)
	$(RUN) train-ldm recipes/ldm.yaml $(SHORT) --set vae=$(DEMO)/runs/vae
	$(RUN) train-predictor recipes/predictor_bandgap.yaml $(SHORT) --set vae=$(DEMO)/runs/vae \
	    --set name=predictor --set 'targets={$(TARGET): {}}'
	$(RUN) train-rl recipes/bandgap.yaml $(REWARD) --set output=$(DEMO)/runs --set name=rl --overwrite \
	    --set training.max_steps=$(RL_STEPS) --set rl.num_group_samples=32 --set rl.groups_per_step=2 \
	    --set training.val_samples=64
	$(RUN) sample --model $(DEMO)/runs/ldm -n 100 --out $(DEMO)/before.cif --overwrite
	$(RUN) sample --model $(DEMO)/runs/rl -n 100 --out $(DEMO)/after.cif --overwrite
	$(RUN) score $(DEMO)/before.cif --reward bandgap $(REWARD) --overwrite
	$(RUN) score $(DEMO)/after.cif --reward bandgap $(REWARD) --overwrite

starter-check: have-starter $(VENV)/installed
	$(RUN) train-rl recipes/bandgap.yaml --set output=$(DEMO)/check --overwrite
	$(BIN)/python -m chemeleon_cli.starter.check --steered $(DEMO)/check/bandgap --out $(DEMO)/check/figures

# One autoencoder for the generator, and one each for predictor and judge, which share no formula. An hour or several.
JUDGE := --set 'data.thirds=[0]' --seed 7

starter-models: $(VENV)/installed
	$(RUN) fetch-data --source starter --overwrite
	$(RUN) train-vae starter/vae --overwrite
	$(RUN) train-ldm starter/ldm --overwrite
	$(RUN) train-rl starter/polish --overwrite
	$(RUN) train-vae starter/predictor_vae --overwrite
	$(RUN) train-predictor starter/predictor --overwrite
	$(RUN) train-vae starter/predictor_vae --set name=starter_judge_vae $(JUDGE) --overwrite
	$(RUN) train-predictor starter/predictor --set name=starter_judge --set vae=runs/starter_judge_vae $(JUDGE) --overwrite
	$(BIN)/python -m chemeleon_cli.starter.pack runs/starter_polish ldm
	$(BIN)/python -m chemeleon_cli.starter.pack runs/starter_predictor predictor
	$(BIN)/python -m chemeleon_cli.starter.pack runs/starter_judge judge

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build

clean-venv: clean
	rm -rf $(VENV)
