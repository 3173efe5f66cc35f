"""Generated seasons of basketball in the form of the NBA's daily data; no player or game is real.

A model has something to learn: players differ in skill, which drives minutes, points and salaries,
so better teams win more often.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

DATA_TYPES = ("box_scores", "schedule", "dfs_salaries", "betting_odds", "injuries")
FIRST_MONTH, FIRST_DAY = 10, 22  # of a season
GAME_DAYS, PLAYOFF_DAYS, SEASON_DAYS = 165, 25, 237  # until 15 June
GAMES_A_DAY, PLAYOFF_GAMES_A_DAY = (4, 14), 2  # before the playoffs from 4 to 13
TEAMS = (
    "ATL", "BKN", "BOS", "CHA", "CHI", "CLE", "DAL", "DEN", "DET", "GSW", "HOU", "IND", "LAC",
    "LAL", "MEM", "MIA", "MIL", "MIN", "NOP", "NYK", "OKC", "ORL", "PHI", "PHX", "POR", "SAC",
    "SAS", "TOR", "UTA", "WAS",
)  # fmt: skip
FIRST_NAMES = (
    "Abe", "Ben", "Cy", "Dan", "Eli", "Fay", "Gus", "Hal", "Ida", "Jo", "Kim", "Lee", "Max",
)  # fmt: skip
LAST_NAMES = (
    "Abara", "Banks", "Cole", "Dahl", "Ekström", "Farrow", "Grant", "Hale", "Ivanov", "Jones",
    "Keller", "Lopes", "Mensah", "Novak", "Okoye", "Price", "Quist", "Reyes", "Sato", "Tanner",
    "Udoh", "Vance", "Walsh", "Young", "Zeller", "Adler", "Costa", "Dumont", "Emery", "Fisk",
)  # fmt: skip
PLAYER_NAMES = [f"{first} {last}" for last in LAST_NAMES for first in FIRST_NAMES]
ROSTER = len(FIRST_NAMES)  # players of a team; all names differ
INJURED, RECOVERED = 0.015, 1 / 7  # probabilities of a player for a game day
POSITIONS, AILMENTS = ("PG", "SG", "SF", "PF", "C"), ("ankle", "knee", "back", "calf", "illness")
MINUTES = np.array([35, 34, 32, 30, 28, 24, 21, 18, 8, 5, 3, 1, 1])  # the most skilled first
# Near the NBA's rates of 2023 to 2025: counts per minute, shots made per attempt, and the mean and
# standard deviation of ratings.
PER_MINUTE = {
    "fg2_attempted": 0.22, "fg3_attempted": 0.15, "ft_attempted": 0.09, "turnovers": 0.055,
    "rebounds_off": 0.045, "rebounds_def": 0.14, "assists": 0.11, "steals": 0.033,
    "blocks": 0.02, "fouls": 0.08,
}  # fmt: skip
MADE = {"fg2": 0.54, "fg3": 0.36, "ft": 0.78}
RATINGS = {
    "effective_fg_pct": (0.54, 0.2), "true_shooting_pct": (0.58, 0.2), "assist_pct": (14, 6),
    "turnover_pct": (12, 5), "assist_to_turnover": (1.8, 0.8), "usage": (20, 5),
    "rebound_pct": (10, 4), "offensive_rating": (113, 15), "defensive_rating": (113, 15),
    "net_rating": (0, 20), "pace": (99, 3), "game_score": (9, 6),
}  # fmt: skip

Columns = dict[str, Any]
"""The columns of a frame, by name, in order."""


def season_frames(season: int, seed: int) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """Yield a season's `GAME_DAYS` game dates, `YYYYMMDD`, each with a frame per data type.

    Columns have the same dtypes on all dates, even if a frame has no rows. `gameDate` is text
    `YYYYMMDD`.

    Args:
        season: the year in which it starts, in October; it ends in June.
        seed: the same seed and season give the same rows, regardless of other generated data.
    """
    rng = np.random.default_rng([seed, season])
    skill = np.sort(rng.standard_normal((len(TEAMS), ROSTER)))[:, ::-1]
    strongest = np.argsort(-skill.sum(axis=1))
    hurt_on = np.full(skill.shape, -1)  # the day of each player's injury; -1: healthy
    last, played, at_home = np.full(len(TEAMS), -7), *np.zeros((2, len(TEAMS)))
    inner_days = np.sort(rng.choice(np.arange(1, SEASON_DAYS - 1), GAME_DAYS - 2, replace=False))
    for number, day in enumerate([0, *inner_days.tolist(), SEASON_DAYS - 1]):
        playoffs = number >= GAME_DAYS - PLAYOFF_DAYS
        teams = strongest[:16] if playoffs else strongest
        games_today = PLAYOFF_GAMES_A_DAY if playoffs else int(rng.integers(*GAMES_A_DAY))
        fewest = np.argsort((played + rng.random(len(TEAMS)))[teams])[: 2 * games_today]
        games = rng.permutation(teams[fewest]).reshape(-1, 2)  # (games, home and away team)
        swapped = at_home[games[:, 0]] > at_home[games[:, 1]]
        games[swapped] = games[swapped, ::-1]
        hurt_on[rng.random(skill.shape) < RECOVERED] = -1
        hurt_on[(hurt_on < 0) & (rng.random(skill.shape) < INJURED)] = day
        date = dt.date(season, FIRST_MONTH, FIRST_DAY) + dt.timedelta(days=day)
        game, player = _identity(f"{date:%Y%m%d}", games)
        rest = np.minimum(day - last, 7)
        healthy, player_skill = (hurt_on < 0)[games].reshape(-1), skill[games].reshape(-1)
        facts = {"season": season, "rest_days": rest[games].repeat(ROSTER)}
        stats = _stats(rng, player_skill, healthy, player["home"])
        salaries = _salaries(rng, player_skill, healthy)
        frames = {
            "box_scores": {**player, **facts, **stats, **salaries},
            "schedule": {**game, "season": season, **_schedule(rng, date, rest[games], playoffs)},
            "dfs_salaries": {**player, **salaries},
            "betting_odds": {**game, **_odds(rng, skill.mean(axis=1)[games])},
            "injuries": _injuries(date, hurt_on),
        }
        yield f"{date:%Y%m%d}", {name: pd.DataFrame(frame) for name, frame in frames.items()}
        played[games] += 1
        at_home[games[:, 0]] += 1
        last[games] = day


def _identity(date: str, games: np.ndarray) -> tuple[Columns, Columns]:
    """The columns that identify a game, and those that identify a game's player.

    `home` is a team in a game's columns, and whether the team is at home in a player's.
    """
    home, away = games.T
    ids = [f"{date}_{TEAMS[b]}@{TEAMS[a]}" for a, b in games.tolist()]
    game = {"gameDate": _text([date], 0 * home), "game_id": _text(ids, np.arange(len(games)))}
    number = (games.reshape(-1, 1) * ROSTER + np.arange(ROSTER)).ravel()
    return {**game, "home": _text(TEAMS, home), "away": _text(TEAMS, away)}, {
        **{name: values.repeat(2 * ROSTER) for name, values in game.items()},
        **_player(number),
        "position": _text(POSITIONS, number % len(POSITIONS)),
        "opponent": _text(TEAMS, games[:, ::-1].ravel().repeat(ROSTER)),
        "home": np.arange(len(number)) % (2 * ROSTER) < ROSTER,
    }


def _player(number: np.ndarray) -> Columns:
    return {
        "player_id": 1000 + number,
        "player": _text(PLAYER_NAMES, number),
        "team": _text(TEAMS, number // ROSTER),
    }


def _stats(rng: np.random.Generator, skill: np.ndarray, healthy: np.ndarray, home: Any) -> Columns:
    """Each player's statistics; players who did not play have zeros, and NaN as ratings."""
    usual_minutes = np.resize(MINUTES, skill.shape)
    plays = healthy & (rng.random(skill.shape) < usual_minutes / 8)
    shares = (usual_minutes * plays * rng.lognormal(0, 0.15, skill.shape)).reshape(-1, ROSTER)
    minutes = np.minimum(240 * shares / shares.sum(axis=1, keepdims=True), 48).round(1).ravel()
    status = np.select([plays, healthy], [0, 1], 2)
    out: Columns = {
        "status": _text(("played", "did not play", "injured"), status),
        "starter": plays & (usual_minutes >= MINUTES[4]),
        "minutes": minutes,
    }
    effective_minutes = minutes * np.exp(0.15 * skill)
    out |= {name: rng.poisson(rate * effective_minutes) for name, rate in PER_MINUTE.items()}
    for shot, rate in MADE.items():
        out[f"{shot}_made"] = rng.binomial(out[f"{shot}_attempted"], rate + 0.02 * home)
    for kind in ("made", "attempted"):
        out[f"fg_{kind}"] = out[f"fg2_{kind}"] + out[f"fg3_{kind}"]
    for shot in ("fg", *MADE):  # 0/0 is NaN
        out[f"{shot}_pct"] = (pd.Series(out[f"{shot}_made"]) / out[f"{shot}_attempted"]).round(3)
    out["points"] = 2 * out["fg2_made"] + 3 * out["fg3_made"] + out["ft_made"]
    out["rebounds"] = out["rebounds_off"] + out["rebounds_def"]
    teams = out["points"].reshape(-1, 2, ROSTER).sum(axis=2)
    out["team_points"], out["opponent_points"] = (
        sums.ravel().repeat(ROSTER) for sums in (teams, teams[:, ::-1])
    )
    out["plus_minus"] = np.rint(
        (out["team_points"] - out["opponent_points"]) * minutes / 48
    ).astype(int)
    for name, (mean, sd) in RATINGS.items():
        rating = mean + sd * (skill + rng.standard_normal(skill.shape)) / 2
        out[name] = np.where(plays, rating, np.nan).round(3)
    counts = np.array([out[name] for name in ("points", "rebounds", "assists", "steals", "blocks")])
    for name, least in (("double_double", 2), ("triple_double", 3)):
        out[name] = (counts >= 10).sum(axis=0) >= least  # noqa: PLR2004 - two digits
    for site, weights in (("dk", (1, 1.25, 1.5, 2, 2)), ("fd", (1, 1.2, 1.5, 3, 3))):
        out[f"fantasy_points_{site}"] = (weights @ counts - out["turnovers"] / 2).round(2)
    return out


