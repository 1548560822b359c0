"""dlrun's launcher and sweeper for Hydra: `hydra/launcher=dlrun`, `hydra/sweeper=dlrun`."""
