"""Every number that decides an answer, in frozen tables; TOML in and out.

Lengths are in spacings (the distance between neighbouring components, of the sparser cloud), or where a comment says so
in sizes (twice the root-mean-square radius of the larger cloud); angles are radians unless a name says degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deepgmr.errors import InvalidConfig
from deepgmr.plain import from_plain, from_toml, to_plain, to_toml


@dataclass(frozen=True)
class ScanSettings:
    """What a cloud becomes: the front-end that search, network, training and calibration share."""

    inner: float = 0.9  # share of the points whose radius about the median ...
    far: float = 10.0  # ... times this is far outside
    finest: int = 65_536  # components of the finest level; a cloud that has no more points keeps them all
    fewest: int = 1024  # points up to which a cloud's components are its points
    most: int = 1500  # components of the level that is searched
    share: float = 0.03  # in between, of the points beyond the fewest
    vanishing: int = 32  # components below which a cloud gets voxels of its own size
    uneven: float = 1.5  # ratio of spacings from which the denser cloud is thinned to the sparser
    neighbours: int = 64  # of each component: the widest patch that is looked at
    for_normals: int = 16  # nearest components, itself included, that a normal is estimated from
    for_side: int = 40  # ... and that say which side of it is hollow
    for_height: int = 12  # ... and how much relief there is
    sigma: float = 0.5  # standard deviation of a component in its plane, spacings: half-way to its neighbours
    thickness: float = 1e-3  # variance across it, as a share of that in its plane


@dataclass(frozen=True)
class LookSettings:
    """Where hypotheses come from in one look at a pair, and how many are followed up."""

    mixtures: bool = False  # the motion of the DeepGMR network, between whole clouds
    learned: bool = False  # matches of the overlap network
    patches: bool = False  # matches of histograms inside the patches that it matched
    nodes: int = 0  # of each cloud that it matches; 0: as many as it was trained with
    described: bool = False  # matches of histograms, without training
    grid: int = 0  # hypotheses from the rotation grid
    correlated: int = 0  # hypotheses from dominant normals and phase correlation ...
    evident: bool = False  # ... where these dominate by far
    detail: int = 0  # components that histograms are taken of; 0: those of the level that is searched
    refined: int = 24  # hypotheses that are refined; 0: none, they are ranked as they are


@dataclass(frozen=True)
class SearchSettings:
    """Looks one after the other, as long as there is doubt, and when there is none."""

    looks: tuple[LookSettings, ...] = (
        LookSettings(learned=True, refined=8),
        LookSettings(described=True, grid=12, refined=24),
        LookSettings(described=True, detail=5000, refined=24),
    )
    detailed: tuple[LookSettings, ...] = (  # where there is more detail than is searched
        LookSettings(correlated=12, evident=True, learned=True, patches=True, nodes=256, refined=8),
        LookSettings(correlated=64, described=True, refined=24),
        LookSettings(described=True, detail=5000, refined=24),
    )
    clear: float = 0.8  # confidence that needs no second look ...
    clear_detailed: float = 0.9  # ... where there is more detail than is searched, and so much more to mistake ...
    whole: float = 0.9  # ... or overlap, of both clouds
    finer: float = 1.5  # times as many points as components, from which a look at more detail sees more
    few: int = 50  # components up to which every look is taken: it costs nothing
    unlike: float = 6.0  # ratio of the sizes from which the first look is the only one: no other mends the units
    same_angle: float = 0.26  # hypotheses within this angle ...
    same_distance: float = 0.1  # ... and this distance, sizes, are one


@dataclass(frozen=True)
class ProposeSettings:
    """Descriptors, their matches, and the rotation grid."""

    scales: tuple[int, ...] = (24, 64)  # neighbours in the patches that histograms are taken of
    bins: int = 11  # of each of the three angles
    sharpness: float = 20.0  # inverse temperature of the similarity of two histograms, in [0, 1]
    candidates: int = 2  # target components considered for each source component
    few: int = 64  # matches below which every pair of components is considered
    matches: int = 600  # most distinctive ones that are kept
    rotations: int = 1152  # of the grid: within 24 degrees of any rotation, half of them within 12
    blur: float = 0.04  # standard deviation added to the components on the grid, sizes: the reach of its spacing
    mixture: int = 24  # components of the mixtures whose overlap scores the grid ...
    rounds: int = 2  # ... of EM that fit them ...
    floor: float = 1e-4  # ... and their least variance, sizes


@dataclass(frozen=True)
class CorrelationSettings:
    """Rotations from dominant normals, translations by phase correlation."""

    components: int = 24_000  # of each cloud, whose places are correlated
    sampled: int = 3000  # of them whose directions are looked at ...
    counted: int = 600  # ... and of those, that are compared with one another
    sharpness: float = 60.0  # of a direction: exp(k (cos^2 - 1))
    salient: float = 2.5  # times what uniform directions give, from which one is dominant ...
    evident: float = 8.0  # ... and from which one is so by far
    alike: float = 0.95  # share of the weight of the best rotation that another carries, where directions are evident
    directions: int = 6  # dominant ones, at most
    shifts: int = 4  # steps of mean shift ...
    narrower: float = 2.5  # ... each so much sharper than the one before
    apart: float = 0.44  # radians between dominant directions
    tolerance: float = 0.14  # radians within which angles between directions agree, and rotations are one
    rotations: int = 24
    turns: int = 24  # about the direction of a cloud that has but one
    cells: int = 100_000  # of the grid that occupancies are correlated on ...
    voxel: float = 1.5  # ... but none smaller than so many spacings
    floor: float = 1e-3  # of the strongest frequency, below which the others are not whitened
    peaks: int = 12  # of each rotation
    kept: int = 64  # of all


@dataclass(frozen=True)
class AgreeSettings:
    """Which matches agree, and the motions they agree on."""

    tolerance: float = 2.0  # how much a right match may change a length, spacings ...
    least_tolerance: float = 0.04  # ... but at least this, sizes
    slack: float = 0.4  # the same for matches of nodes, in distances between nodes
    normal_tolerance: float = 0.5  # of the cosine between two normals: normals of half-seen patches are rough
    apart: float = 3.0  # tolerances within which two matches are neighbours, which agree with anything
    least: float = 0.2  # consistency that counts
    seeds: int = 128
    followers: int = 20  # matches that vote with each seed
    meeting: float = 1.5  # tolerances between the ends of a match that one standard deviation stands for
    kept: int = 48  # motions that get a first look


@dataclass(frozen=True)
class PatchSettings:
    """Matches inside patches that the network matched, and the motions of single patches."""

    finer: float = 1.5  # times as many components as nodes, from which patches hold more than their nodes
    pairs: int = 256  # of patches, the likeliest
    members: int = 16  # components of a patch
    matches: int = 12  # of a pair of patches
    tolerance: float = 1.5  # how much a right match may change a length, spacings
    apart: float = 1.0  # tolerances within which two matches are neighbours, which agree with anything
    asked: int = 4  # matches of every pair, the clearest, that say which motions ...
    followed: int = 64  # ... are worth fitting to all of them

    def inside(self, agree: AgreeSettings) -> AgreeSettings:
        """What agrees inside a patch."""
        return replace(agree, apart=self.apart, seeds=1, followers=self.matches)


@dataclass(frozen=True)
class RefineSettings:
    """Generalised ICP on the components: a wide round that forgives, and a narrow one that forgets."""

    reaches: tuple[float, ...] = (4.0, 2.0)  # spacings within which components are matched, a round ...
    least_reaches: tuple[float, ...] = (0.1, 0.03)  # ... but at least these, sizes
    iterations: int = 8
    settled: float = 3e-3  # steps (rad, sizes) below which a fit stands still ...
    nearly_settled: float = 1e-2  # ... in all rounds but the last
    thinned: int = 340  # components of the source that all rounds but the last make do with, give or take a half
    thinned_normals: int = 6  # the fewest of those that a normal is estimated from
    same_angle: float = 0.05  # motions within this angle ...
    same_distance: float = 0.02  # ... and this distance, sizes, after a round go on as one
    pulls: int = 20  # closed-form steps at most
    tiny: int = 10  # components below which there is no surface to fit, and closed-form steps suffice
    dwarf: float = 6.0  # ratio of extents from which the smaller cloud is moved: a tree hates queries far from it


@dataclass(frozen=True)
class DescentSettings:
    """Both surfaces pulled together where the level that is searched is all there is: few components, all of them asked."""

    across: tuple[float, ...] = (1.5, 1.0, 0.5)  # standard deviation of a component across its surface, spacings
    least_across: tuple[float, ...] = (0.05, 0.025, 0.0)  # ... but at least these, sizes
    along: float = 2.0  # times that along it
    sigma_normal: float = 0.7  # of a normal, a unit vector
    background: float = 0.3  # likelihood ratio, to a perfect counterpart, of a component that only one surface has
    reach: float = 2.5  # deviations along the surface beyond which no counterpart is looked for
    asked: tuple[int, ...] = (170, 170, 512)  # components of each cloud, about, that are asked for their counterparts
    iterations: tuple[int, ...] = (4, 3, 5)
    same_angle: float = 0.02  # motions within this angle ...
    same_distance: float = 0.01  # ... and this distance, sizes, after a round go on as one
    settled: float = 1e-3  # steps (rad, sizes) below which a motion stands still ...
    at_last: float = 1e-5  # ... and below which the answer does
    stride: float = 0.3  # the longest step (rad, sizes)


@dataclass(frozen=True)
class RankSettings:
    """How two surfaces meet."""

    sigma: float = 0.5  # standard deviation of the place of a component, spacings: half-way to its neighbours
    sigma_normal: float = 0.7  # and of its normal, a unit vector
    seen_through: float = (
        30.0  # nats that it costs if all of a cloud stands in space that the other's sensor saw through
    )
    background: float = 1.0  # likelihood ratio, to a perfect counterpart, of a component that only one surface has
    reach: float = 3.0  # spacings beyond which no counterpart is looked for
    seen: float = 2.0  # spacings within which a counterpart counts: 15 of 16 of another random sample's do
    stretch: float = 3.0  # times the spacing that surfaces may be sampled more sparsely here and there
    asked: int = 1200  # components of either surface that are asked for their counterparts
    patch: int = 16  # neighbouring components that belong together, where contradiction is told from absence
    strewn: float = 0.05  # four times the share of either below which it says little how it is strewn about
    along: float = 0.05  # weight of a gap along the surface, beside one across it: samples lie apart along it
    narrow: float = 0.25  # standard deviation across the surface of narrow disks, spacings ...
    narrow_along: float = 0.5  # ... and along it
    narrow_background: float = 0.3  # as `background`, for them
    belief: float = 0.01  # share of the components that stands for what is believed where nothing meets:
    by_chance: dict[str, float] = field(  # squared, in spacings, or one minus a cosine
        default_factory=lambda: {"misfit": 0.2, "looseness": 0.2, "bend": 0.2, "relief": 0.03}
    )
    first_look: float = 2.5  # how much wider components are when hypotheses have not been refined
    first_components: int = 128  # of the source, in the first look
    rival_angle: float = 0.17  # answers further apart than 10 degrees are different answers
    poses: int = 12  # different answers that share out the probability
    like: float = 0.01  # sizes across the surface up to which two poses put the source in one place ...
    unlike: float = 0.05  # ... from which on they do not ...
    elsewhere: float = 0.15  # ... and from which on they put it somewhere else entirely
    placed: int = 128  # components that are compared for that
    astray: tuple[float, float] = (0.03, 0.1)  # share without a place up to which, where there is detail, two poses are
    # the same by a symmetry, and from which they are not
    off: float = 1.0  # spacings across the surface from which a component has no place
    strayed: int = 500  # components that are asked


@dataclass(frozen=True)
class VisibilitySettings:
    """What a sensor saw through, where it is known from where it looked."""

    per_cell: int = 6  # points that a cell of directions should hold
    probes: int = 1000  # of them that are asked how far away so many others are
    finest: float = 0.003  # radians: no cell is smaller ...
    coarsest: float = 0.1  # ... nor larger
    margin: float = 3.0  # spacings by which a component has to stand in front of what was seen ...
    share: float = 0.1  # ... beside this share of the range: motions are not exact, and grazed surfaces recede fast
    belief: float = 0.01  # share of the components that stands for what is believed where none was looked at


@dataclass(frozen=True)
class DetailSettings:
    """Finalists, refined and ranked again on finer and finer levels until one stands out or the detail ends."""

    components: tuple[int, ...] = (6_000, 24_000, 65_536)  # of each cloud, a level
    neighbours: int = 12  # that a normal is estimated from
    finer: float = 1.5  # times as many components as the level before, from which a level shows more
    finalists: int = 12  # different poses that are followed to the next level
    cells: float = 1.5  # of the grid of phase correlation, by which its peaks may be off
    moved: int = 1000  # components of the source that are fitted at first, of every direction as many ...
    fitted: int = 3000  # ... and in all rounds but the first, of the surface as it is
    reaches: tuple[float, ...] = (2.0, 1.0)  # spacings of the level before within which they are matched, a round
    iterations: int = 6
    settled: float = 3e-4  # steps (rad, sizes) below which a fit stands still
    same: float = 2.0  # spacings of the level that is searched within which two poses are one
    noise: float = 1.0  # root mean square gaps, across what meets at a level, below which the next asks for no more
    least_gain: float = 0.7  # of the unit of the level before, beyond which a finer one would say nothing new
    behind: float = 18.0  # nats behind the first from which a pose is given up


@dataclass(frozen=True)
class AccidentSettings:
    """How closely unrelated surfaces meet by chance."""

    components: int = 64
    places: int = 32  # that the smaller surface is put at
    shift: float = 0.5  # of its root-mean-square radius, from where it was
    rare: float = 0.02  # share of the gaps below which they are too few to count, and a ball's volume stands for them


@dataclass(frozen=True)
class PolishSettings:
    """The last fit, at the resolution of the data."""

    components: int = 6_000  # of each cloud
    reach: float = 2.0  # spacings of the searched level within which points are matched at first
    narrow: float = 3.0  # spacings of the data ...
    least_narrow: float = 0.25  # ... but at least this share of the first reach, at last
    iterations: int = 10
    settled: float = 1e-5  # steps (rad, sizes) below which the fit stands still ...
    nearly_settled: float = 1e-3  # ... and below which one is close enough for the next
    steps: int = 2  # with matches from both clouds, at last
    close: float = 0.6  # share of the last reach within which they are matched
    fewest: int = 10  # of them
    thickness: float = 0.3  # of the disks, as a share of what the gaps across and along the surfaces say ...
    thinnest: float = 1e-3  # ... but at least this, a ratio of variances ...
    thickest: float = 0.5  # ... and for the covariance at most this: of round ones no direction of a normal is left
    looks_same: float = 0.2  # spacings below which ...
    nearest: float = 0.25  # ... this share of the gaps lies where both clouds hold the same points ...
    is_same: float = 0.1  # ... and their root mean square below this, once fitted
    probes: int = 200  # points that are asked
    least_information: float = 1e-6  # sizes: a standard deviation of a thousand times the size of the clouds
    free: float = 1e-9  # damping of a step, as a share of the information
    slides: float = 1e-4  # share of the largest information below which nothing holds a direction ...
    nearly_slides: float = 0.01  # ... and below which nothing may ...
    held: float = 4.0  # ... where it is not so many times what chance would leave
    patches: tuple[float, ...] = (4.0, 8.0, 16.0)  # spacings: sides of the cubes within which errors may agree ...
    fewest_patches: int = 12  # ... as long as there are so many
    patchwise: float = 0.53  # by how much the variance is larger than patches say, on what follows as powers of e:
    grows: float = 1.27  # per e of its growth from the first size of patches ...
    few_patches: float = 30.0  # ... in so many patches half believed ...
    even_grows: float = 3.94  # ... and more where gaps are all alike: less than ...
    random_gaps: float = 0.53  # ... this standard deviation of their logarithm
    torn: float = 0.44  # per e of squared standard deviations by which fits of halves differ ...
    tears: float = 1e3  # ... up to so many
    two_ways: float = 0.26  # ... and those of matches either way
    same: float = 2.21  # and less per e by which matches lie nearer along the surface ...
    others_along: float = 0.45  # ... than those of other samples, spacings: the points are the same but for noise
    most_power: float = 6.0
    bent_over: float = 8.0  # spacings: side of the cubes within which surfaces may lie apart together, ...
    bent_members: int = 5  # ... of so many matches at least, ...
    bent_patches: int = 8  # ... if there are so many of them
    bent: float = 2.3  # by how many times as much they may be moved as a whole ...
    plainly: float = 0.3  # ... if it is so large a share of all that they lie apart
    rounding: float = 1e-7  # sizes: the least standard deviation, that of single precision


@dataclass(frozen=True)
class InitialSettings:
    """An initial motion that checks out."""

    reach: float = 0.05  # sizes by which it may be off, on the mean over the points, where no covariance says otherwise
    deviations: float = 2.0  # of its covariance that it may be off
    clear: float = 0.9  # confidence from which nothing is searched for


@dataclass(frozen=True)
class ScaleSettings:
    """How much larger or smaller the source would have to be."""

    reach: float = 3.0  # spacings within which points are matched
    steps: int = 20
    stride: float = 0.1  # the longest step (rad, sizes, logarithm)
    settled: float = 1e-4  # steps below which the fit stands still ...
    nearly_settled: float = 1e-3  # ... and below which it does to see whether there is another scale
    damping: float = 1e-9  # of a step, as a share of the information
    slides: float = 1e-4  # share of the largest information below which nothing holds a direction ...
    leans: float = 0.1  # ... and how much of it may be a change of scale
    patch: float = 8.0  # spacings: side of the cubes within which errors agree
    correlated: float = 2.5  # how many times as large as patches that err apart say the deviation is
    discretised: float = 0.001  # the least deviation that samples of a surface leave
    noticed: float = (
        0.04  # logarithm of a factor from which an answer at the scale of the input is not one to act on ...
    )
    deviations: float = 2.0  # ... if it is so many standard deviations
    doubtful: float = 0.5  # most that such an answer is believed
    freedom: float = 3.0  # by how much more an answer whose scale was sought is doubted
    step: float = 1.15  # ratio of the scales that are tried ...
    span: float = 2.0  # ... about the one at which both clouds are of one size, as far as this
    widest: float = 1.4  # by how much a fit may leave the scale that it began at
    same: float = 1.03  # ratio within which two scales are one
    named: float = 1.02  # how near a scale is to a ratio of units that is told


@dataclass(frozen=True)
class JudgeSettings:
    """From evidence to a status."""

    trust: float = 0.9  # confidence from which an answer is one to act on
    shape: float = 0.5  # confidence from which the shape, if not the pose, counts as found
    tied: float = 1.5  # nats of plausibility within which another pose explains the clouds as well
    free: float = 0.004  # observability below which the clouds can slide or turn on one another ...
    nearly_free: float = 0.03  # ... and below which they can if, besides, another pose explains them as well
    low_overlap: float = 0.12
    rivals: int = 5  # alternatives that are told
    sure: float = 20.0  # nats of standing beyond which more means nothing
    wide: float = 3.0  # nats of margin beyond which more means nothing
    least_overlap: float = 0.05  # keeps a logarithm finite
    least_observability: float = 1e-4
    least_stray: float = 1.0  # reaches of the initial motion: having stayed closer than that says nothing
    typical_observability: float = 0.1  # before it is known
    typical_matched: float = 0.07  # share of its matches that a right answer makes good, where no network was asked
    unrivalled: float = 0.5  # most that is believed of the only motion that was looked at
    odd_size: float = 3.0  # ratio of the sizes worth a word where the answer is in doubt ...
    odd_size_sure: float = 6.0  # ... and in any case
    other_units: float = 200.0  # ratio of the sizes that no rigid motion can bridge usefully
    vanishing: float = 1e6  # ratio of the sizes, of what lies far off too, at which nothing is left of the smaller


@dataclass(frozen=True)
class Settings:
    """All of them, a table a room."""

    scan: ScanSettings = field(default_factory=ScanSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    propose: ProposeSettings = field(default_factory=ProposeSettings)
    correlation: CorrelationSettings = field(default_factory=CorrelationSettings)
    agree: AgreeSettings = field(default_factory=AgreeSettings)
    patches: PatchSettings = field(default_factory=PatchSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
    descent: DescentSettings = field(default_factory=DescentSettings)
    rank: RankSettings = field(default_factory=RankSettings)
    visibility: VisibilitySettings = field(default_factory=VisibilitySettings)
    detail: DetailSettings = field(default_factory=DetailSettings)
    accidents: AccidentSettings = field(default_factory=AccidentSettings)
    polish: PolishSettings = field(default_factory=PolishSettings)
    initial: InitialSettings = field(default_factory=InitialSettings)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)

    def __post_init__(self) -> None:
        _check(to_plain(self))
        if not self.search.looks or not self.search.detailed:
            raise InvalidConfig("`search.looks` and `search.detailed` must hold at least one look each")
        if not self.refine.reaches or len(self.refine.reaches) != len(self.refine.least_reaches):
            raise InvalidConfig("`refine.reaches` and `refine.least_reaches` must hold as many numbers, at least one")
        rounds = {name: getattr(self.descent, name) for name in ("across", "least_across", "asked", "iterations")}
        if not self.descent.across or len(set(map(len, rounds.values()))) > 1:
            names = ", ".join(f"`descent.{name}`" for name in rounds)
            raise InvalidConfig(f"{names} must hold as many numbers, at least one")

    def replace(self, **changes: Any) -> Settings:
        """Other settings: `settings.replace(judge={"trust": 0.5})`, or `**{"judge.trust": 0.5}`, or a whole table.

        Raises `InvalidConfig` for an unknown name or a value of another type.
        """
        plain = to_plain(self)
        for name, value in changes.items():
            *rooms, key = name.split(".")
            table: Any = plain
            for room in rooms:
                table = table.get(room) if isinstance(table, dict) else None
            if not isinstance(table, dict) or key not in table:
                raise InvalidConfig(f"unknown setting `{name}`; the settings are {', '.join(_names(plain))}")
            if isinstance(value, Mapping):
                unknown = [inner for inner in value if inner not in table[key]]
                if unknown:
                    raise InvalidConfig(f"unknown setting `{name}.{unknown[0]}`; it holds {', '.join(table[key])}")
                table[key] |= value
            else:
                table[key] = to_plain(value) if hasattr(value, "__dataclass_fields__") else value
        return from_plain(Settings, plain)

    def to_toml(self) -> str:
        """The settings as TOML text; `from_toml` reads it back."""
        return to_toml(to_plain(self))

    @classmethod
    def from_toml(cls, text: str) -> Settings:
        """Settings from TOML text; what it leaves out keeps its default. Raises `InvalidConfig`."""
        return from_plain(cls, from_toml(text))


PRESETS: dict[str, Mapping[str, Any]] = {
    "default": {},
    "fast": {  # the first look only
        "search.looks": [to_plain(LookSettings(learned=True, refined=8))],
        "search.detailed": [to_plain(LookSettings(correlated=12, evident=True, learned=True, refined=6))],
    },
    "thorough": {
        "search.clear": 2.0,
        "search.clear_detailed": 2.0,
        "search.whole": 2.0,
    },  # every look, whatever the first one says
    # DeepGMR (Yuan et al., ECCV 2020) on two files: one forward pass, and the polish
    "paper": {
        "search.looks": [to_plain(LookSettings(mixtures=True, refined=0))],
        "search.detailed": [to_plain(LookSettings(mixtures=True, refined=0))],
        "scan.fewest": 1024,
        "scan.most": 1024,
    },
}


def preset(name: str, settings: Settings | None = None) -> Settings:
    """Settings by name. Raises `InvalidConfig` for an unknown one."""
    if name not in PRESETS:
        raise InvalidConfig(f"unknown preset `{name}`; the presets are {', '.join(PRESETS)}")
    return (settings or Settings()).replace(**PRESETS[name])


_MAY_BE_ZERO = {
    *("descent.least_across", "rank.seen_through", "visibility.margin", "visibility.share"),
    *("scan.share", "search.few", "search.clear", "search.whole", "agree.least", "agree.least_tolerance", "rank.along"),
    *(
        "rank.like",
        "refine.tiny",
        "refine.iterations",
        "polish.iterations",
        "polish.steps",
        "judge.trust",
        "judge.shape",
        "judge.tied",
    ),
    *("judge.free", "judge.nearly_free", "judge.low_overlap", "judge.rivals"),
}


_MOST = 1e300  # whole numbers have no infinity


def _check(plain: Mapping[str, Any], room: str = "") -> None:
    """Raise `InvalidConfig`, naming the first number that is not finite, or is not positive though it must be."""
    for key, value in plain.items():
        name = f"{room}{key}"
        if isinstance(value, Mapping):
            _check(value, f"{name}.")
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            least = ">= 0" if name in _MAY_BE_ZERO else "> 0"
            if not 0 <= number <= _MOST or (number == 0 and name not in _MAY_BE_ZERO):  # nor NaN
                got = (
                    number if isinstance(number, float) or number.bit_length() < 999 else f"{number.bit_length()} bits"
                )
                raise InvalidConfig(f"`{name}` must be a finite number {least}, got {got}")


def _names(plain: Mapping[str, Any], room: str = "") -> list[str]:
    return [
        name
        for key, value in plain.items()
        for name in (_names(value, f"{room}{key}.") if isinstance(value, Mapping) else [f"{room}{key}"])
    ]
