"""Types that annotations name: what the types of libraries leave open."""

from collections.abc import Mapping
from typing import Any

Content = Any  # of a JSON or YAML file, before it is checked
Document = dict[str, Any]  # a JSON object or a YAML mapping
Settings = Mapping[str, Any]  # values by the names of settings
Model = Any  # an AnomalibModule, or a network of one: torch's types know no attribute of it
Batch = Any  # of anomalib's data modules, any field of which may be absent
