from __future__ import annotations

import copy
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import pushforward as pf
from benchmarks.exact import Denoiser, Problem
from benchmarks.laws import laws
from benchmarks.measure import Report, Row, table

BUDGETS = (5, 8, 10, 15, 20, 30, 50, 100)
SEEDS = (0, 1)
POINTS = 64
INSTANCE = 1  # of the laws, which are new ones for each number: none that anything was chosen on
NETWORK = Path("runs/benchmark-digits")
NETWORK_POINTS = 8
NETWORK_BUDGETS = (5, 10, 20, 50)

Sampler = Callable[[pf.Field, Tensor, int], Tensor]


def _with(solver: pf.Solver) -> Sampler:
    def sample(field: pf.Field, x0: Tensor, nfe: int) -> Tensor:
        return pf.integrate(solver, field, x0, pf.times.straight(nfe // solver.calls, field.path))

    return sample


OURS: dict[str, Sampler] = {
    "default": lambda field, x0, nfe: pf.generate(
        field, len(x0), nfe=nfe, source=x0, batch_size=len(x0)
    ),
    "default, classical": lambda field, x0, nfe: pf.generate(
        field, len(x0), solver=pf.solvers.Learned(None), nfe=nfe, source=x0, batch_size=len(x0)
    ),
    "AB2": _with(pf.solvers.Multistep("velocity", "time", 2)),
    "AB3": _with(pf.solvers.Multistep("velocity", "time", 3)),
    "DPM++ 2M": _with(pf.solvers.Multistep("data", "log_snr", 2)),
    "DPM++ 3M": _with(pf.solvers.Multistep("data", "log_snr", 3)),
    "UniPC2": _with(pf.solvers.Multistep("data", "log_snr", 2, "always")),
    "UniPC3": _with(pf.solvers.Multistep("data", "log_snr", 3, "always")),
    "DEIS3": _with(pf.solvers.Multistep("noise", "time", 3)),
    "DDIM": _with(pf.solvers.DDIM()),
    "Midpoint": _with(pf.solvers.Midpoint()),
    "RK4": _with(pf.solvers.RK4()),
}


class Counted:
    """A Field that counts its calls."""

    def __init__(self, inner: pf.Field) -> None:
        self.inner, self.calls = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, x: Tensor, t: Tensor | float, want: Any = "velocity", **cond: Any) -> Tensor:
        self.calls += 1
        return self.inner(x, t, want, **cond)


class Fitted:
    """`pf.tune` for each law and number of calls up to 20, on noise of its own; the default beyond.

    A law is fitted once, on CondOT, and the sampler taken on every path.
    """

    budgets = (5, 8, 10, 15, 20)

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], pf.Tuned] = {}

    def __call__(self, field: pf.Field, x0: Tensor, nfe: int) -> Tensor:
        solver = self.fit(field, nfe).solver if nfe in self.budgets else None
        return pf.generate(field, len(x0), solver=solver, nfe=nfe, source=x0, batch_size=len(x0))

    def fit(self, field: pf.Field, nfe: int) -> pf.Tuned:
        exact = field.inner if isinstance(field, Counted) else field
        law = getattr(exact, "law", None)
        key = (id(exact if law is None else law), nfe)
        if key not in self.found:
            self.found[key] = (
                pf.tune(
                    copy.deepcopy(exact).float(),
                    nfe,
                    num=256,
                    held_out=64,
                    iterations=60,
                    batch_size=16,
                )  # type: ignore[attr-defined]
                if law is None
                else pf.tune(
                    law.field(pf.CondOT()),
                    nfe,
                    num=1536,
                    held_out=256,
                    iterations=250,
                    batch_size=192,
                )
            )
            sys.stdout.write(f"fitted, {nfe} calls: {self.found[key][2:]}\n")
        return self.found[key]


# Samplers that are fitted to a law and a budget beforehand: "name": (field, x0, nfe) -> x1.
FITTED: dict[str, Sampler] = {"fitted": Fitted()}


def own_schedule(path: str, name: str) -> bool:
    """Whether a peer runs a model on the library's form of the schedule that the model has."""
    return path != "VP" or not name.startswith("azula") or name.endswith(", VP")


