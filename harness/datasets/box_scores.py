"""Generated seasons of basketball, in the form of the NBA's daily data.

No player or game is real. A model has something to learn: players keep latent abilities that
drive minutes, shooting and salaries, better teams win more often, injuries hand minutes to others.
Totals are consistent: points are those of the shots made, rebounds those of the shots missed, and
a team's assists, steals and blocks fit the plays of both teams.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .games import (
    LISTED,
    PLAYER,
    SKILLS,
    Stats,
    expected_margin,
    expected_minutes,
    expected_points,
    play_games,
)

DATA_TYPES = ("box_scores", "schedule", "dfs_salaries", "betting_odds", "injuries")
REGULAR_DAYS, PLAYOFF_DAYS = 140, 25
GAME_DAYS = REGULAR_DAYS + PLAYOFF_DAYS  # per season
TEAMS = (
    "ATL", "BKN", "BOS", "CHA", "CHI", "CLE", "DAL", "DEN", "DET", "GSW",
    "HOU", "IND", "LAC", "LAL", "MEM", "MIA", "MIL", "MIN", "NOP", "NYK",
    "OKC", "ORL", "PHI", "PHX", "POR", "SAC", "SAS", "TOR", "UTA", "WAS",
)  # fmt: skip
ROSTER = 15
STARTERS = 5
FIRST_ID = 1000
GAMES_BY_WEEKDAY = (8, 6, 12, 4, 12, 9, 10)  # Monday first; 82 games a team in 140 days
FEWEST_GAMES, MOST_GAMES = 2, 13  # per day
PLAYOFF_FIELDS = (16, 16, 8, 8, 4)  # teams left; the last four play on into June
PLAYOFF_ROUND_DAYS = PLAYOFF_DAYS // len(PLAYOFF_FIELDS)
POSITIONS = ("PG", "SG", "SF", "PF", "C")
FIRST_NAMES = (
    "Aaron", "Amir", "Andre", "Ben", "Caleb", "Carlos", "Darius", "Dante", "Eli", "Emeka",
    "Felix", "Gabe", "Hugo", "Isaac", "Jalen", "Jonas", "Kofi", "Luka", "Marcus", "Mateo",
    "Nikola", "Omar", "Quinn", "Rafael", "Sam", "Theo", "Tomas", "Victor", "Will", "Zion",
)  # fmt: skip
LAST_NAMES = (
    "Abara", "Banks", "Cole", "Dumont", "Ekström", "Farrow", "Grant", "Hale", "Ivanov",
    "Jankovic", "Keller", "Lopes", "Mensah", "Novak", "Okoye", "Price", "Quist", "Reyes",
    "Sato", "Tanner", "Udoh", "Vance", "Walsh", "Young", "Zeller",
)  # fmt: skip
# A stride of 6 through the 25 last names gives every player of all teams a different name.
PLAYER_NAMES = tuple(
    f"{FIRST_NAMES[i % 30]} {LAST_NAMES[(i + i // 30) % 25]}" for i in range(len(TEAMS) * ROSTER)
)
AILMENTS = ("ankle", "knee", "hamstring", "back", "illness", "calf", "wrist", "rest")
SPELLS = 3  # injuries per player and season, a week long on average
LONGEST_REST = 7
BOOKMAKERS_CUT = 1.045

Columns = dict[str, Any]
"""The columns of a frame, by name, in order."""


@dataclass(frozen=True)
class GameDay:
    """The games on a date: team numbers, two per game, the home team first."""

    date: dt.date
    teams: np.ndarray
    rest: np.ndarray
    """Days since each team's last game, 7 at most."""
    playoffs: bool


@dataclass(frozen=True)
class Injuries:
    """A season's injuries as arrays (teams, players, spells); days are ordinals."""

    first: np.ndarray
    last: np.ndarray
    ailment: np.ndarray

    def on(self, date: dt.date) -> np.ndarray:
        """Whether each spell includes that date."""
        day = date.toordinal()
        return np.asarray((self.first <= day) & (day <= self.last))


def season_frames(season: int, seed: int) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """Yield a season's `GAME_DAYS` game dates, `YYYYMMDD`, each with a frame per data type.

    Columns have the same dtypes on all dates, even if a frame has no rows. `gameDate` is text
    `YYYYMMDD`.

    Args:
        season: the year in which it starts, in October; it ends in June.
        seed: the same seed and season give the same rows, regardless of other generated data.
    """
    players = _players(season, seed)
    days = _schedule(season, seed, players)
    injuries = _injuries(season, seed)
    for day in days:
        rng = np.random.default_rng([seed, day.date.toordinal()])
        yield f"{day.date:%Y%m%d}", _day_frames(rng, season, day, players, injuries)


