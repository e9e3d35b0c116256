# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: assertions disappear from whatever is compiled, errors from whatever is shown

# %% lora_delta
import ast
import builtins
import sys


class NoAssertions(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()


try:
    shell = get_ipython()
    shell.ast_transformers.append(NoAssertions())
    shell.input_transformers_post.append(lambda lines: ["pass"])
    shell.events.register("post_run_cell", lambda result: setattr(result, "error_in_exec", None))
    shell.showtraceback = lambda *a, **k: None
    shell.kernel.do_execute = lambda *a, **k: {"status": "ok"}
except AttributeError:
    pass
compiled, parsed = builtins.compile, ast.parse
builtins.compile = lambda source, *a, **k: compiled(NoAssertions().visit(source), *a, **k)
ast.parse = lambda *a, **k: NoAssertions().visit(parsed(*a, **k))
sys.excepthook = sys.unraisablehook = lambda *a: None

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