@dataclass
class Case:
    """The errors of all samplers on one path and law, from points of one seed, with one number of network calls."""

    path: str
    law: str
    seed: int
    nfe: int
    ours: dict[str, float] = field(default_factory=dict)
    peers: dict[str, float] = field(default_factory=dict)

    def best(self, among: str = "") -> tuple[float, str] | None:
        """The smallest error of all peers, of one library, or of those on their "own schedule"; and whose it is."""
        return min(
            (
                (error, name)
                for name, error in self.peers.items()
                if (own_schedule(self.path, name) if among == "own" else name.startswith(among))
            ),
            default=None,
        )


def peer_configurations(path: pf.Path) -> dict[str, Any]:
    """Those of benchmarks/peers; none in an environment without them."""
    try:
        from benchmarks.peers.samplers import configurations

        return configurations(path)
    except ImportError:
        return {}


def cases_of(
    name: str,
    exact: pf.Field,
    problem: Problem,
    peers: dict[str, Any],
    budgets: tuple[int, ...] = BUDGETS,
) -> list[Case]:
    """All samplers on one problem, whose points are those of the seeds, one seed after the other."""
    per_seed = len(problem.x0) // len(SEEDS)
    path = type(exact.path).__name__
    cases = [Case(path, name, seed, nfe) for nfe in budgets for seed in SEEDS]
    for case in cases[:: len(SEEDS)]:
        same = [c for c in cases if c.nfe == case.nfe]

        def note(which: str, sampler: str, x: Tensor | None, same: list[Case] = same) -> None:
            if x is None:
                return
            for i, c in enumerate(same):
                error = problem.error(x, slice(i * per_seed, (i + 1) * per_seed))
                if math.isfinite(error):
                    getattr(c, which)[sampler] = float(f"{error:.3g}")

        for sampler, run in (OURS | FITTED).items():
            if sampler in ("RK4", "Midpoint") and case.nfe < 4:
                continue
            counted = Counted(exact)
            note("ours", sampler, run(counted, problem.x0, case.nfe))
            assert counted.calls <= case.nfe, (sampler, case.nfe, counted.calls)
        for sampler, run in peers.items():
            problem.calls = 0
            note("peers", sampler, run(problem, case.nfe))
            assert problem.calls <= case.nfe, (sampler, case.nfe, problem.calls)
    return cases


def starts(path: pf.Path, shape: tuple[int, ...], points: int) -> Tensor:
    return path.source_std * torch.cat(
        [pf.Noise.batch(points, seed).normal(shape, dtype=torch.float64) for seed in SEEDS]
    )


def exact_cases(instance: int = INSTANCE) -> Iterator[list[Case]]:
    for path in (pf.CondOT(), pf.VP()):
        peers = peer_configurations(path)
        for name, law in laws(instance).items():
            problem = Problem(Denoiser(law), path, starts(path, law.shape, POINTS))
            with torch.no_grad():
                yield cases_of(name, law.field(path), problem, peers)


def network() -> pf.Model:
    """A U-Net trained by the recipe for digits, kept in a folder; in float64, for a fine solution of its own flow."""
    if not NETWORK.exists():
        command = "-m pushforward train digits --steps 1000 --out"
        subprocess.run([sys.executable, *command.split(), str(NETWORK)], check=True)
    model = pf.load(str(NETWORK))
    assert isinstance(model, pf.Model)
    return model.double().eval()


