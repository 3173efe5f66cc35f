"""A rank whose loader Lightning divides: a training run whose model only records its batches."""

from __future__ import annotations

import inspect
import tempfile
from typing import TYPE_CHECKING, Any

import pytorch_lightning as lightning
import torch  # noqa: TID253 - only with this wrapper

from .protocol import END, HALF, RunRank
from .rank_loaders import LoaderEpochs, RankOf, torch_loader
from .work import Data

if TYPE_CHECKING:
    from .rank import Recorder


def run_lightning(data: Data, request: RunRank, recorder: Recorder) -> None:
    """Run the epochs of one rank through `Trainer.fit`; positions are Lightning's checkpoints.

    Raises:
        CannotVerifyError: the loader is not a torch DataLoader.
    """
    epochs = LoaderEpochs(request.loader, request.settings, data, request.job, RankOf(None, None))
    loader = torch_loader(epochs, "lightning")
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=request.world_size,
            strategy="ddp" if request.world_size > 1 else "auto",
            max_epochs=request.first_epoch + request.epochs,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        options: dict[str, Any] = {"ckpt_path": request.resume}
        if "weights_only" in inspect.signature(trainer.fit).parameters:
            options["weights_only"] = True  # torch's default, for which older versions do not ask
        trainer.fit(_Recording(recorder), loader, **options)


class _Recording(lightning.LightningModule):
    """A model that records its batches and learns nothing."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._recorder = [recorder]  # in a list, so that Lightning does not look into it
        self._keeps = False
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters())

    def on_train_epoch_start(self) -> None:
        self._recorder[0].begin(self.current_epoch)

    def training_step(self, batch: Any, number: int) -> None:
        del number
        self._keeps = self._recorder[0].add(batch)

    def on_train_batch_end(self, *_: Any) -> None:
        if self._keeps:
            self._keeps = False
            self.trainer.save_checkpoint(self._recorder[0].keep(HALF))

    def on_train_epoch_end(self) -> None:
        if self._recorder[0].end():
            self.trainer.save_checkpoint(self._recorder[0].keep(END))
