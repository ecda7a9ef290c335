"""The shared torch core: crystals, models, diffusion, reinforcement learning, rewards."""
