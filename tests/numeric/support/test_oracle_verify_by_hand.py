"""The oracle of verify: its numbers against examples done by hand, against the scan's oracle and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from erasure_sweep.workers.measures.verify.group_rule import group_of_shares
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.positions import hash_u64, measured_positions
from erasure_sweep.workers.records import Target
from erasure_sweep.workers.tables.facts.verdict import verdict
from tests.support.models.planting import small_config
from tests.support.models.random_models import random_lean
from tests.support.oracle import verify_effects as oracle_verify_effects
from tests.support.oracle import verify_nulls as oracle_nulls
from tests.support.oracle import verify_setting as setting
from tests.support.oracle import verify_trust as oracle_verify_trust
from tests.support.oracle.scan import as_numpy, forward
from tests.support.oracle.sublayers import read_stream
from tests.support.oracle.v_composition import read
from tests.support.oracle.verify import COLUMNS, verify_tables
from tests.support.oracle.verify_nulls import siblings
from tests.support.oracle.verify_setting import Setting


def test_v_composed_parts_are_those_of_the_scan() -> None:
    config, weights, _ = random_lean(41, n_layers=3, n_heads=2)
    ids = draw(config, (2, 9))
    reading = read(config, weights, ids)
    s = setting.arrange(config, weights, ids, None, block=2, seed=0, first_prompt=0)
    for writer, head in (("embed", "L0H1"), ("L0H0", "L2H1"), ("MLP0", "L1H0")):
        part = s.tokens(s.v_composed([head], s.term(writer)))
        np.testing.assert_allclose(part, reading.parts[writer, head], atol=1e-12)
    beside = s.tokens(s.v_composed(["L1H0", "L1H1"], s.term("embed")))
    np.testing.assert_allclose(beside, reading.parts["embed", "L1H0"] + reading.parts["embed", "L1H1"], atol=1e-12)
    first = s.v_composed(["L1H0"], s.term("embed"))
    behind = s.v_composed_by_head(["L2H1", "L1H0"], s.term("embed"))
    np.testing.assert_array_equal(s.tokens(behind["L1H0"]), s.tokens(first))
    left = [own + taken for own, taken in zip(s.term("embed"), first, strict=True)]
    np.testing.assert_allclose(s.tokens(behind["L2H1"]), s.tokens(s.v_composed(["L2H1"], left)), atol=1e-12)
    g = s.tokens(s.logit_directions())
    from_scan = reading.to_logits.direction / reading.to_logits.final_scale[:, None]
    np.testing.assert_allclose(g, from_scan - from_scan.mean(axis=1, keepdims=True), atol=1e-12)


def draw(config: ModelConfig, shape: tuple[int, int], seed: int = 21) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


def test_blocks_and_partners_by_hand() -> None:
    assert setting.cut(6, 3) == [[0, 1, 2], [3, 4, 5]]
    assert setting.cut(7, 3) == [[0, 1, 2], [3, 4, 5, 6]]
    assert setting.cut(8, 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert setting.cut(1, 3) == [[0]]
    config, weights, _ = random_lean(42, n_layers=1, n_heads=1, d_model=8)
    s = setting.arrange(config, weights, draw(config, (27, 5)), 2, block=3, seed=9, first_prompt=20)
    assert [s.partner(row) for row in s.rows] == [1, 2, 0, 4, 5, 6, 3]
    assert s.block_of().tolist() == 6 * [0] + 8 * [1]
    np.testing.assert_array_equal(s.kept, measured_positions(9, 20, 7, 5, 2, True))
    shuffled = s.from_partner(list(s.ids), permuted=True)
    order = np.argsort(hash_u64(9, 26, 2**32 + np.arange(5, dtype=np.uint64)))
    assert sorted(s.permutation(6)) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(shuffled[6], s.ids[3][order])
    np.testing.assert_array_equal(s.from_partner(list(s.ids), permuted=False)[6], s.ids[3])


def test_placebos_keep_the_metric_of_the_streams_covariance() -> None:
    """What is alike at two tokens stays alike, and the whole is turned: nothing of the writer's own direction is kept."""
    config, weights, _ = random_lean(43, n_layers=2, n_heads=2, d_model=12, n_ctx=64)
    s = setting.arrange(config, weights, draw(config, (9, 64)), None, block=2, seed=1, first_prompt=0)
    for writer in ("L1H0", "MLP0", "embed"):
        covariance, written = oracle_nulls.covariance_at(s, writer), s.tokens(s.term(writer))
        _, inverse, span = oracle_nulls.roots(covariance, oracle_nulls.RANK)
        assert round(np.trace(span)) == 11  # writing weights are centred
        turned = [s.tokens(oracle_nulls.placebo(s, writer, covariance, draw)) for draw in range(200)]
        for field in turned[:3]:
            np.testing.assert_allclose(
                (field @ inverse) @ (field @ inverse).T, (written @ inverse) @ (written @ inverse).T, atol=1e-9
            )
        assert abs(np.mean([setting.beta(field, written) for field in turned])) < 0.05
        # Over draws a placebo varies as the stream does, whatever the writer does.
        pooled = np.mean([field.T @ field for field in turned], axis=0)
        assert np.abs(pooled / np.trace(pooled) - covariance / np.trace(covariance)).max() < 0.03


