"""The command `pretrain`: recipe, loop, checkpoints and its ranks in Ray Train."""
