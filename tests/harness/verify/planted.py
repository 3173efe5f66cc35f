"""Loaders with one fault each, made to be found; `right` has none."""

# ruff: noqa: ARG001, ARG002 - all factories and hooks have the same arguments

import os
import time

import numpy as np
import pandas as pd


class Loader:
    """Shuffled batches of a rank's share, by numpy; an epoch can be stopped and continued."""

    def __init__(self, settings, files, columns, target, rank, world_size):
        frame = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
        self.rows = frame[[*columns, target]].to_numpy("float32")
        self.settings = settings
        self.rank, self.world_size = rank, world_size
        self.epoch = self.done = 0
        self.state = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def order(self):
        rows = np.arange(len(self.rows))
        if self.settings.shuffle:
            np.random.default_rng((self.settings.seed, self.epoch)).shuffle(rows)
        return rows

    def share(self):
        order = self.order()
        return order[self.rank :: self.world_size][: len(order) // self.world_size]

    def __iter__(self):
        size = self.settings.batch_size
        self.done, self.state = (self.state or 0), None
        share = self.share()
        for low in range(self.done * size, len(share), size):
            self.done += 1
            yield self.batch(share[low : low + size], low // size)

    def batch(self, numbers, step):
        rows = self.rows[numbers]
        return rows[:, :-1], rows[:, -1]

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        share = len(self.rows) // self.world_size
        steps = -(-share // self.settings.batch_size)
        self.state = state["done"] % steps


class Loses(Loader):
    def batch(self, numbers, step):
        return super().batch(numbers[1:] if step == 1 else numbers, step)


class Repeats(Loader):
    def batch(self, numbers, step):
        return super().batch(np.append(numbers, numbers[0]) if step == 1 else numbers, step)


class Changes(Loader):
    def batch(self, numbers, step):
        x, y = super().batch(numbers, step)
        if step == 1:
            x[0, 0] += 0.5
        return x, y


class OtherOrder(Loader):
    def order(self):
        rows = np.arange(len(self.rows))
        if self.settings.shuffle:
            luck = os.getpid() if self.world_size == 1 else 0  # ranks must agree
            np.random.default_rng((luck, self.epoch)).shuffle(rows)
        return rows


class UnequalSteps(Loader):
    def share(self):
        order = self.order()
        cut = len(order) // 2 + 2 * self.settings.batch_size
        if self.world_size == 1:
            return order
        return order[:cut] if self.rank == 0 else order[cut:]


class NotShuffled(Loader):
    def order(self):
        return np.arange(len(self.rows))


class WeakShuffle(Loader):
    def order(self):
        rows = np.arange(len(self.rows))
        if self.settings.shuffle:  # every four rows the other way round
            low = self.epoch % 2 * 4
            high = low + (len(rows) - low) // 4 * 4
            rows[low:high] = rows[low:high].reshape(-1, 4)[:, ::-1].reshape(-1)
        return rows


class RepeatedOrder(Loader):
    def set_epoch(self, epoch):
        pass


class NotSharded(Loader):
    def share(self):
        return self.order()


class ShardedTwice(Loader):
    def share(self):
        share = super().share()
        return share[self.rank :: self.world_size][: len(share) // self.world_size]


class ResumeRepeats(Loader):
    def state_dict(self):
        return {"done": max(0, self.done - 1)}  # as if one batch waited in a queue


class ResumeLoses(Loader):
    def state_dict(self):
        return {"done": self.done + 1}  # as if it counted what it has prepared


class ReusesMemory(Loader):
    def batch(self, numbers, step):
        if not hasattr(self, "memory"):
            self.memory = np.empty((self.settings.batch_size, self.rows.shape[1]), np.float32)
        out = self.memory[: len(numbers)]
        np.take(self.rows, numbers, axis=0, out=out)
        return out[:, :-1], out[:, -1]


class Raises(Loader):
    def batch(self, numbers, step):
        if self.rank == self.world_size - 1 == 1 and step == 1:
            raise RuntimeError("no network today")
        return super().batch(numbers, step)


class Crashes(Loader):
    def batch(self, numbers, step):
        if self.rank == self.world_size - 1 == 1 and step == 1:
            os._exit(7)
        return super().batch(numbers, step)


class Hangs(Loader):
    def batch(self, numbers, step):
        if self.rank == self.world_size - 1 == 1 and step == 1:
            time.sleep(600)
        return super().batch(numbers, step)


class LosesAtTheEnd(Loader):
    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.state = state["done"]  # an epoch that has ended is not begun again


def made(kind):
    def load(settings, files, columns, target, job, rank=0, world_size=1):
        return kind(settings, files, columns, target, rank, world_size)

    return load


right, loses, repeats, changes = map(made, (Loader, Loses, Repeats, Changes))
other_order, unequal_steps, not_shuffled = map(made, (OtherOrder, UnequalSteps, NotShuffled))
weak_shuffle, repeated_order, not_sharded = map(made, (WeakShuffle, RepeatedOrder, NotSharded))
sharded_twice, resume_repeats = map(made, (ShardedTwice, ResumeRepeats))
resume_loses, reuses_memory = map(made, (ResumeLoses, ReusesMemory))
raises, crashes, hangs, loses_at_the_end = map(made, (Raises, Crashes, Hangs, LosesAtTheEnd))


def generator(settings, files, columns, target, job, epoch=0, rank=0, world_size=1):
    loader = Loader(settings, files, columns, target, rank, world_size)
    loader.set_epoch(epoch)
    yield from loader


def by_name(settings, files, columns, target, job, rank=0, world_size=1):
    names = [*columns, target]
    loader = Loader(settings, files, columns, target, rank, world_size)

    class ByName:
        set_epoch = staticmethod(loader.set_epoch)

        def __iter__(self):
            for x, y in loader:
                yield dict(zip(names, [*x.T, y], strict=True))

    return ByName()


def text(settings, files, columns, target, job):
    return [["a", "b"]]


def nothing(settings, files, columns, target, job):
    return None


class AlwaysShuffled(Loader):
    def order(self):
        return np.random.default_rng(self.epoch).permutation(len(self.rows))


class Infinite(Loader):
    def batch(self, numbers, step):
        x, y = super().batch(numbers, step)
        if step == 1:
            x[0, 0] = np.inf
        return x, y


class RefusesStates(Loader):
    def load_state_dict(self, state):
        from feedrate.loaders.base.errors import InputError

        raise InputError("no state of yesterday")


always_shuffled, infinite, refuses_states = map(made, (AlwaysShuffled, Infinite, RefusesStates))


class Endless(Loader):
    def share(self):
        return np.tile(super().share(), 100)


endless = made(Endless)
