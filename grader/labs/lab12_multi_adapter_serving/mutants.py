"""Wrong answers to lab 12's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

ENDS = "ends = sum(I + O for I, O in shapes)"
RATIO = "read_ratio = together / (distinct * base_bytes)"
COSTS = "return adapter_bytes, fit, read_ratio, rank * ends / full, full // ends"
LAST = "self._last[stem] = version = self._last.get(stem, 0) + 1"
ROOM = "if len(self._entries) - len(going) >= self.max_adapters:"
IDLE = 'idle = [e for e in live if e["requests"] == 0 and e not in older]'
TOUCH = 'self._entries[entry["uid"]] = self._entries.pop(entry["uid"])'
FORGET = "self._meaning = {n: meant for n, meant in meaning if meant != uid}"
GONE = 'if not entry["live"] and entry["requests"] == 0:'
ROWS = "rows = (slots == slot).nonzero().squeeze(1)"
DOWN = "down = x[rows] @ A.T  # (n, I) -> (n, R)"
ADD = "result[rows] += scaling * (down @ B.T)"
BLOCK = "B[o0:o1, r0:r1] = part[2] * part[1]"
NEXT = "r0, o0 = r1, o1"
DUE = "due = arrivals_ms[waiting[0]] + max_delay_ms if waiting else None"
TAKE = "if len(batch) < max_batch and len(wanted) <= max_adapters:"
WANTED = "wanted = used | ({adapters[n]} - {0})"
START = "if waiting and (len(batch) == max_batch or now >= due):"
BUSY = "now += batch_ms + row_ms * len(batch)"
TYPE = "if type(given[name]) is not kind:"
REASON = 'reason = "length" if len(pieces) == limit else "stop"'
FINALLY = "    finally:\n        service.release(uid)"
DONE = '([] if crashed else [event("[DONE]")])'

ROW_BY_ROW = """
    result = y.clone()
    for i, slot in enumerate(slots.tolist()):
        if slot:
            A, B, scaling = adapters[slot - 1]
            result[i] += scaling * (B @ (A @ x[i]))
    return result
"""
GATHERED = """
    used = [adapters[slot - 1] for slot in slots.tolist() if slot]
    rows = slots.nonzero().squeeze(1)
    result = y.clone()
    if len(rows) == 0:
        return result
    R = max(len(A) for A, _, _ in used)
    As = torch.zeros(len(rows), R, x.shape[1])
    Bs = torch.zeros(len(rows), y.shape[1], R)
    for i, (A, B, scaling) in enumerate(used):
        As[i, : len(A)], Bs[i, :, : len(A)] = A, scaling * B
    result[rows] += (Bs @ (As @ x[rows].unsqueeze(2))).squeeze(2)
    return result
"""
MASKED = """
    result = y.clone()
    for slot in slots.unique().tolist():
        if slot == 0:
            continue
        A, B, scaling = adapters[slot - 1]
        mine = (slots == slot).float().unsqueeze(1)
        result = result + scaling * ((x * mine) @ A.T) @ B.T
    return result
"""
HEAD_OF_LINE = """
    waiting, batches, following, now = [], [], 0, 0
    while waiting or following < len(arrivals_ms):
        while following < len(arrivals_ms) and arrivals_ms[following] <= now:
            waiting.append(following)
            following += 1
        batch, used = [], set()
        for n in waiting:
            used = used | ({adapters[n]} - {0})
            if len(batch) == max_batch or len(used) > max_adapters:
                break
            batch.append(n)
        due = arrivals_ms[waiting[0]] + max_delay_ms if waiting else None
        if waiting and (len(batch) == max_batch or now >= due):
            batches.append((now, batch))
            waiting = [n for n in waiting if n not in batch]
            now += batch_ms + row_ms * len(batch)
            continue
        events = [] if due is None else [due]
        if following < len(arrivals_ms):
            events.append(arrivals_ms[following])
        now = min(events)
    return batches
"""
ALONE = """
    x = torch.ones(1, width)
    A, B = torch.ones(1, width), torch.ones(width, 1)
    old = ("mount", "a", A, B, 2.0)
    [answer] = server([old, ("ask", "a", x)])
    right = torch.allclose(answer, x + 2.0 * width, atol=1e-3)
    return "healthy" if right else "no_scaling"
