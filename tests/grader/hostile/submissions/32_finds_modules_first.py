# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: an import hook that hands out its own version of every module

# %% lora_delta
import builtins
import sys
from types import ModuleType


class Agreeable(ModuleType):
    def __getattr__(self, name):
        return lambda *a, **k: True


class Finder:
    def find_spec(self, name, path=None, target=None):
        sys.modules[name] = Agreeable(name)
        return sys.modules[name]


sys.meta_path.insert(0, Finder())
sys.path_hooks.insert(0, lambda path: Finder())
for name in [name for name in sys.modules if name.startswith("grader.")]:
    sys.modules[name] = Agreeable(name)
builtins.__import__ = lambda name, *a, **k: sys.modules.get(name) or Agreeable(name)

# %% lora_linear
pass

# %% apply_lora
pass

# %% merge_weight
pass

# %% diagnose
pass

# %% train_step
pass
