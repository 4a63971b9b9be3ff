"""Images by index: the embedded digits, folders, and the loader."""

from sslgraph.data.clutter import RUNGS, Clutter
from sslgraph.data.digits import EmbeddedDigits
from sslgraph.data.folder import FolderSummary, ImageFolder
from sslgraph.data.loader import Batch, Loader, in_order
from sslgraph.data.sheet import contact_sheet, save_sheet
from sslgraph.data.source import BadFile, DataError, Source

__all__ = [
    "RUNGS",
    "BadFile",
    "Batch",
    "Clutter",
    "DataError",
    "EmbeddedDigits",
    "FolderSummary",
    "ImageFolder",
    "Loader",
    "Source",
    "contact_sheet",
    "in_order",
    "save_sheet",
]
