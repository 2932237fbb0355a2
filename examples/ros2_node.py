"""A ROS 2 node that says where a LiDAR is in a map, with the interface of Autoware's ndt_scan_matcher.

    ros2 run YOUR_PACKAGE ros2_node --ros-args -p map:=map.pcd        # or: python examples/ros2_node.py --ros-args ...

Subscribes to `points_raw` (PointCloud2, in the frame of the vehicle) and `ekf_pose_with_covariance`
(PoseWithCovarianceStamped, the prior, in the frame of the map); publishes `ndt_pose` (PoseStamped),
`ndt_pose_with_covariance` (PoseWithCovarianceStamped), `exe_time_ms` (Float32Stamped there, Float32 here) and
`/diagnostics` (DiagnosticArray). A pose is published only where the answer is one to act on.

Without ROS the module can be imported, and `Matcher` used and tested: it takes anything with the fields of the messages.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

import deepgmr

NODE = "deepgmr_scan_matcher"
OK, WARN, ERROR = 0, 1, 2  # diagnostic_msgs/DiagnosticStatus
FARTHEST = (
    16.8  # squared Mahalanobis distance from the prior that one answer in a hundred exceeds (chi squared, six free)
)


@dataclass(frozen=True)
class Estimate:
    """What became of one scan."""

    level: int  # OK, WARN or ERROR
    message: str  # one line
    values: dict[str, str]  # for the diagnostics
    pose: np.ndarray | None = None  # (4, 4) map from vehicle; None where there is none to act on
    covariance: np.ndarray = field(
        default_factory=lambda: np.zeros((6, 6))
    )  # x, y, z, rotations about x, y, z of the map
    milliseconds: float = 0.0


class Matcher:
    """Scans against one map, prepared once. `target_from_source` is the pose of the vehicle in the map."""

    def __init__(self, the_map: Any, *, trust: float = 0.9) -> None:
        self.registrar = deepgmr.Registrar.load()
        self.map = self.registrar.prepare(the_map, role="target")
        self.trust = trust

    def match(self, cloud: Any, prior: Any = None) -> Estimate:
        """Where the vehicle is that saw a PointCloud2; `prior` is a PoseWithCovariance, or None where nothing is known."""
        start = time.perf_counter()
        initial = None if prior is None else matrix_of(prior.pose)
        try:
            answer = self.registrar.register(cloud, self.map, initial=initial, trust=self.trust)
        except deepgmr.errors.InvalidInput as error:  # an empty scan must not end the node
            return Estimate(ERROR, str(error), {}, milliseconds=1e3 * (time.perf_counter() - start))
        pose, covariance = answer.target_from_source, ros_covariance(answer)
        values = {
            "status": answer.status.value,
            "confidence": f"{answer.confidence:.3f}",
            "overlap": f"{answer.overlap:.3f}",
            "looks": str(answer.stats.looks),
        }
        level, message = (OK, "localised") if answer.trusted else (WARN, answer.sentence)
        if answer.trusted and prior is not None:
            distance = disagreement(pose, covariance, prior)
            values["squared_mahalanobis_from_prior"] = f"{distance:.1f}"
            if distance > FARTHEST:
                level, message = WARN, "the pose contradicts the prior; one of them is wrong"
        return Estimate(
            level, message, values, pose if answer.trusted else None, covariance, 1e3 * (time.perf_counter() - start)
        )


def matrix_of(pose: Any) -> np.ndarray:
    """A geometry_msgs/Pose as (4, 4)."""
    turn, place = pose.orientation, pose.position
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    matrix[:3, 3] = (place.x, place.y, place.z)
    return matrix


def fill_pose(pose: Any, matrix: np.ndarray) -> None:
    """Write (4, 4) into a geometry_msgs/Pose."""
    pose.position.x, pose.position.y, pose.position.z = map(float, matrix[:3, 3])
    turn = pose.orientation
    turn.x, turn.y, turn.z, turn.w = map(float, Rotation.from_matrix(matrix[:3, :3]).as_quat())


def ros_covariance(answer: deepgmr.Registration) -> np.ndarray:
    """The (6, 6) of a geometry_msgs/PoseWithCovariance: of the vehicle's place, then of rotations about the map's axes.

    Ours has the rotations first; about the map's origin, far away, the least of them would move the vehicle far.
    """
    about, order = answer.covariance_about(answer.target_from_source[:3, 3]), [3, 4, 5, 0, 1, 2]
    return about[np.ix_(order, order)]


def disagreement(pose: np.ndarray, covariance: np.ndarray, prior: Any) -> float:
    """The squared Mahalanobis distance of a pose from a PoseWithCovariance, both uncertain."""
    before = matrix_of(prior.pose)
    turn = Rotation.from_matrix(pose[:3, :3] @ before[:3, :3].T).as_rotvec()
    difference = np.concatenate([pose[:3, 3] - before[:3, 3], turn])
    both = covariance + np.asarray(prior.covariance, dtype=np.float64).reshape(6, 6)
    found = float(difference @ np.linalg.pinv(both, hermitian=True) @ difference)
    return found if math.isfinite(found) else math.inf


def main() -> None:
    """Spin the node; needs a sourced ROS 2."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import PointCloud2
    from std_msgs.msg import Float32

    class ScanMatcher(Node):
        def __init__(self) -> None:
            super().__init__(NODE)
            self.frame = self.declare_parameter("map_frame", "map").value
            self.matcher = Matcher(self.declare_parameter("map", "map.pcd").value)
            self.prior: Any = None
            self.pose = self.create_publisher(PoseStamped, "ndt_pose", 10)
            self.uncertain = self.create_publisher(PoseWithCovarianceStamped, "ndt_pose_with_covariance", 10)
            self.seconds = self.create_publisher(Float32, "exe_time_ms", 10)
            self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
            self.create_subscription(PoseWithCovarianceStamped, "ekf_pose_with_covariance", self.on_prior, 10)
            self.create_subscription(PointCloud2, "points_raw", self.on_scan, qos_profile_sensor_data)

        def on_prior(self, message: Any) -> None:
            if message.header.frame_id == self.frame:
                self.prior = message.pose

        def on_scan(self, cloud: Any) -> None:
            found = self.matcher.match(cloud, self.prior)
            self.seconds.publish(Float32(data=found.milliseconds))
            values = [KeyValue(key=key, value=value) for key, value in found.values.items()]
            status = DiagnosticStatus(level=bytes([found.level]), name=NODE, message=found.message, values=values)
            report = DiagnosticArray(status=[status])
            report.header.stamp = cloud.header.stamp
            self.diagnostics.publish(report)
            if found.pose is None:
                return
            plain, uncertain = PoseStamped(), PoseWithCovarianceStamped()
            for message, pose in ((plain, plain.pose), (uncertain, uncertain.pose.pose)):
                message.header.stamp, message.header.frame_id = cloud.header.stamp, self.frame
                fill_pose(pose, found.pose)
            uncertain.pose.covariance = found.covariance.reshape(-1).tolist()
            self.pose.publish(plain)
            self.uncertain.publish(uncertain)

    rclpy.init()
    node = ScanMatcher()
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
