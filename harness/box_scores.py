"""Generated seasons of basketball, in the shape of the NBA's daily data.

Nothing here is a real player or game. What a model could learn is there: players keep latent
abilities that drive minutes, shooting and salaries, better teams win more often, injuries hand
minutes to others. What must add up does: points are those of the shots made, rebounds those of
the shots missed, and a team's assists, steals and blocks fit what it and its opponent did.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

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
GAME_DAYS = REGULAR_DAYS + PLAYOFF_DAYS  # of a season
TEAMS = (
    "ATL", "BKN", "BOS", "CHA", "CHI", "CLE", "DAL", "DEN", "DET", "GSW",
    "HOU", "IND", "LAC", "LAL", "MEM", "MIA", "MIL", "MIN", "NOP", "NYK",
    "OKC", "ORL", "PHI", "PHX", "POR", "SAC", "SAS", "TOR", "UTA", "WAS",
)  # fmt: skip
ROSTER = 15
GAMES_BY_WEEKDAY = (8, 6, 12, 4, 12, 9, 10)  # Monday first; 82 games a team in 140 days
MOST_GAMES = 13
POSITIONS = np.array(["PG", "SG", "SF", "PF", "C"])
FIRST_NAMES = (
    "Aaron Amir Andre Ben Caleb Carlos Darius Dante Eli Emeka Felix Gabe Hugo Isaac Jalen Jonas "
    "Kofi Luka Marcus Mateo Nikola Omar Quinn Rafael Sam Theo Tomas Victor Will Zion"
).split()
LAST_NAMES = (
    "Abara Banks Cole Dumont Ekström Farrow Grant Hale Ivanov Jankovic Keller Lopes Mensah Novak "
    "Okoye Price Quist Reyes Sato Tanner Udoh Vance Walsh Young Zeller"
).split()
AILMENTS = np.array(["ankle", "knee", "hamstring", "back", "illness", "calf", "wrist", "rest"])
SPELLS = 3  # injuries of a player in a season, of a week on average
LONGEST_REST = 7


@dataclass(frozen=True)
class GameDay:
    """Who meets on a date: team numbers, two a game, the home team first."""

    date: dt.date
    teams: np.ndarray
    rest: np.ndarray
    """Days since each team's last game, 7 at most."""
    playoffs: bool


@dataclass(frozen=True)
class Injuries:
    """A season's injuries, (teams, players, spells), first and last day as ordinals."""

    first: np.ndarray
    last: np.ndarray
    ailment: np.ndarray

    def on(self, date: dt.date) -> np.ndarray:
        """Which spells last on that date."""
        day = date.toordinal()
        return np.asarray((self.first <= day) & (day <= self.last))


def season_frames(season: int, seed: int) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """The `GAME_DAYS` dates of a season that have games, `YYYYMMDD`, with a frame per data type.

    Columns have the same dtypes on all dates, also where a frame has no rows. `gameDate` is text
    `YYYYMMDD`.

    Args:
        season: the year that it starts in, in October; it ends in June.
        seed: the same seed and season give the same rows, whatever else is generated.
    """
    players = _players(season, seed)
    days = _schedule(season, seed, players)
    injuries = _injuries(season, seed)
    for day in days:
        rng = np.random.default_rng([seed, day.date.toordinal()])
        yield f"{day.date:%Y%m%d}", _day_frames(rng, season, day, players, injuries)


def _players(season: int, seed: int) -> np.ndarray:
    """The teams' players, (teams, players), the most talented first."""
    lasting, passing = np.random.default_rng([seed]), np.random.default_rng([seed, season, 0])
    shape = (len(TEAMS), ROSTER)
    players = np.zeros(shape, dtype=PLAYER)
    players["player_id"] = 1000 + np.arange(len(TEAMS) * ROSTER).reshape(shape)
    positions = np.tile(np.arange(ROSTER) % len(POSITIONS), (len(TEAMS), 1))
    players["position"] = lasting.permuted(positions, axis=1)
    for skill in SKILLS:
        players[skill] = lasting.standard_normal(shape) + 0.3 * passing.standard_normal(shape)
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
        field, count = np.arange(len(TEAMS)), GAMES_BY_WEEKDAY[date.weekday()]
        if date in regular:
            count = int(np.clip(count + rng.integers(-2, 3), 2, MOST_GAMES))
        else:  # sixteen teams, then eight, then the last four play on into June
            done = (position - REGULAR_DAYS) / PLAYOFF_DAYS
            remaining = 16 if done < 0.4 else 8 if done < 0.7 else 4  # noqa: PLR2004
            field, count = strongest[:remaining], max(2, remaining // 4)
        rest = np.minimum(date.toordinal() - last, LONGEST_REST)
        tired = 1.5 * (rest == 1)
        behind = np.argsort((games + tired + rng.normal(0, 1.5, len(TEAMS)))[field])
        teams = rng.permutation(field[behind[: 2 * count]]).reshape(count, 2)
        visitors_first = at_home[teams[:, 0]] > at_home[teams[:, 1]]
        teams[visitors_first] = teams[visitors_first][:, ::-1]
        games[teams] += 1
        at_home[teams[:, 0]] += 1
        days.append(GameDay(date, teams.ravel(), rest[teams.ravel()], date not in regular))
        last[teams] = date.toordinal()
    return days


def _some_days(
    rng: np.random.Generator, first: dt.date, last: dt.date, count: int
) -> list[dt.date]:
    """That many dates of a span, its ends among them."""
    span = (last - first).days
    inner = rng.choice(np.arange(1, span), count - 2, replace=False)
    return [first + dt.timedelta(days=int(day)) for day in sorted([0, *inner, span])]


def _day_frames(
    rng: np.random.Generator, season: int, day: GameDay, players: np.ndarray, injuries: Injuries
) -> dict[str, pd.DataFrame]:
    spells = injuries.on(day.date)
    hurt = spells.any(axis=2)[day.teams]
    order = np.argsort(hurt, axis=1, kind="stable")[:, :LISTED]  # the healthy first, best first
    listed = players[day.teams[:, None], order]
    healthy = ~np.take_along_axis(hurt, order, axis=1)
    salaries = _salaries(rng, listed, healthy)
    margins = expected_margin(listed, expected_minutes(healthy))
    who = _who(day, listed)
    return {
        "box_scores": _box_scores(season, day, who, play_games(rng, listed, healthy), salaries),
        "schedule": _schedule_frame(rng, season, day),
        "dfs_salaries": pd.DataFrame(who | {name: v.ravel() for name, v in salaries.items()}),
        "betting_odds": _odds(rng, day, margins),
        "injuries": _injury_frame(rng, day, players, injuries, spells),
    }