T_ONE = math.tan(0.475 * math.pi)
"""97.5 % of t with one degree of freedom."""


def test_intervals_by_hand() -> None:
    one, two = np.zeros(4, dtype=int), np.array([3, 3, 8, 8])
    assert all(math.isnan(end) for end in setting.mean_interval(one, np.arange(4.0)))
    # Without one of the two prompts the mean is 5 or 1: the jackknife's variance is 1/2 · (2² + 2²).
    assert setting.mean_interval(two, np.array([0.0, 2.0, 4.0, 6.0])) == pytest.approx((3 - 2 * T_ONE, 3 + 2 * T_ONE))
    assert all(math.isnan(end) for end in setting.mean_interval(two, np.array([0.0, 2.0, 2.0, 0.0])))
    vectors, onto = np.array([[1.0], [1.0], [4.0], [4.0]]), np.array([[1.0], [1.0], [2.0], [2.0]])
    assert setting.beta(vectors, onto) == pytest.approx(1.8)
    assert setting.beta_interval(two, vectors, onto) == pytest.approx((1.8 - T_ONE / 2, 1.8 + T_ONE / 2))
    nothing = np.concatenate([onto, np.zeros((1, 1))]), np.concatenate([two, [9]])
    assert setting.beta_interval(nothing[1], np.ones((5, 1)), nothing[0]) == setting.beta_interval(
        two, np.ones((4, 1)), onto
    )
    many = np.repeat(np.arange(400), 2)
    values = np.random.default_rng(4).standard_normal(400)
    low, high = setting.mean_interval(many, np.repeat(values, 2))
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.01)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.01)


def test_the_interval_of_a_median_by_hand() -> None:
    below = [0, 1, 2, 4]  # of each prompt's four tokens; 9 of 16 are 1, which is the median, and count as half below it
    values = np.concatenate([[-1.0] * n + [1.0] * (4 - n) for n in below])
    shares = np.array([(n + (4 - n) / 2) / 4 for n in below])
    reach = float(stats.t(3).ppf(0.975)) * shares.std(ddof=1) / 2
    found = setting.median_interval(np.repeat(np.arange(4), 4), values)
    assert found == (np.quantile(values, 0.5 - reach), np.quantile(values, 0.5 + reach)) == (-1.0, 1.0)
    assert all(math.isnan(end) for end in setting.median_interval(np.repeat(np.arange(4), 4), np.ones(16)))


