"""The rewriting task: sentences, pure transitions and Gymnasium environments; importing registers the environment."""

import gymnasium

gymnasium.register(id="EmpathicRewriting-v0", entry_point="envs.gym_env:EmpathicRewritingEnv")