def _salaries(rng: np.random.Generator, skill: np.ndarray, healthy: np.ndarray) -> Columns:
    """Each player's projected points, and the salary on two sites."""
    mean = np.resize(MINUTES, skill.shape) * np.exp(0.15 * skill) * healthy
    projected = np.maximum(mean + rng.normal(0, 1.5, skill.shape), 0)
    return {
        "projected_points": projected.round(2),
        "salary_dk": np.clip(22 + 1.75 * projected, 30, 130).astype(int) * 100,
        "salary_fd": np.clip(26 + 1.8 * projected, 35, 130).astype(int) * 100,
    }


def _schedule(rng: np.random.Generator, date: dt.date, rest: np.ndarray, playoffs: bool) -> Columns:
    half_hours = np.sort(rng.integers(38, 45, len(rest)))  # from 19:00 to 22:00
    return {
        "playoffs": playoffs,
        "tip_off": np.datetime64(date, "us") + half_hours * np.timedelta64(30, "m"),
        "home_rest_days": rest[:, 0],
        "away_rest_days": rest[:, 1],
        "national_tv": rng.random(len(rest)) < 0.2,  # noqa: PLR2004 - one game in five
    }


def _odds(rng: np.random.Generator, strength: np.ndarray) -> Columns:
    """The odds of a bookmaker who knows the teams' strength.

    Args:
        rng: the source of noise.
        strength: (games, 2): of the home team and of the away team.
    """
    margin = 40 * (strength[:, 0] - strength[:, 1]) + 2.5 + rng.normal(0, 1.5, len(strength))
    total = rng.normal(226, 4, len(strength))
    wins = np.clip(1.045 / (1 + np.exp([-margin / 6.5, margin / 6.5])), 0.02, 0.98)
    # American odds: the winnings of a stake of 100 or, below zero, the stake to win 100.
    stakes = np.where(wins > 0.5, -100 * wins / (1 - wins), 100 / wins - 100)  # noqa: PLR2004
    return {
        "spread": (-2 * margin).round() / 2 + 0.0,  # no -0.0
        "total": (2 * total).round() / 2,
        "moneyline_home": stakes[0].astype(int),
        "moneyline_away": stakes[1].astype(int),
        "implied_points_home": ((total + margin) / 2).round(2),
        "implied_points_away": ((total - margin) / 2).round(2),
    }


def _injuries(date: dt.date, hurt_on: np.ndarray) -> Columns:
    """The injured players of all teams on a date."""
    number = np.flatnonzero(hurt_on >= 0)
    since = hurt_on.ravel()[number]
    season = date.year - (date.month < FIRST_MONTH)
    opening = np.datetime64(dt.date(season, FIRST_MONTH, FIRST_DAY), "us")
    return {
        "gameDate": _text([f"{date:%Y%m%d}"], 0 * number),
        **_player(number),
        "status": _text(("out", "doubtful"), number % 2),
        "injury": _text(AILMENTS, (number + since) % len(AILMENTS)),
        "since": opening + since.astype("m8[D]"),
    }


def _text(values: Sequence[str], codes: np.ndarray) -> Any:
    """A text column, `values[codes]`; its dtype is text even without rows."""
    return pd.array(np.asarray(values, dtype=object)[codes], dtype="str")