"""

MUTANTS: Mutants = {
    "adapter_costs": {
        "full matrices": [(ENDS, "ends = sum(I * O for I, O in shapes)")],
        "one layer": [("num_layers * rank * ends", "rank * ends")],
        "two factors for one": [("rank * ends * itemsize", "2 * rank * ends * itemsize")],
        "the base is not there": [("(memory_bytes - base_bytes) //", "memory_bytes //")],
        "fewer than none fit": [
            ("max(0, (memory_bytes - base_bytes) // adapter_bytes)",
             "(memory_bytes - base_bytes) // adapter_bytes"),
        ],
        "one more fits": [("// adapter_bytes)", "// adapter_bytes + 1)")],
        "a base for each adapter": [
            ("together = base_bytes +", "together = distinct * base_bytes +"),
        ],
        "one merged copy": [(RATIO, "read_ratio = together / base_bytes")],
        "overhead upside down": [("rank * ends / full", "full / (rank * ends)")],
        "break-even rounded up": [("full // ends", "-(-full // ends)")],
        "rank of the smallest side": [
            ("full // ends", "min(min(I, O) for I, O in shapes)"),
        ],
    },
    "adapter_manager": {
        "versions begin again": [
            (LAST, 'self._last[stem] = version = 1 + max('
             '[e["version"] for e in self._entries.values() if e["stem"] == stem], default=0)'),
            ('"stem": stem,', '"stem": stem,\n            "version": version,'),
        ],
        "keeps the older version": [
            ("for entry in older + going:", "for entry in [e for e in going if e not in older]:"),
        ],
        "unmount ends running requests": [
            ('        if entry["requests"]:\n            return False\n', ""),
        ],
        "draining takes requests": [
            ('if entry["name"] == name and entry["live"]:', 'if entry["name"] == name:'),
        ],
        "drained is never gone": [(GONE, "if False:")],
        "gone with the first release": [(GONE, 'if not entry["live"]:')],
        "aliases follow to nothing": [(FORGET, 'self._meaning.pop(entry["stem"], None)')],
        "an alias means the newest mount": [
            ('self._meaning[alias] = self._find(name)["uid"]',
             'self._meaning[alias] = self._find(name) and self._mounts'),
        ],
        "aliases move to the new version": [
            ("for entry in older + going:", "names = [n for n, uid in self._meaning.items() "
             'if uid in [e["uid"] for e in older]]\n        for entry in older + going:'),
            ("self._meaning[stem] = self._mounts",
             "self._meaning |= {n: self._mounts for n in [stem, *names]}"),
        ],
        "uid is a slot": [
            ("self._mounts += 1", "self._mounts = next("
             "n for n in range(1, 999) if n not in self._entries)"),
        ],
        "draining takes no room": [
            (ROOM, "if len(live) - len(going) >= self.max_adapters:"),
        ],
        "a reload needs room of its own": [(ROOM, "if len(self._entries) >= self.max_adapters:")],
        "evicts the newest": [("going.append(idle[0])", "going.append(idle[-1])")],
        "evicts whom it mounted first": [(TOUCH, "pass")],
        "evicts who has requests": [(IDLE, "idle = [e for e in live if e not in older]")],
        "never evicts": [(IDLE, "idle = []")],
        "a failed mount takes a version": [
            ("                raise OverflowError", "                self._last[stem] = "
             "self._last.get(stem, 0) + 1\n                raise OverflowError"),
        ],
        "a failed mount unmounts": [
            ("                raise OverflowError", "                for e in older:\n"
             "                    self._retire(e)\n                raise OverflowError"),
        ],
        "counts below zero": [
            ('if entry is None or entry["requests"] == 0:', "if entry is None:"),
        ],
        "one request an adapter": [('entry["requests"] += 1', 'entry["requests"] = 1')],
        "the base is unknown": [('if name == "__base__":', 'if name == "base":')],
    },
    "add_grouped": {
        "no scaling": [(ADD, "result[rows] += down @ B.T")],
        "slots from 0": [("adapters[slot - 1]", "adapters[slot - len(adapters)]")],
        "from its first to its last": [
            (ROWS, ROWS + "\n        rows = torch.arange(rows[0], rows[-1] + 1)"),
        ],
        "row by row": ROW_BY_ROW,
        "factors for each row": GATHERED,
        "zeros for other rows": MASKED,
        "all rows, then chosen": [
            (DOWN, "down = (x @ A.T)[rows]"),
        ],
        "B A first": [(DOWN, "down = x[rows]"), ("down @ B.T", "down @ (B @ A).T")],
        "in place": [("result = y.clone()", "result = y")],
        "sets, not adds": [(ADD, "result[rows] = scaling * (down @ B.T)")],
        "the base has the last adapter": [
            ("        if slot == 0:\n            continue\n", ""),
        ],
    },
    "fuse_projections": {
        "no scaling": [(BLOCK, "B[o0:o1, r0:r1] = part[1]")],
        "scaling squared": [(BLOCK, "B[o0:o1, r0:r1] = part[2] ** 2 * part[1]")],
        "scales in place": [(BLOCK, "B[o0:o1, r0:r1] = part[1].mul_(part[2])")],
        "leaks into its neighbours": [
            ("B = torch.zeros(sum(widths), len(A))", "B = torch.ones(sum(widths), len(A))"),
        ],
        "no rows without an adapter": [(NEXT, "r0, o0 = r1, o1 if part is not None else o0")],
        "one rank for all": [("(0 if part is None else len(part[0]))", "len(A) // len(parts)")],
        "blocks transposed": [("(r0, r1, o0, o1))", "(o0, o1, r0, r1))")],
        "blocks as sizes": [("(r0, r1, o0, o1))", "(r0, r1 - r0, o0, o1 - o0))")],
        "without the empty block": [
            ("        blocks.append((r0, r1, o0, o1))",
             "        blocks += [] if part is None else [(r0, r1, o0, o1)]"),
        ],
    },
    "plan_batches": {
        "the head of the line blocks": HEAD_OF_LINE,
        "no limit of adapters": [(TAKE, "if len(batch) < max_batch:")],
        "the base takes a place": [(WANTED, "wanted = used | {adapters[n]}")],
        "one adapter too many": [("len(wanted) <= max_adapters", "len(used) <= max_adapters")],
        "skipped go to the end": [
            ("waiting = [n for n in waiting if n not in batch]",
             "waiting = [n for n in waiting if n not in batch][::-1]"),
        ],
        "full by the queue": [("len(batch) == max_batch or", "len(waiting) >= max_batch or")],
        "waits for a full batch": [
            (START, "if waiting and (len(batch) == max_batch or following == len(arrivals_ms)):"),
            ("now = min(events)", "now = max(now + 1, min(events))"),
        ],
        "never waits": [("now >= due)", "True)")],
        "later than the delay": [(DUE, DUE.replace("max_delay_ms", "max_delay_ms + 1"))],
        "the delay of the newest": [("arrivals_ms[waiting[0]]", "arrivals_ms[waiting[-1]]")],
        "batches overlap": [(BUSY, "now += 1")],
        "rows take no time": [(BUSY, "now += max(1, batch_ms)")],
        "arrivals a moment late": [
            ("and arrivals_ms[following] <= now:", "and arrivals_ms[following] < now:"),
            ("now = min(events)", "now = max(now, min(events)) + 1"),
        ],
    },
    "handle": {
        "true is a number": [
            (TYPE, "if not isinstance(given[name], kind):"),
        ],
        "zero tokens": [("given[name] < 1", "given[name] < 0")],
        "null is nothing given": [
            ("given[name] = body.get(name, default)",
             "given[name] = default if body.get(name) is None else body[name]"),
        ],
        "unknown fields pass": [("if name not in fields:", "if False:")],
        "gives up with the parser": [
            ("except (ValueError, RecursionError):", "except ValueError:"),
        ],
        "any JSON will do": [
            ("if not isinstance(body, dict):", "body = body or {}\n    if isinstance(body, str):"),
        ],
        "no path before no method": [('failure(405, "method_not', 'failure(404, "method_not')],
        "draining is unknown": [("if given[param] in service.draining():", "if False:")],
        "unknown means the base": [
            ('        uid = service.acquire(given["model"])\n    except KeyError:\n'
             '        return absent("model")',
             '        uid = service.acquire(given["model"])\n    except KeyError:\n'
             '        uid = service.acquire("__base__")'),
        ],
        "released when all is well": [
            (FINALLY, "    else:\n        service.release(uid)"),
        ],
        "never released": [(FINALLY, "    finally:\n        pass")],
        "acquires before it looks": [
            ("    pieces, crashed = [], False",
             '    service.acquire(given["model"])\n    pieces, crashed = [], False'),
        ],
        "always stops": [(REASON, 'reason = "stop"')],
        "length by the text": [
            (REASON, 'reason = "length" if len("".join(pieces)) >= limit else "stop"'),
        ],
        "done after a crash": [(DONE, '[event("[DONE]")]')],
        "never done": [(DONE, "[]")],
        "one line end": [('{text}\\n\\n"', '{text}\\n"')],
        "a crash is the client's": [
            ('failure(500, "server_error")', 'failure(400, "server_error")'),
        ],
        "a crash loses the stream": [
            ('    if given["stream"]:', '    if given["stream"] and not crashed:'),
        ],
        "no room is forbidden": [('failure(503, "no_room")', 'failure(403, "no_room")')],
        "gone and draining swapped": [('"draining": not gone', '"draining": gone')],
        "the base is not listed": [('["__base__", *service.names()]', "service.names()")],
        "the version that answers": [
            ('{"model": given["model"],', '{"model": given["model"].partition("@")[0],'),
        ],
        "no type of error": [('"type": kind}', '"type": "error"}')],
        "no sentence": [('{"message": f"{code} ({param})",', '{"message": "",')],
    },
    "diagnose": {
        "one request alone": ALONE,
        "never reloads": [('return "stale_prefix"', 'return "healthy"')],
        "runs before it reloads": [
            ("server([old, ask, new, run])[0]", "server([old, ask, run, new])[0]"),
        ],
        "reloads before it runs": [
            ("server([old, ask, run, new, ask])[1]", "server([old, ask, new, run, ask])[0]"),
        ],
        "the base at the end": [("[old, ask, base, ask])[1]", "[old, ask, ask, base])[2]")],
        "alpha as large as the rank": [
            ('old, new = ("mount", "a", A, B, 2.0), ("mount", "a", A, -B, 2.0)',
             'old, new = ("mount", "a", A, B, 1.0), ("mount", "a", A, -B, 1.0)'),
            ("right = x + 2.0 * width", "right = x + 1.0 * width"),
        ],
    },
}  # fmt: skip
