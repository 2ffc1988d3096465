"""Many requests: rows in, rows out, nothing lost and nothing paid twice; the same command again goes on where it stopped."""

from cascade.bulk.durable import Durable
from cascade.bulk.frames import map_batches
from cascade.bulk.journal import Journal, Standing, standing
from cascade.bulk.outage import Outage
from cascade.bulk.output import Output, Trails
from cascade.bulk.runner import OUTAGE, Answerer, Run, gather, run
from cascade.bulk.stream import Stream
from cascade.bulk.table import Table

__all__ = ["OUTAGE", "Answerer", "Durable", "Journal", "Outage", "Output", "Run", "Standing", "Stream", "Table", "Trails", "gather",
           "map_batches", "run", "standing"]