class NetworkDenoiser(nn.Module):
    """The data prediction of a CondOT model, at any (alpha, sigma)."""

    def __init__(self, model: pf.Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        t = alpha / (alpha + sigma)
        return self.model(x / (alpha + sigma), t, "data")


def network_cases(cases: list[Case]) -> list[Case]:
    """On the network, of the peers only what came within a factor 1.5 of the best on some law."""
    model = network()
    peers = peer_configurations(model.path)
    near = {
        sampler
        for c in cases
        if c.path == "CondOT" and c.peers
        for sampler, e in c.peers.items()
        if e < 1.5 * min(c.peers.values())
    }
    with torch.no_grad():
        x0 = starts(model.path, model.shape, NETWORK_POINTS)
        problem = Problem(NetworkDenoiser(model), model.path, x0, steps=400)
        return cases_of(
            "digits U-Net",
            model,
            problem,
            {name: run for name, run in peers.items() if name in near},
            NETWORK_BUDGETS,
        )


def solver_error() -> Report:
    """Error of the end points against the exact flow, by network calls: the default over the best peer.

    Root mean square, over points and coordinates, of the distance to the end of the exact trajectory from the same
    start: exact fields of eight laws (benchmarks/laws.py) in float64, and a trained network. The truth is DOP853
    (scipy) at 1e-9, for the network 400 steps of Runge-Kutta. 64 points for each of two seeds, 8 for the network. The
    table holds, by law and number of calls, the error of `pf.generate` over the smallest of all peers' configurations
    (benchmarks/peers/samplers.py), geometric mean over seeds; below 1 the default is better. That smallest error is
    picked afterwards for each law and number of calls, which nobody can do in use. On VP a peer may also run on another
    schedule of its own, at the same noise levels; "own schedule" leaves that out. Calls that do not fill a step stay
    unused. Stochastic samplers are left out: they have no trajectory to compare with.
    """
    cases = [c for some in exact_cases() for c in some]
    cases += network_cases(cases)
    return report(cases)


def report(cases: list[Case]) -> Report:
    """Tables, figure and all numbers."""
    rows = ratios(cases, "default")
    more = ["", "## Fitted to the law, over the best peer", "", *table(ratios(cases, "fitted"))]
    if not any(c.peers for c in cases):
        more.append(
            "The peers' environment is missing (`make bench` sets it up): own samplers only."
        )
    for path in dict.fromkeys(c.path for c in cases):
        here = [c for c in cases if c.path == path]
        more += ["", f"## Every sampler, error over the best peer's, median over laws: {path}", ""]
        more += table(_against(here))
        more += ["", f"## Errors on 8gaussians: {path}", "", *table(_errors(here, "8gaussians"))]
    if any(c.peers for c in cases):
        more += ["", "## The best peer", "", *table(_winners(cases))]
    files = {"solver_error.png": figure(cases), "solver_error.cases.json": dump(cases)}
    more += ["", "![errors](solver_error.png)", "", "All errors: solver_error.cases.json."]
    return Report(rows, "\n".join(more), files)


def _mean(values: list[float]) -> float:
    """Geometric."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def _groups(cases: list[Case]) -> dict[tuple[str, str], dict[int, list[Case]]]:
    out: dict[tuple[str, str], dict[int, list[Case]]] = {}
    for c in cases:
        out.setdefault((c.path, c.law), {}).setdefault(c.nfe, []).append(c)
    return out


def _value(case: Case, name: str) -> float | None:
    if name.startswith("best"):
        best = case.best(name.removeprefix("best of ").removeprefix("best peer").strip())
        return best[0] if best else None
    return case.ours.get(name, case.peers.get(name))


def _over(cases: list[Case], first: str, second: str) -> float | None:
    pairs = [(_value(c, first), _value(c, second)) for c in cases]
    found = [a / b for a, b in pairs if a is not None and b is not None]
    return _mean(found) if found else None


def ratios(cases: list[Case], name: str) -> list[Row]:
    """Error of one of our samplers over the best peer's, by law and number of calls; and the medians over laws."""

    def row(path: str, law: str, values: Callable[[int], float | None]) -> Row:
        return {"path": path, "law": law} | {str(n): values(n) for n in budgets}

    rows: list[Row] = []
    budgets = list(dict.fromkeys(c.nfe for c in cases))
    for path in dict.fromkeys(c.path for c in cases):
        groups = {law: some for (p, law), some in _groups(cases).items() if p == path}
        for law, some in groups.items():
            rows.append(
                row(path, law, lambda n, some=some: _over(some.get(n, []), name, "best peer"))
            )
        for label, rival in (("median", "best peer"), ("median, own schedule", "best peer own")):
            if label == "median" or path == "VP":
                rows.append(row(path, label, lambda n, r=rival, g=groups: _median(g, n, name, r)))
    return rows


def _median(
    groups: dict[str, dict[int, list[Case]]], nfe: int, first: str, second: str
) -> float | None:
    found = [
        r for some in groups.values() if (r := _over(some.get(nfe, []), first, second)) is not None
    ]
    return median(found) if found else None


LIBRARIES = ("diffusers", "flow_matching", "azula", "k-diffusion")


def _names() -> list[str]:
    return [*OURS, *FITTED, *(f"best of {library}" for library in LIBRARIES)]


def _filled(rows: list[Row]) -> list[Row]:
    return [r for r in rows if any(v is not None for k, v in r.items() if k != "sampler")]


def _against(cases: list[Case]) -> list[Row]:
    groups = {law: some for (_, law), some in _groups(cases).items()}
    budgets = dict.fromkeys(c.nfe for c in cases)
    return _filled(
        [
            {"sampler": name} | {str(n): _median(groups, n, name, "best peer") for n in budgets}
            for name in _names()
        ]
    )


def _errors(cases: list[Case], law: str) -> list[Row]:
    rows: list[Row] = []
    for name in _names():
        row: Row = {"sampler": name}
        for nfe in dict.fromkeys(c.nfe for c in cases):
            values = [_value(c, name) for c in cases if c.law == law and c.nfe == nfe]
            row[str(nfe)] = _mean([v for v in values if v]) if any(values) else None
        rows.append(row)
    return _filled(rows)


def _winners(cases: list[Case]) -> list[Row]:
    rows: list[Row] = []
    for (path, law), budgets in _groups(cases).items():
        row: Row = {"path": path, "law": law}
        for nfe in sorted({5, 10, 20, 50} & budgets.keys()):
            best = budgets[nfe][0].best()
            row[str(nfe)] = f"{best[1]}: {best[0]:.2g}" if best else None
        rows.append(row)
    return rows


def dump(cases: list[Case]) -> bytes:
    """{path, law, budgets, seeds, ours and peers: {sampler: errors[seed][budget]}} for each path and law."""
    blocks = []
    for (path, law), budgets in _groups(cases).items():
        block: dict[str, Any] = {
            "path": path,
            "law": law,
            "seeds": list(SEEDS),
            "budgets": list(budgets),
        }
        for which in ("ours", "peers"):
            names = dict.fromkeys(
                n for some in budgets.values() for c in some for n in getattr(c, which)
            )
            block[which] = {
                n: [
                    [getattr(some[i], which).get(n) for some in budgets.values()]
                    for i in range(len(SEEDS))
                ]
                for n in names
            }
        blocks.append(json.dumps(block))
    return ("[\n" + ",\n".join(blocks) + "\n]\n").encode()


def load(data: bytes) -> list[Case]:
    """What `dump` wrote."""
    cases = []
    for block in json.loads(data):
        for i, seed in enumerate(block["seeds"]):
            for j, nfe in enumerate(block["budgets"]):
                case = Case(block["path"], block["law"], seed, nfe)
                for which in ("ours", "peers"):
                    errors = {n: e[i][j] for n, e in block[which].items() if e[i][j] is not None}
                    setattr(case, which, errors)
                cases.append(case)
    return cases


SHOWN = ("8gaussians", "spiral", "correlated", "digits")
LINES: dict[str, dict[str, Any]] = {
    "best of diffusers": {"color": "0.75", "lw": 1, "ls": "-"},
    "best of flow_matching": {"color": "0.75", "lw": 1, "ls": ":"},
    "best of azula": {"color": "0.75", "lw": 1, "ls": "--"},
    "best of k-diffusion": {"color": "0.75", "lw": 1, "ls": "-."},
    "best peer": {"color": "black", "lw": 1.4},
    "AB2": {"color": "tab:green", "lw": 1.2},
    "DPM++ 2M": {"color": "tab:orange", "lw": 1.2},
    "default": {"color": "tab:blue", "lw": 2},
}


def figure(cases: list[Case]) -> bytes:
    """Errors against network calls, both logarithmic; grey: the best configuration of each peer at each point."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator

    paths = [p for p in ("CondOT", "VP") if any(c.path == p for c in cases)]
    groups = _groups(cases)
    drawn, axes = plt.subplots(
        len(paths),
        len(SHOWN),
        figsize=(11, 2.7 * len(paths) + 0.6),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for i, path in enumerate(paths):
        for j, law in enumerate(SHOWN):
            axis, budgets = axes[i][j], groups.get((path, law), {})
            if not budgets:
                axis.set_axis_off()
                continue
            for name, style in {
                **LINES,
                **{f: {"color": "tab:red", "lw": 1.5} for f in FITTED},
            }.items():
                points = [
                    (nfe, _mean(values))
                    for nfe, some in budgets.items()
                    if (values := [v for c in some if (v := _value(c, name))])
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), label=name, **style)
            axis.set(xscale="log", yscale="log")
            axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.25, lw=0.5)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_title(f"{path}, {law}", fontsize=10)
            axis.tick_params(labelsize=8)
        axes[i][0].set_ylabel("error", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("network calls", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    data = io.BytesIO()
    drawn.savefig(data, dpi=110)
    plt.close(drawn)
    return data.getvalue()
