# The public list, in reading order, and the only one: type checkers and editors read it, and so does __init__.py.
# isort: skip_file
from . import errors as errors
from .geometry.transform import RigidTransform as RigidTransform
from .mixture.gaussian_mixture import GaussianMixture as GaussianMixture
from .mixture.solver import solve_rigid as solve_rigid
from . import divergence as divergence
from .io.checkpoint import load as load
from .io import read_cloud as read_cloud
from .io import write_cloud as write_cloud
from .io import read_trajectory as read_trajectory
from .io import write_trajectory as write_trajectory
from .pipeline.settings import Settings as Settings
from .pipeline.scan import Scan as Scan
from .pipeline.judge import Status as Status
from .pipeline.judge import Evidence as Evidence
from .pipeline.answer import Alternative as Alternative
from .pipeline.answer import Stats as Stats
from .pipeline.answer import Registration as Registration
from .pipeline.answer import Failure as Failure
from .pipeline.trace import Trace as Trace
from .pipeline.bundle import Bundle as Bundle
from .pipeline.registrar import Registrar as Registrar
from .pipeline.registrar import register as register
from .pipeline.registrar import register_batch as register_batch
from .pipeline.registrar import iter_batch as iter_batch
from .threads import set_threads as set_threads
from .odometry import Fix as Fix
from .odometry import Odometry as Odometry
from .odometry import OdometrySettings as OdometrySettings
from .alignment import align as align
from .alignment import Alignment as Alignment
from .alignment import AlignmentSettings as AlignmentSettings
from .alignment import Link as Link

__version__: str
