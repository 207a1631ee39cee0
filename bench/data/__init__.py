"""Datasets, one file each: the file's name is the dataset's, its ``read`` reads it."""

from mixbench.bench.data._base import Data, Dataset, Images

__all__ = ["Data", "Dataset", "Images"]
