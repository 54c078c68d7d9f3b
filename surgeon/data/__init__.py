"""Images for networks: data sets by name, as the network wants them, in batches."""

from surgeon.data.config import ImageConfig, image_config, image_size
from surgeon.data.image_data import ImageData
from surgeon.data.loader import make_loader
from surgeon.data.open import check_classes, open_data

__all__ = ["ImageConfig", "ImageData", "check_classes", "image_config", "image_size", "make_loader", "open_data"]