def test_lines_have_intervals() -> None:
    s = two_blocks()
    x = np.array([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])
    y = np.concatenate([-x[:3], -0.5 * x[3:]])
    every = np.ones(6, dtype=bool)
    row = oracle_verify_effects.line_of(s, x, y, every, every)
    prompts = s.prompts()
    without = [np.polyfit(x[prompts != p], y[prompts != p], 1)[0] for p in range(4)]
    reach = float(stats.t(3).ppf(0.975)) * math.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
    assert (row["slope"], row["slope_low"], row["slope_high"]) == pytest.approx((-0.75, -0.75 - reach, -0.75 + reach))
    z = [np.arctanh(np.clip(np.corrcoef(x[prompts != p], y[prompts != p])[0, 1], -1 + 1e-12, 1.0)) for p in range(4)]
    reach = float(stats.t(3).ppf(0.975)) * math.sqrt(3 / 4 * np.sum((z - np.mean(z)) ** 2))
    ends = np.tanh([np.arctanh(row["r"]) - reach, np.arctanh(row["r"]) + reach])
    assert (row["low"], row["high"], row["n"]) == (*map(pytest.approx, ends), 6)
    flat = oracle_verify_effects.line_of(s, np.ones(6), y, every, every)
    assert all(math.isnan(flat[name]) for name in ("r", "slope", "low", "slope_low"))
    none = oracle_verify_effects.line_of(s, x, y, ~every, every)
    assert none["n"] == 0 and none["r"] is None


def two_blocks() -> Setting:
    """Four prompts of three positions in two blocks, of which all, or two of three, are measured."""
    config, weights, _ = random_lean(44, n_layers=1, n_heads=1, d_model=8)
    kept = [np.array([0]), np.array([0, 2]), np.array([0, 1]), np.array([1])]
    s = setting.arrange(config, weights, draw(config, (4, 3)), None, block=2, seed=0, first_prompt=0)
    return s._replace(kept=kept)


def test_explained_variance_by_hand() -> None:
    x, blocks = np.array([[0.0], [2.0], [10.0], [12.0]]), np.zeros(4, dtype=int)
    # Within cells 2 + 2 with one degree of freedom each, in total 4 · 26 = 104 with three.
    share = oracle_verify_effects.explained(x, blocks, np.array([0, 0, 1, 1]))
    assert share == pytest.approx(1.0 - (4.0 / 2.0) / (104.0 / 3.0))
    assert math.isnan(oracle_verify_effects.explained(x, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])))
    assert math.isnan(oracle_verify_effects.explained(np.ones((4, 1)), blocks, np.array([0, 0, 1, 1])))
    lonely = oracle_verify_effects.explained(x, blocks, np.array([0, 0, 1, 2]))
    assert lonely == pytest.approx(1.0 - 2.0 / (104.0 / 3.0))


def test_cells_that_explain_nothing_have_no_share_on_average() -> None:
    rng = np.random.default_rng(6)
    x, blocks = rng.standard_normal((4000, 3)), np.repeat(np.arange(4), 1000)
    assert oracle_verify_effects.explained(x, blocks, rng.integers(0, 300, 4000)) == pytest.approx(0.0, abs=0.03)


def test_numbers_and_words_of_trust_by_hand() -> None:
    x, d, e = np.array([3.0, 4.0]), np.array([1.0, 2.0]), np.array([2.0, -1.0])
    sums = np.array([(x * x).sum(), (d * d).sum(), (e * e).sum(), (d * e).sum()])
    found = {name: statistic(sums) for name, statistic in oracle_verify_trust.STATISTICS.items()}
    assert found == {"varying": 0.2, "share": 0.0, "r": 0.0, "size": 1.0, "concordance": 0.0}
    words = [({}, "unrelated"), ({"r": 0.8}, "partly cancelled"), ({"r": 0.8, "share": 1.4}, "amplified")]
    words += [({"r": -0.8, "share": -0.1}, "reversed"), ({"size": 0.49}, "cancelled"), ({"varying": 0.009}, "constant")]
    assert [oracle_verify_trust.word(found | changes) for changes, _ in words] == [word for _, word in words]
    assert oracle_verify_trust.word(found | {"varying": math.nan}) is None