def _players(season: int, seed: int) -> np.ndarray:
    """The teams' players, (teams, players), the most talented first."""
    lasting, fleeting = np.random.default_rng([seed]), np.random.default_rng([seed, season, 0])
    shape = (len(TEAMS), ROSTER)
    players = np.zeros(shape, dtype=PLAYER)
    players["player_id"] = FIRST_ID + np.arange(len(TEAMS) * ROSTER).reshape(shape)
    positions = np.tile(np.arange(ROSTER) % len(POSITIONS), (len(TEAMS), 1))
    players["position"] = lasting.permuted(positions, axis=1)
    for skill in SKILLS:
        players[skill] = lasting.standard_normal(shape) + 0.3 * fleeting.standard_normal(shape)
    best_first = np.argsort(-players["talent"], axis=1)
    return np.take_along_axis(players, best_first, axis=1)


def _injuries(season: int, seed: int) -> Injuries:
    rng = np.random.default_rng([seed, season, 1])
    shape = (len(TEAMS), ROSTER, SPELLS)
    opening = dt.date(season, 10, 1).toordinal()
    first = opening + rng.integers(0, 270, shape)
    return Injuries(
        first, first + rng.geometric(1 / 7, shape), rng.integers(0, len(AILMENTS), shape)
    )


def _schedule(season: int, seed: int, players: np.ndarray) -> list[GameDay]:
    rng = np.random.default_rng([seed, season, 2])
    regular = _some_days(rng, dt.date(season, 10, 22), dt.date(season + 1, 4, 13), REGULAR_DAYS)
    playoffs = _some_days(rng, dt.date(season + 1, 4, 19), dt.date(season + 1, 6, 15), PLAYOFF_DAYS)
    strongest = np.argsort(-players["talent"][:, :LISTED].mean(axis=1))
    games, at_home = np.zeros(len(TEAMS)), np.zeros(len(TEAMS))
    last = np.full(len(TEAMS), regular[0].toordinal() - LONGEST_REST)
    days = []
    for position, date in enumerate([*regular, *playoffs]):
        if position < REGULAR_DAYS:
            field = np.arange(len(TEAMS))
            usual = GAMES_BY_WEEKDAY[date.weekday()]
            count = int(np.clip(usual + rng.integers(-2, 3), FEWEST_GAMES, MOST_GAMES))
        else:
            left = PLAYOFF_FIELDS[(position - REGULAR_DAYS) // PLAYOFF_ROUND_DAYS]
            field, count = strongest[:left], max(FEWEST_GAMES, left // 4)
        rest = np.minimum(date.toordinal() - last, LONGEST_REST)
        tired = 1.5 * (rest == 1)
        behind = np.argsort((games + tired + rng.normal(0, 1.5, len(TEAMS)))[field])
        teams = rng.permutation(field[behind[: 2 * count]]).reshape(count, 2)
        visitors_first = at_home[teams[:, 0]] > at_home[teams[:, 1]]
        teams[visitors_first] = teams[visitors_first][:, ::-1]
        games[teams] += 1
        at_home[teams[:, 0]] += 1
        days.append(GameDay(date, teams.ravel(), rest[teams.ravel()], position >= REGULAR_DAYS))
        last[teams] = date.toordinal()
    return days


def _some_days(
    rng: np.random.Generator, first: dt.date, last: dt.date, count: int
) -> list[dt.date]:
    """Return `count` random dates from `first` to `last`, both included, in order."""
    span = (last - first).days
    inner = rng.choice(np.arange(1, span), count - 2, replace=False)
    return [first + dt.timedelta(days=int(day)) for day in sorted([0, *inner, span])]


def _day_frames(
    rng: np.random.Generator, season: int, day: GameDay, players: np.ndarray, injuries: Injuries
) -> dict[str, pd.DataFrame]:
    hurt = injuries.on(day.date)[day.teams].any(axis=2)
    order = np.argsort(hurt, axis=1, kind="stable")[:, :LISTED]  # healthy first, each by talent
    listed = players[day.teams[:, None], order]
    healthy = ~np.take_along_axis(hurt, order, axis=1)
    planned = expected_minutes(healthy)
    who = _who(day, listed)
    salaries = _salaries(rng, expected_points(listed, planned))
    lines = play_games(rng, listed, healthy)
    frames = {
        "box_scores": _box_scores(season, day, who, lines, healthy) | salaries,
        "schedule": _schedule_columns(rng, season, day),
        "dfs_salaries": who | salaries,
        "betting_odds": _odds(rng, day, expected_margin(listed, planned)),
        "injuries": _injury_columns(day.date, players, injuries),
    }
    return {name: pd.DataFrame(columns) for name, columns in frames.items()}


def _who(day: GameDay, listed: np.ndarray) -> Columns:
    """The columns that identify the game and the player of each row."""
    rows = listed.size
    teams = day.teams.repeat(LISTED)
    against = day.teams.reshape(-1, 2)[:, ::-1].ravel().repeat(LISTED)
    return {
        "gameDate": _text([f"{day.date:%Y%m%d}"], np.zeros(rows, dtype=np.int64)),
        "game_id": _text(_game_ids(day), np.arange(rows) // (2 * LISTED)),
        "player_id": listed["player_id"].ravel(),
        "player": _text(PLAYER_NAMES, listed["player_id"].ravel() - FIRST_ID),
        "position": _text(POSITIONS, listed["position"].ravel()),
        "team": _text(TEAMS, teams),
        "opponent": _text(TEAMS, against),
        "home": np.arange(rows) % (2 * LISTED) < LISTED,
    }


def _box_scores(
    season: int, day: GameDay, who: Columns, lines: Stats, healthy: np.ndarray
) -> Columns:
    played = lines["minutes"] > 0
    status = np.where(played, 0, np.where(healthy, 1, 2))
    starters = played & (np.arange(LISTED) < STARTERS)
    return {
        **who,
        "season": np.full(played.size, season),
        "rest_days": day.rest.repeat(LISTED),
        "status": _text(("played", "did not play", "injured"), status.ravel()),
        "starter": starters.ravel(),
        **{
            name: values.ravel().round(3) if values.dtype.kind == "f" else values.ravel()
            for name, values in lines.items()
        },
    }


def _salaries(rng: np.random.Generator, expected: np.ndarray) -> Columns:
    """Each player's salary on the two sites, and his projected points."""
    guess = np.maximum(expected + rng.normal(0, 1.5, expected.shape), 0)
    return {
        "projected_points": guess.ravel().round(2),
        "salary_dk": _rounded(np.clip(2200 + 175 * guess, 3000, 13_000), 100),
        "salary_fd": _rounded(np.clip(2600 + 180 * guess, 3500, 13_000), 100),
    }


def _schedule_columns(rng: np.random.Generator, season: int, day: GameDay) -> Columns:
    games = len(day.teams) // 2
    half_hours = np.sort(rng.integers(0, 7, games))  # from 19:00 to 22:00, Eastern time
    midnight = np.datetime64(day.date, "us")
    return {
        **_pairings(day),
        "season": np.full(games, season),
        "playoffs": np.full(games, day.playoffs),
        "tip_off": midnight + (19 * 60 + 30 * half_hours) * np.timedelta64(60, "s"),
        "home_rest_days": day.rest[::2],
        "away_rest_days": day.rest[1::2],
        "national_tv": rng.random(games) < 0.2,  # noqa: PLR2004 - one game in five
    }


def _odds(rng: np.random.Generator, day: GameDay, margins: np.ndarray) -> Columns:
    """The odds of a bookmaker who knows the players, but not the results."""
    games = len(day.teams) // 2
    margin = margins[::2] + rng.normal(0, 1.5, games)
    total = rng.normal(226, 4, games)
    home_wins = 1 / (1 + np.exp(-margin / 6.5))
    return {
        **_pairings(day),
        "spread": (-2 * margin).round() / 2 + 0.0,  # no -0.0
        "total": (2 * total).round() / 2,
        "moneyline_home": _moneyline(home_wins),
        "moneyline_away": _moneyline(1 - home_wins),
        "implied_points_home": ((total + margin) / 2).round(2),
        "implied_points_away": ((total - margin) / 2).round(2),
    }


def _moneyline(chance: np.ndarray) -> np.ndarray:
    """American odds: the winnings of a stake of 100 or, below zero, the stake to win 100."""
    p = np.clip(BOOKMAKERS_CUT * chance, 0.02, 0.98)
    return _rounded(np.where(p > 0.5, -100 * p / (1 - p), 100 * (1 - p) / p), 5)  # noqa: PLR2004


def _injury_columns(date: dt.date, players: np.ndarray, injuries: Injuries) -> Columns:
    """The injured players of all teams on a date."""
    active = injuries.on(date)
    team, slot = np.nonzero(active.any(axis=2))
    spell = active[team, slot].argmax(axis=1)
    ids = players["player_id"][team, slot]
    days_left = injuries.last[team, slot, spell] - date.toordinal()
    since = injuries.first[team, slot, spell] - dt.date(1970, 1, 1).toordinal()
    return {
        "gameDate": _text([f"{date:%Y%m%d}"], np.zeros(len(ids), dtype=np.int64)),
        "player_id": ids,
        "player": _text(PLAYER_NAMES, ids - FIRST_ID),
        "team": _text(TEAMS, team),
        "status": _text(("out", "doubtful"), (days_left <= 1).astype(np.int64)),
        "injury": _text(AILMENTS, injuries.ailment[team, slot, spell]),
        "since": since.astype("datetime64[D]").astype("datetime64[us]"),
    }


def _pairings(day: GameDay) -> Columns:
    games = len(day.teams) // 2
    return {
        "gameDate": _text([f"{day.date:%Y%m%d}"], np.zeros(games, dtype=np.int64)),
        "game_id": _text(_game_ids(day), np.arange(games)),
        "home": _text(TEAMS, day.teams[::2]),
        "away": _text(TEAMS, day.teams[1::2]),
    }


def _game_ids(day: GameDay) -> list[str]:
    pairs = day.teams.reshape(-1, 2).tolist()
    return [f"{day.date:%Y%m%d}_{TEAMS[away]}@{TEAMS[home]}" for home, away in pairs]


def _text(values: Sequence[str], codes: np.ndarray) -> Any:
    """A text column, `values[codes]`; its dtype is text even without rows."""
    return pd.array(np.asarray(values, dtype=object)[codes], dtype="str")


def _rounded(values: np.ndarray, step: int) -> np.ndarray:
    return np.asarray(step * np.rint(values.ravel() / step).astype(np.int64))
