"""Wrong answers to lab 10's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

HEADS = "config.num_kv_heads"
BYTES = '"int8": K + 4'
FILLS = "(1 - 1 / mean_length) ** page_size"
WASTE = "page_size / (1 - fills_page) - mean_length"
BATCH = "max(0, (memory_bytes // page_bytes - common) // own)"

RAGGED_SHARED = "shared = ragged and self._count[table[-1]] > 1"
WANTED = "math.ceil((length + count) / self._size) - len(table)"
TOO_FEW = "if wanted + shared > len(self._free):"
KEEP = "keep = math.ceil(length / self._size)"
FREE_AT_0 = "if self._count[page] == 0:"

CHAINED = "content = repr((before, tokens[end - self._size : end]))"
ADAPTER = 'digests, before = [], f"{adapter}"'
LEFT = "digests[: (len(tokens) - 1) // self._size]"
OLDEST = "page = next(iter(self._idle))"
FORGET = "del self._page[self._digest.pop(page)]"

SEEN = "seen = t < lengths[:, None]"
WINDOW = "(t >= lengths[:, None] - window)"
CLEAN_V = "v = v.masked_fill(unseen[:, :, None, None], 0.0)"
VIEWED = "q.float().view(B, G, H // G, K)"
ROW_BY_ROW = """
    out = torch.empty_like(q)
    H, K = q.shape[1:]
    G = k_pages.shape[2]
    for b in range(len(q)):
        end = int(lengths[b])
        start = 0 if window is None else max(0, end - window)
        table = tables[b].clamp(min=0)
        k = k_pages[table].flatten(0, 1)[start:end].float().repeat_interleave(H // G, dim=1)
        v = v_pages[table].flatten(0, 1)[start:end].float().repeat_interleave(H // G, dim=1)
        scores = torch.einsum("hk,shk->hs", q[b], k) / math.sqrt(K)
        out[b] = torch.einsum("hs,shk->hk", scores.softmax(dim=-1), v)
    return out
"""

DECODE_FIRST = "(self._left(k) > 1, rank(k))"
VICTIM = "max(set(self._run) - planned, key=rank)"
SPENT = "            budget -= self._add_chunk(key, count)\n        return"
WAITS = "if victim == key and any(rank(k) > rank(key) for k in planned):"
NO_ENTRY = "if crowded or budget == 0 or len(self._run) == self._most:"
OVERTAKEN = "                self._give_back(key)\n                break"
ENDS = "lengths[key] == self._ends[key]"
PAGES = "math.ceil((self._run[key] + count) / self._size)"
GIVE_BACK = "                self._give_back(victim)"

VERDICT = '"healthy" if replies[-1] == num_pages else "copy_leak"'

MUTANTS: Mutants = {
    "page_bill": {
        "query heads": [(HEADS, "config.num_heads")],
        "keys alone": [("2 * config.num_layers", "config.num_layers")],
        "one layer": [("2 * config.num_layers", "2")],
        "8 bits without scales": [(BYTES, '"int8": K')],
        "half a page": [(WASTE, "(page_size - 1) / 2")],
        "starts at length 0": [(FILLS, "(1 - 1 / (mean_length + 1)) ** page_size")],
        "pages, not room": [(WASTE, "1 / (1 - fills_page) - mean_length / page_size")],
        "prefix rounded up": [("shared // page_size", "math.ceil(shared / page_size)")],
        "nothing is shared": [("shared // page_size", "0")],
        "prefix for nothing": [(BATCH, "max(0, memory_bytes // page_bytes // own)")],
        "less than none": [(BATCH, BATCH[len("max(0, ") : -1])],
    },
    "page_manager": {
        "no copy on write": [(RAGGED_SHARED, "shared = False")],
        "copies whoever has it": [(RAGGED_SHARED, "shared = ragged")],
        "copies full pages": [
            (RAGGED_SHARED, "shared = bool(table) and self._count[table[-1]] > 1"),
        ],
        "the source keeps its count": [("            self._drop(source)\n", "")],
        "a page more at the border": [(WANTED, "(length + count) // self._size + 1 - len(table)")],
        "the copy is not counted": [(TOO_FEW, "if wanted > len(self._free):")],
        "takes what there is": [
            (TOO_FEW, TOO_FEW + "\n            table.extend(map(self._take, ()))\n"
             "            table += [self._take() for _ in range(len(self._free))]"),
        ],
        "refuses too early": [(TOO_FEW, "if wanted + shared >= len(self._free):")],
        "free while others have it": [(FREE_AT_0, "if page not in self._free:")],
        "never free again": [(FREE_AT_0, "if self._count[page] < 0:")],
        "one list for both": [("= list(self._tables[parent])", "= self._tables[parent]")],
        "a fork does not count": [("            self._count[page] += 1", "            pass")],
        "a cut keeps its pages": [(KEEP, "keep = len(self._tables[key])")],
        "a cut drops the page it ends in": [(KEEP, "keep = length // self._size")],
        "ends what has ended": [("self._tables.pop(key):", "self._tables.pop(key, []):"),
                                ("del self._lengths[key]", "self._lengths.pop(key, 0)")],
        "the last page leaks": [("self._tables.pop(key):", "self._tables.pop(key)[:-1]:")],
    },
    "prefix_cache": {
        "digest of the page alone": [(CHAINED, CHAINED.replace("before", "adapter"))],
        "blind to the adapter": [(ADAPTER, 'digests, before = [], ""')],
        "the adapter before the last page only": [
            (ADAPTER, 'digests, before = [], ""'),
            ("digests.append(before)", 'digests.append(f"{before}{adapter * (end > self._size)}")'),
        ],
        "nothing left to compute": [(LEFT, "digests")],
        "a page too few": [(LEFT, "digests[: len(tokens) // self._size - 1]")],
        "the latest goes first": [(OLDEST, "page = list(self._idle)[-1]")],
        "the beginning goes first": [("reversed(self._tables.pop(key))", "self._tables.pop(key)")],
        "in order of arrival": [
            (OLDEST, "page = next(p for p in self._digest if p in self._idle)"),
        ],
        "pages in use are taken": [(OLDEST, "page = next(iter(self._digest))"),
                                   ("del self._idle[page]", "self._idle.pop(page, None)")],
        "found pages are not pinned": [("            self._idle.pop(page, None)\n", "")],
        "still found after it is written over": [(FORGET, "pass")],
        "cached pages before free ones": [("if self._free:", "if self._free and not self._idle:")],
        "forgets with the last request": [("if page in self._digest:", "if False:")],
        "never two at a time": [("if self._count[page] > 0:", "if False:")],
    },
    "paged_decode": {
        "one token too many": [(SEEN, "seen = t <= lengths[:, None]")],
        "not itself": [(SEEN, "seen = t < (lengths[:, None] - 1).clamp(min=1)")],
        "the whole last page": [
            (SEEN, "seen = t // k_pages.shape[1] <= (lengths[:, None] - 1) // k_pages.shape[1]"),
        ],
        "the window without itself": [(WINDOW, "(t >= lengths[:, None] - 1 - window)")],
        "no window": [("if window is not None:", "if False:")],
        "nan in values": [(CLEAN_V, "pass")],
        "heads in turn": [
            (VIEWED, "q.float().view(B, H // G, G, K).transpose(1, 2)"),
            ("v).reshape(B, H, K)", "v).transpose(1, 2).reshape(B, H, K)"),
        ],
        "no scale": [(" / math.sqrt(K)", "")],
        "scaled by the heads": [("math.sqrt(K)", "math.sqrt(H)")],
        "in order of the pages": [("tables.clamp(min=0)", "tables.clamp(min=0).sort(dim=1)[0]")],
        "sequence by sequence": ROW_BY_ROW,
        "pages cleaned in place": [
            ("    t = torch", "    for pages in (k_pages, v_pages):\n"
             "        pages.nan_to_num_(0.0, 0.0, 0.0)\n    t = torch"),
        ],
    },
    "step_scheduler": {
        "prompts first": [(DECODE_FIRST, "(self._left(k) == 1, rank(k))")],
        "by rank alone": [(DECODE_FIRST, "rank(k)")],
        "blind to priorities": [("rank = self._rank.__getitem__", "rank = int")],
        "budget never spent by who enters": [
            (SPENT, "            self._add_chunk(key, count)\n        return"),
        ],
        "whole prompts": [("count = min(len(self._tokens[key]), budget)",
                           "count = len(self._tokens[key])")],
        "one more in the batch": [("== self._most", "> self._most")],
        "the first comer gives way": [(VICTIM, "min(set(self._run) - planned, key=rank)")],
        "takes pages from the plan": [(VICTIM, "max(self._run, key=rank)")],
        "only itself gives way": [(VICTIM, "key")],
        "gives pages back to a later rank": [(WAITS, "if False:")],
        "enters while somebody waits for pages": [
            (NO_ENTRY, NO_ENTRY.replace("crowded", "preempted")),
        ],
        "enters after a preemption": [(NO_ENTRY, NO_ENTRY.replace("crowded or ", ""))],
        "overtakes who waits for pages": [(OVERTAKEN, OVERTAKEN.replace("break", "continue"))],
        "preempted without its answer": [
            (GIVE_BACK, GIVE_BACK + "\n                lost = self._tokens[victim][-1:]\n"
             "                if len(self._tokens[victim]) > 1:\n"
             "                    self._tokens[victim] = self._tokens[victim][: -len(lost)]"),
        ],
        "preempted for ever": [
            (GIVE_BACK, GIVE_BACK + "\n                self._tokens.pop(victim)"),
        ],
        "one token more": [(ENDS, "lengths[key] > self._ends[key]")],
        "finished rows keep their place": [("self.abort(key)\n        return done",
                                            "pass\n        return done")],
        "a page more at the border": [(PAGES, "(self._run[key] + count) // self._size + 1")],
        "room for the whole request": [(PAGES, "math.ceil(self._ends[key] / self._size)")],
        "leaks on abort": [
            ("            self._give_back(key)\n        del",
             "            del self._run[key]\n        del"),
        ],
    },
    "diagnose": {
        "one beginning for both": [
            ("replay([*twice, (\"read\", 1)])[-1][0] != 1", "replay([*twice])[-1] < 0"),
        ],
        "nobody writes after the end": [
            ('("end", 0), ("write", 2, [7]), ("write", 3, [9])', '("end", 0)'),
        ],
        "the parent ends unread": [
            ("replies[-3] != [1, 3]", "replies[-3][0] != 1"),
        ],
        "counts too early": [(VERDICT, '"healthy" if replies[-2] == num_pages else "copy_leak"')],
        "takes every page in use for a leak": [
            ('*both, ("end", 0), ("end", 1)', '*both, ("end", 0), ("read", 1)'),
            ("replies[-1] == num_pages", "replies[-2] == num_pages"),
        ],
    },
}  # fmt: skip