def test_intervals_of_trust_by_hand() -> None:
    """Of a mean of two prompts, 1 and 3: 2 ± 12.706 · 1."""
    low, high = oracle_verify_trust.leave_one_out(np.array([1.0, 3.0]), lambda values: float(values.mean()))
    assert (low, high) == pytest.approx((2.0 - 12.7062, 2.0 + 12.7062))
    ends = {"varying": (0.5, 0.9), "share": (0.8, 1.2), "r": (0.9, 0.99), "size": (0.85, 1.3)}
    assert oracle_verify_trust.settled(ends) is True
    assert oracle_verify_trust.settled(ends | {"share": (0.7, 1.2)}) is False
    assert oracle_verify_trust.settled(ends | {"r": (math.nan, math.nan)}) is None
    assert oracle_verify_trust.settled(ends | {"r": (-0.9, 0.9), "size": (0.1, 0.2), "share": (-0.2, 0.2)}) is True


def test_a_partner_is_turned_by_one_offset() -> None:
    config, weights, _ = random_lean(42, n_layers=1, n_heads=1, d_model=8)
    s = setting.arrange(config, weights, draw(config, (3, 6)), None, block=3, seed=9, first_prompt=0)
    turned, first = oracle_verify_trust.rotated(s, "embed"), s.first
    for row in s.rows:
        own, other, turn = (
            s.term("embed")[row], s.term("embed")[s.partner(row)], oracle_verify_trust.offset(s, row)
        )  # fmt: skip
        assert 1 <= turn < 6 - first
        np.testing.assert_array_equal(turned[row][:first], own[:first])
        np.testing.assert_array_equal(turned[row][first:], np.roll(other[first:], -turn, axis=0))


@pytest.mark.parametrize(
    ("high", "placebos", "siblings", "word"),
    [
        (-0.4, [-0.02, 0.1, 0.0], [-0.2], "erased"),
        (-0.4, [-0.02, 0.1, 0.0], [], "erased"),
        (-0.4, [-0.02, 0.1, 0.0], [-0.3, -0.1, -0.6], "erased, with its siblings"),
        (-0.4, [-0.3, -0.35, -0.39], [-0.5], "erased, with its siblings"),
        (-0.4, [-0.38, -0.39, -0.37], [0.0], "shrinks everything"),  # the lowest of four, by less than τ
        (-0.4, [-0.41, -0.3, -0.27], [0.0], "shrinks everything"),
        (-0.4, [-0.41, -0.2, -0.1], [0.0], "not found"),  # a single placebo is taken out as much
        (-0.04, [0.0, 0.0, 0.0], [0.0], "not found"),
        (math.nan, [0.0, 0.0, 0.0], [0.0], None),
        (-0.4, [math.nan], [0.0], None),
    ],
)
def test_verdicts(high: float, placebos: list[float], siblings: list[float], word: str | None) -> None:
    rows = [{"null": "placebo", "of": "v_composed", "beta": beta} for beta in placebos]
    rows += [{"null": "siblings", "of": "v_composed", "beta": beta} for beta in siblings]
    rows += [{"null": "placebo", "of": "clean", "beta": -9.0}, {"null": "shuffled", "of": "v_composed", "beta": -9.0}]
    assert oracle_nulls.conclusion({"beta": -0.5, "beta_high": high}, rows, tau=0.05) == word
    assert verdict(-0.5, high, 0.05, placebos, siblings) == word


def test_a_group_holds_nine_tenths_of_what_is_taken_out() -> None:
    layout = small_config(3, 4).layout
    shares = {"L1H0": 0.1, "L1H1": -0.4, "L1H2": 0.5, "L2H0": 0.3, "L2H1": 0.0, "L2H2": 0.05, "L2H3": 0.05}
    assert group_of_shares(layout, shares) == ("L1H0", "L1H2", "L2H0")
    assert group_of_shares(layout, {**shares, "L1H2": 0.4}) == ("L1H0", "L1H2", "L2H0", "L2H2")
    assert group_of_shares(layout, dict.fromkeys(shares, -0.1)) == ()


