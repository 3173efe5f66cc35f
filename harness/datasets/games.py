"""The generated games of one day: every player's line, from latent abilities and chance.

Arrays are (teams, players), two teams per game, the home team first. The coefficients were chosen
to give averages like the NBA's of 2023 to 2025: a team has 113 points from 88 shots and 20 free
throws, 46 rebounds, 26 assists and 13 turnovers in 99 possessions.
"""

from __future__ import annotations

import numpy as np

SKILLS = (
    "talent", "usage", "threes", "shooting", "free_throws", "passing", "rebounding", "defence",
)  # fmt: skip
"""Latent abilities, about standard normal."""
PLAYER = np.dtype([("player_id", "i8"), ("position", "i8"), *((name, "f8") for name in SKILLS)])
CENTER = 4  # positions run from point guard, 0, to center, 4

LISTED = 13  # players that a team names for a game
GAME_MINUTES = 48
TEAM_MINUTES = 5 * GAME_MINUTES
ROLES = np.array([35, 34, 32, 30, 28, 24, 21, 18, 16, 13, 10, 8, 6], dtype=float)
"""Minutes of the best available player, the second best, and so on."""
PLAYS = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0.9, 0.7, 0.5, 0.35, 0.2])
"""The probability that each of them plays at all."""
PLAYS_PER_TEAM = 112  # shots, trips to the line and turnovers, as in an NBA game of the 2020s
KINDS_OF_PLAY = (0.79, 0.09, 0.12)  # in that order; a trip is two free throws
FREE_THROW_PLAYS = 0.44  # the usual weight of a free throw when plays are counted
FOULED_OUT = 6
DOUBLE = 10
HOME_EDGE = 0.008  # on shooting percentages; about two and a half points

Stats = dict[str, np.ndarray]


def play_games(rng: np.random.Generator, players: np.ndarray, healthy: np.ndarray) -> Stats:
    """Play a day's games.

    Args:
        rng: the source of chance.
        players: of dtype `PLAYER` and shape (teams, LISTED), healthy players before injured ones,
            each by talent.
        healthy: whether each can play, of the same shape.

    Returns:
        The columns of a box score, each of shape (teams, LISTED). Percentages and ratings are
        NaN where the divisor is 0.
    """
    minutes = _minutes(rng, healthy)
    stats = {"minutes": minutes, **_shots(rng, players, minutes)}
    stats |= _shared_stats(rng, players, stats)
    stats |= _percentages(stats)
    stats |= _ratings(rng, stats)
    return stats | _summaries(stats)


def expected_minutes(healthy: np.ndarray) -> np.ndarray:
    """The minutes that a coach would plan, (teams, LISTED), before any chance."""
    weights = ROLES * PLAYS * healthy
    return np.asarray(TEAM_MINUTES * weights / weights.sum(axis=1, keepdims=True))