def test_siblings_and_parts() -> None:
    config, weights, _ = random_lean(45, n_layers=2, n_heads=3)
    s = setting.arrange(config, weights, draw(config, (2, 6)), None, block=2, seed=0, first_prompt=0)
    assert siblings(s, "L0H1") == ["L0H0", "L0H2"]
    assert (siblings(s, "embed"), siblings(s, "pos_embed"), siblings(s, "MLP0")) == (["pos_embed"], ["embed"], [])
    parts = oracle_verify_effects.parts_of(s, "L1H2")
    run = s.runs[1]
    first = read_stream(config, run.states["resid_post0"])[0][0] @ s.w["W_V"][1, 2] @ s.w["W_O"][1, 2]
    np.testing.assert_allclose(parts["bos"][1][4], run.patterns["L1H2"][4, 0] * first, atol=1e-14)
    np.testing.assert_allclose(parts["non_bos"][1][0], 0.0, atol=1e-14)
    assert list(oracle_verify_effects.parts_of(s, "MLP0")) == ["all"]


def test_without_pattern_follows_the_true_next_token() -> None:
    config, weights, _ = random_lean(46, n_layers=2, n_heads=2, n_ctx=40)
    ids = draw(config, (2, 40))
    tables = verify_tables(config, weights, ids, [Target("L0H0", ("L1H1",), "named")], block=1)
    points = tables["dla_points"].query("effect == 'without_pattern'")
    assert sorted(points["position"]) == sorted(2 * list(range(32, 39)))
    w, run, p = as_numpy(weights), forward(config, weights, ids[1]), 35
    point = points.query("prompt == 1 and position == @p").iloc[0]
    along = w["W_U"][:, ids[1, p + 1]]
    along = (along - along.mean()) / run.final_scale[p]
    written = run.terms["L0H0"][p]
    moved = (written - written.mean()) / run.ln1_scales[1][p] @ w["W_V"][1, 1] @ w["W_O"][1, 1]
    assert (point["writer_dla"], point["eraser_dla"]) == pytest.approx((written @ along, moved @ along))
    line = tables["dla_correlation"].set_index("effect").loc["without_pattern"]
    assert line["n"] == 14
    short = verify_tables(config, weights, ids[:, :33], [Target("L0H0", ("L1H1",), "named")])["dla_correlation"]
    short = short.set_index("effect").loc["without_pattern"]
    assert short["n"] == 0 and math.isnan(short["r"])


def test_tables_have_their_rows() -> None:
    config, weights, _ = random_lean(47, n_layers=2, n_heads=2)
    targets = [Target("L0H1", ("L1H0", "L1H1"), "rule"), Target("L0H1", ("L1H0",), "named")]
    targets += [Target("MLP0", ("L1H0", "L1H1"), "all")]
    given = [[3, 1, 4, 1, 5]]
    tables = verify_tables(config, weights, draw(config, (4, 9)), targets, block=2, given=given, places=2)
    assert {name: list(table.columns) for name, table in tables.items()} == COLUMNS
    group = tables["eraser_group"].set_index(["writer", "eraser"])
    assert list(group.index) == [
        *(("L0H1", label) for label in ("L1H0", "L1H1", "L1H0+L1H1", "L1H0")),
        *(("MLP0", label) for label in ("L1H0", "L1H1", "later")),
    ]
    assert list(group["verdict"].notna()) == [False, False, True, True, False, False, True]
    patched = tables["patched_residual_projection"]
    assert len(patched) == 3 * 2 * 5
    assert list(tables["mlp_erasure"]["component"]) == ["MLP0", "MLP1", "MLP1"]
    profile = tables["position_profile"][["first_position", "last_position"]].head(5)
    assert profile.to_numpy().tolist() == [[0, 0], [1, 1], [2, 3], [4, 7], [8, 8]]
    assert list(tables["later_use"]["component"]) == 3 * ["MLP1"]
    assert list(tables["aligned_tokens"]["rank"]) == 2 * list(range(1, 31))
    adversarial = tables["adversarial"].query("role == 'writer' and inputs == 'last'")
    assert set(adversarial.query("source == 'given'")["n"]) == {4}
    assert set(adversarial.query("source == 'found'")["n"]) == {3}
    for _, ranked in adversarial.groupby(["writer", "source", "half"], dropna=False):
        assert sorted(ranked["rank"]) == list(range(1, len(ranked) + 1))
        assert ranked.sort_values("rank")["change"].is_monotonic_increasing
    for _, of_writer in adversarial.groupby("writer"):
        of_half = of_writer.set_index("half")["clean"]
        assert of_half.index.isna().sum() == 1 and list(of_half.index).count("found") == 1
        assert "shown" not in of_half.index or of_half["shown"] >= of_half["found"]
    by_token = tables["adversarial_tokens"]
    ends = by_token[by_token["place"] == by_token["position"]]
    keys = ["writer", "source", "prompt"]
    assert ends[[*keys, "position"]].to_numpy().tolist() == adversarial[[*keys, "position"]].to_numpy().tolist()
    assert list(ends["dla"]) == pytest.approx(list(adversarial["clean"]))
    of_given = by_token.query("source == 'given' and writer == 'MLP0'")
    assert list(of_given["token_id"]) == given[0] and list(of_given["position"]) == [0, 1, 2, 3, 4]
    assert list(tables["dla_trust"]["writer"]) == ["embed", "pos_embed", "L0H0", "L0H1", "MLP0", "L1H0", "L1H1", "MLP1"]
    last = tables["dla_trust"].set_index("writer").loc["MLP1"]
    assert last["share"] == pytest.approx(1.0 + tables["dla_mediation"].iloc[-1]["share"])