def expected_points(players: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """The approximate mean of DraftKings points in `play_games`, (teams, LISTED)."""
    per_minute = (
        0.93
        + 0.18 * (players["usage"] + players["talent"])
        + 0.06 * (players["passing"] + players["rebounding"])
        + 0.04 * players["shooting"]
    )
    return np.asarray(minutes * np.maximum(per_minute, 0.3))


def expected_margin(players: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """The approximate mean winning margin in `play_games`, in points, (teams,)."""
    shares = minutes / minutes.sum(axis=1, keepdims=True)
    attack = (shares * (0.9 * players["talent"] + 0.8 * players["shooting"])).sum(axis=1)
    strength = 5 * attack + 5 * (shares * players["defence"]).sum(axis=1)
    strength[::2] += 2.5
    return np.asarray(strength - _opposing(strength))


def _opposing(values: np.ndarray) -> np.ndarray:
    """Replace each team's value by its opponent's."""
    return np.asarray(values[np.arange(len(values)) ^ 1])


def _minutes(rng: np.random.Generator, healthy: np.ndarray) -> np.ndarray:
    plays = healthy & (rng.random(healthy.shape) < PLAYS)
    weights = ROLES * plays * rng.lognormal(0, 0.15, healthy.shape)
    minutes = TEAM_MINUTES * weights / weights.sum(axis=1, keepdims=True)
    return np.asarray(np.minimum(minutes, GAME_MINUTES).round(1))


def _shots(rng: np.random.Generator, players: np.ndarray, minutes: np.ndarray) -> Stats:
    size = players["position"] - CENTER / 2
    weights = minutes * np.exp(0.18 * (players["usage"] + players["talent"]))
    pace = np.rint(rng.normal(PLAYS_PER_TEAM, 4, len(minutes) // 2)).astype(np.int64).repeat(2)
    shots, trips, lost = rng.multinomial(pace, KINDS_OF_PLAY).T
    attempts = _split(rng, shots, weights)
    three_share = np.clip(0.42 - 0.06 * size + 0.1 * players["threes"], 0.02, 0.85)
    fg3_attempted = rng.binomial(attempts, three_share)
    fg2_attempted = attempts - fg3_attempted
    ft_attempted = 2 * _split(rng, trips, weights)
    form = 0.02 * (players["talent"] + players["shooting"]) - 0.03 * _guarded(players, minutes)
    form[::2] += HOME_EDGE
    fg2_made = rng.binomial(fg2_attempted, np.clip(0.535 + 0.012 * size + form, 0.2, 0.85))
    fg3_made = rng.binomial(fg3_attempted, np.clip(0.355 + form, 0.1, 0.6))
    ft_made = rng.binomial(ft_attempted, np.clip(0.77 + 0.06 * players["free_throws"], 0.3, 0.97))
    points = 2 * fg2_made + 3 * fg3_made + ft_made
    decider = _tie_breaker(points)  # no game ends level: one more free throw is made
    return {
        "points": points + decider,
        "fg_made": fg2_made + fg3_made,
        "fg_attempted": attempts,
        "fg2_made": fg2_made,
        "fg2_attempted": fg2_attempted,
        "fg3_made": fg3_made,
        "fg3_attempted": fg3_attempted,
        "ft_made": ft_made + decider,
        "ft_attempted": ft_attempted + decider,
        "turnovers": _split(rng, lost, weights),
    }


def _split(rng: np.random.Generator, totals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Split each team's total among its players, at random by weight."""
    return rng.multinomial(totals, weights / weights.sum(axis=1, keepdims=True))


def _guarded(players: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """How well the opponent defends, (teams, 1)."""
    defence = (minutes * players["defence"]).sum(axis=1, keepdims=True)
    return _opposing(defence / minutes.sum(axis=1, keepdims=True))


def _tie_breaker(points: np.ndarray) -> np.ndarray:
    """1 for the home team's top scorer in a game that is level, else 0."""
    totals = points.sum(axis=1)
    level = np.flatnonzero(totals[::2] == totals[1::2]) * 2
    extra = np.zeros_like(points)
    extra[level, points[level].argmax(axis=1)] = 1
    return extra


def _shared_stats(rng: np.random.Generator, players: np.ndarray, shots: Stats) -> Stats:
    """Split a team's rebounds, assists, steals and blocks among those who played; add fouls."""
    size = players["position"] - CENTER / 2
    minutes, skill = shots["minutes"], {name: players[name] for name in SKILLS}
    missed = (shots["fg_attempted"] - shots["fg_made"]).sum(axis=1)
    missed2 = (shots["fg2_attempted"] - shots["fg2_made"]).sum(axis=1)
    own_rebounds = rng.binomial(missed, 0.25)
    assisted = rng.binomial(shots["fg_made"].sum(axis=1), 0.63)
    stolen = rng.binomial(_opposing(shots["turnovers"].sum(axis=1)), 0.55)
    blocked = rng.binomial(_opposing(missed2), 0.2)

    def split(totals: np.ndarray, bent: np.ndarray) -> np.ndarray:
        return _split(rng, totals, minutes * np.exp(bent))

    offensive = split(own_rebounds, 0.3 * skill["rebounding"] + 0.4 * size)
    defensive = split(_opposing(missed - own_rebounds), 0.3 * skill["rebounding"] + 0.18 * size)
    fouls = rng.poisson(20 * minutes / TEAM_MINUTES)
    return {
        "rebounds": offensive + defensive,
        "rebounds_off": offensive,
        "rebounds_def": defensive,
        "assists": split(assisted, 0.5 * skill["passing"] - 0.25 * size),
        "steals": split(stolen, 0.3 * skill["defence"] - 0.1 * size),
        "blocks": split(blocked, 0.5 * skill["defence"] + 0.45 * size),
        "fouls": np.minimum(fouls, FOULED_OUT),
    }


def _percentages(stats: Stats) -> Stats:
    attempts = _attempts(stats)
    plays = attempts + stats["turnovers"]
    own, field_goals = stats["points"], stats["fg_attempted"]
    return {
        **{
            f"{shot}_pct": _ratio(stats[f"{shot}_made"], stats[f"{shot}_attempted"])
            for shot in ("fg", "fg2", "fg3", "ft")
        },
        "effective_fg_pct": _ratio(stats["fg_made"] + 0.5 * stats["fg3_made"], field_goals),
        "true_shooting_pct": _ratio(own, 2 * attempts),
        "assist_pct": _ratio(100 * stats["assists"], plays + stats["assists"]),
        "turnover_pct": _ratio(100 * stats["turnovers"], plays),
        "assist_to_turnover": _ratio(stats["assists"], stats["turnovers"]),
    }


def _ratings(rng: np.random.Generator, stats: Stats) -> Stats:
    """Ratings for the time that each player was on the court."""
    minutes = stats["minutes"]
    share = minutes / GAME_MINUTES
    plays = _attempts(stats) + stats["turnovers"]
    team_plays = plays.sum(axis=1, keepdims=True)
    possessions = team_plays - stats["rebounds_off"].sum(axis=1, keepdims=True)
    scored = stats["points"].sum(axis=1, keepdims=True) + 0 * minutes
    rebounds = stats["rebounds"].sum(axis=1, keepdims=True)
    # A player's share of the score varies around his share of the time, and equals it if he plays
    # none or all of the game.
    wander = 9 * np.sqrt(share * (1 - share))
    scored_on = np.maximum(scored * share + wander * rng.standard_normal(share.shape), 0)
    allowed_on = np.maximum(
        _opposing(scored) * share + wander * rng.standard_normal(share.shape), 0
    )
    offensive = _ratio(100 * scored_on, possessions * share)
    defensive = _ratio(100 * allowed_on, possessions * share)
    return {
        "plus_minus": (np.rint(scored_on) - np.rint(allowed_on)).astype(np.int64),
        "usage": _ratio(100 * plays * GAME_MINUTES, minutes * team_plays),
        "rebound_pct": _ratio(100 * stats["rebounds"], share * (rebounds + _opposing(rebounds))),
        "offensive_rating": offensive,
        "defensive_rating": defensive,
        "net_rating": offensive - defensive,
        "pace": np.where(minutes > 0, possessions, np.nan),
        "team_points": scored.astype(np.int64),
        "opponent_points": _opposing(scored).astype(np.int64),
    }


def _summaries(stats: Stats) -> Stats:
    names = ("points", "rebounds", "assists", "steals", "blocks")
    doubles = sum((stats[name] >= DOUBLE).astype(np.int64) for name in names)
    double, triple = doubles >= 2, doubles >= 3  # noqa: PLR2004 - that is what they are called
    defence = stats["steals"] + stats["blocks"]
    draftkings = (
        stats["points"] + 0.5 * stats["fg3_made"] + 1.25 * stats["rebounds"]
        + 1.5 * stats["assists"] + 2 * defence - 0.5 * stats["turnovers"] + 1.5 * double
        + 3 * triple
    )  # fmt: skip
    fanduel = (
        stats["points"] + 1.2 * stats["rebounds"] + 1.5 * stats["assists"] + 3 * defence
        - stats["turnovers"]
    )  # fmt: skip
    # Hollinger's game score
    game_score = (
        stats["points"] + 0.4 * stats["fg_made"] - 0.7 * stats["fg_attempted"]
        - 0.4 * (stats["ft_attempted"] - stats["ft_made"]) + 0.7 * stats["rebounds_off"]
        + 0.3 * stats["rebounds_def"] + stats["steals"] + 0.7 * stats["assists"]
        + 0.7 * stats["blocks"] - 0.4 * stats["fouls"] - stats["turnovers"]
    )  # fmt: skip
    return {
        "double_double": double,
        "triple_double": triple,
        "game_score": game_score,
        "fantasy_points_dk": draftkings,
        "fantasy_points_fd": fanduel,
    }


def _attempts(stats: Stats) -> np.ndarray:
    return np.asarray(stats["fg_attempted"] + FREE_THROW_PLAYS * stats["ft_attempted"])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the divisor is 0."""
    out = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out