def test_token_by_token_a_prompt_averages_to_what_others_find_of_it() -> None:
    """Its DLA to that of trust; net, to what a group of all later heads makes of it."""
    config, weights, _ = random_lean(49, n_layers=3, n_heads=2)
    ids = draw(config, (2, 11))
    later = Target("L0H0", ("L1H0", "L1H1", "L2H0", "L2H1"), "all")
    tables = verify_tables(config, weights, ids, [later], given=ids.tolist())
    given = tables["adversarial_tokens"].query("source == 'given'")
    read = tables["dla_points"].query("effect == 'v_composition'").sort_values(["prompt", "position"])
    trust = tables["dla_trust"].set_index("writer").loc["L0H0"]
    assert len(given) == 22
    assert given["dla"].abs().mean() == pytest.approx(trust["dla_mean_abs"], rel=1e-10)
    assert given["total"].abs().mean() == pytest.approx(trust["effect_mean_abs"], rel=1e-10)
    np.testing.assert_allclose(given["net_dla"] - given["dla"], read["eraser_dla"], rtol=1e-10)


def test_numbers_that_must_agree_between_tables() -> None:
    config, weights, _ = random_lean(48, n_layers=3, n_heads=2)
    target = Target("L0H1", ("L1H0", "L2H1"), "named")
    tables = verify_tables(config, weights, draw(config, (35, 17)), [target], 6, block=2, seed=4, first_prompt=30)
    group = tables["eraser_group"].set_index("eraser")
    nulls = tables["nulls"].query("direction == ''").set_index(["null", "of"])
    assert group.loc[target.label, "beta"] == nulls.loc[("measured", "v_composed"), "beta"]
    assert group.loc[target.label, "beta"] == pytest.approx(group["beta"].iloc[:2].sum())
    assert group.loc[target.label, "clean_median"] == nulls.loc[("measured", "clean"), "median"]
    carries = tables["carries"].set_index("part")
    assert carries.loc["all", "erased_by_group"] == pytest.approx(-group.loc[target.label, "beta"])
    assert carries.loc["all", "power_share"] == pytest.approx(1.0)
    assert carries.loc[["bos", "non_bos"], "power_share"].sum() == pytest.approx(1.0)
    patched = tables["patched_residual_projection"].set_index(["patch", "state"])
    change = patched["patched_beta"] - patched["clean_beta"]
    # At the end of the first eraser's sublayer all that changed is its V-composed part.
    assert change["group", "resid_mid1"] == pytest.approx(-group.loc["L1H0", "beta"])
    assert change["group", "resid_post0"] == change["layer", "resid_pre0"] == 0.0
    assert set(group["n"]) == set(nulls["n"]) == {30}
    assert set(tables["dla_points"]["prompt"]) == set(range(30, 35))
