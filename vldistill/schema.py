"""What a recipe may say: one class per section, each field with its default and what it means.

`vldistill.recipe` reads YAML into these; below the `build_*` factories nothing sees them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vldistill.schema_base import Depth, Fraction, NonNegative, Place, Positive, Section, Side, Width, is_folder_name
from vldistill.schema_retrieval import RetrievalObjective
from vldistill.schema_sight import Clip, ImageNetwork, Pixels
from vldistill.schema_teachers import DUAL_ENCODERS, Teacher, Teachers
from vldistill.schema_training import Adversarial, Optim, Train, check_together


class Mixed(Section):
    """Another artifact to pre-train on beside the first. weight: how often an epoch has each of its records."""

    path: Place
    train: str = "train"
    weight: Annotated[float, Field(gt=0)] = 1.0


class Data(Section):
    """What to train on: an artifact of `vldistill prepare`. mix: others beside it, for pre-training; weight: see there."""

    path: Place
    train: str = "train"
    val: str = "val"
    types: list[str] | None = None  # only records of these types
    part: Literal["answers", "rationales", "both"] = "both"  # VCR: Q->A, QA->R
    limit: Positive | None = None  # the first N records a split
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    memory: bool | None = None  # keep decoded images; null decides by size
    weight: Annotated[float, Field(gt=0)] = 1.0
    mix: list[Mixed] = []


class Image(Section):
    """ViLT's preprocessing. size: shorter side in pixels, of a METER's images each side. long_side: of a clip_vil student's
    canvas; for the other students it follows from the image. augment: "flip" is for a student with an image network of its
    own. exif: the student sees images turned as their EXIF data says; by default as stored, which is how the published code of
    every family here reads them (Pillow's `open`), and how teachers of one modality do."""

    size: Side = 384
    long_side: Side = 640
    augment: Literal["none", "randaugment", "jitter", "flip"] = "none"
    shift: Annotated[int, Field(ge=0, le=2**14)] = 1  # jitter: pixels
    noise: NonNegative = 0.08  # jitter: standard deviation on the 0-1 pixel range
    exif: bool = False


class Text(Section):
    """max_length counts the special tokens. The vocabulary fields serve a student from scratch only."""

    max_length: Annotated[int, Field(ge=3, le=2**17)] = 40
    vocabulary_size: Annotated[int, Field(gt=0, le=10**7)] = 8000
    vocabulary_from: list[Place] = []  # data artifacts whose training text is read; this recipe's own when empty


class Sizes(Section):
    """Sizes of an encoder from scratch (ViLT-B/32 by default); a METER's two encoders and its co-attention have them each.
    image_size: pixels that the position table spans, which for a METER are those of `image.size`."""

    layers: Depth = 12
    width: Width = 768
    heads: Depth = 12
    feedforward: Width = 3072
    patch: Side = 32
    image_size: Side = 384

    @model_validator(mode="after")
    def _divisible(self) -> Sizes:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        return self


class Regions(Section):
    """Region features, of `vldistill prepare regions`, for students that see regions. most: regions of an image."""

    path: Place
    most: Annotated[int, Field(gt=0, le=10**5)] = 100


class Student(Section):
    """kind: "vilt", "meter" and "oscar" (fusion), "dual_encoder", "meter_dual" and "oscar_dual" (from these), "uniter" (VILLA
    too), "vlbert", "clip_vil"; the baselines "visualbert", "lxmert" and "pixelbert", and "clip_dual" (CLIP, SLIP, DeCLIP; without
    dropout); or, to be a teacher later, "text_encoder" or "vision_encoder". init: a run, a model folder or a hub name (a clip_vil
    or pixelbert student's may be a BERT of transformers, a clip_dual's a SLIP); null starts from scratch with `sizes`, or a
    clip_dual from `clip.model`. keep_head: take the head along too (same labels only). visual: whether a vlbert student reads the
    features of `regions`, or makes its own of the data's objects by `image_network` (VCR)."""

    kind: Literal["vilt", "dual_encoder", "meter", "meter_dual", "oscar", "oscar_dual", "clip_dual", "uniter", "vlbert",
                  "visualbert", "lxmert", "pixelbert", "clip_vil", "text_encoder", "vision_encoder"]
    init: Place | None = None
    sizes: Sizes = Sizes()
    dropout: Fraction = 0.1
    keep_head: bool = False
    clip: Clip = Clip()
    pixels: Pixels = Pixels()
    visual: Literal["regions", "end_to_end"] = "regions"
    image_network: ImageNetwork = ImageNetwork()

    @model_validator(mode="after")
    def _sees(self) -> Student:
        if self.visual == "end_to_end" and self.kind != "vlbert":
            raise ValueError(f"visual end_to_end is for a vlbert student; this one is {self.kind}")
        if self.visual == "regions" and self.image_network != ImageNetwork():
            raise ValueError("image_network needs visual=end_to_end")
        return self


OVER_REGIONS = ("uniter", "vlbert", "visualbert", "lxmert", "oscar", "oscar_dual")

AnswerLoss = Literal["bce", "softmax"]


class LabelsObjective(Section):
    """Ground-truth labels alone. answer_loss concerns VQA: binary cross-entropy for each answer, as ViLT, or one softmax
    over all answers."""

    kind: Literal["labels"]
    answer_loss: AnswerLoss = "bce"


class DideObjective(Section):
    """DiDE's distillation; the defaults are the paper's, the other values its ablations (Tables 6 and 7)."""

    kind: Literal["dide"]
    attention: Literal["cross", "uni", "whole", "none"] = "cross"
    hidden_states: bool = False
    soft_labels: bool = True
    layers: Literal["last", "top", "bottom", "all"] = "last"
    kl: Literal["forward", "reverse"] = "forward"  # forward: KL(teacher || student)
    answer_loss: AnswerLoss = "bce"  # VQA: what the teacher was trained with
    attention_weight: NonNegative = 1.0
    soft_label_weight: NonNegative = 1.0
    hidden_state_weight: NonNegative = 1.0
    hard_label_weight: NonNegative = 0.0

    @model_validator(mode="after")
    def _something(self) -> DideObjective:
        if self.attention == "none" and not (self.hidden_states or self.soft_labels or self.hard_label_weight):
            raise ValueError("nothing to learn: attention, hidden_states, soft_labels and hard_label_weight are all off")
        return self


class StudentLayers(Section):
    """Which of the student's layers is distilled, counted from 1; "half" for unimodal teachers, "last" for CLIP's and SLIP's
    (Table 9). text holds for words too."""

    vision: Literal["half", "last"] | Positive = "half"
    text: Literal["half", "last"] | Positive = "half"


class Start(Section):
    """Where the learned scalars start. vision (E) and text (F): null for 1 / sqrt(teacher's width)."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    vision: Annotated[float, Field(gt=0)] | None = None
    text: Annotated[float, Field(gt=0)] | None = None


class Anchor(Section):
    """What an anchored map is fitted on, without labels. data: an artifact; null for the run's own training inputs."""

    data: Place | None = None
    split: str = "train"
    records: Positive = 1500


class AdvlObjective(Section):
    """ADVL's distillation beside the task loss; Table 1's rows are its switches.

    words: how many selected words are compared, 0 for none. itm_fraction: share of all steps that step 1 (image-text matching)
    takes, 0 for one step only. map: from student to teacher features. weights: E, F and T. task: what stands for the task loss;
    null for the labels.
    """

    kind: Literal["advl"]
    vision: bool = True
    text: bool = True
    words: Annotated[int, Field(ge=0, le=32)] = 2
    confidence: bool = True
    itm_fraction: Fraction = 0.2
    itm_score: Literal["probability", "logit"] = "probability"
    itm_temperature: Annotated[float, Field(gt=0)] = 1.0
    layers: StudentLayers = StudentLayers()
    map: Literal["identity", "learned", "anchored"] = "learned"
    anchor: Anchor = Anchor()
    weights: Literal["learned", "fixed", "uncertainty"] = "learned"
    start: Start = Start()
    lr_multiplier: Annotated[float, Field(gt=0)] = 1.0  # of maps and scalars
    answer_loss: AnswerLoss = "bce"
    task: DideObjective | None = None

    @model_validator(mode="after")
    def _something(self) -> AdvlObjective:
        if not (self.vision or self.text or self.words):
            raise ValueError("nothing to distil: vision, text and words are all off")
        return self


class PretrainObjective(Section):
    """Pre-training on captions or text alone. tasks: cross-modal contrastive learning (a dual encoder's), masked language
    modelling, image-text matching. mask: share of the words that are hidden. temperature: where that of CMC starts.

    The defaults need no teacher. DiDE's distillation (Table 5) has attention: cross, soft_labels: true and hard_label_weight: 0;
    its fields are those of objective `dide`.
    """

    kind: Literal["pretrain"]
    tasks: Annotated[list[Literal["cmc", "mlm", "itm"]], Field(min_length=1)] = ["mlm", "itm"]
    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    attention: Literal["cross", "uni", "whole", "none"] = "none"
    layers: Literal["last", "top", "bottom", "all"] = "last"
    kl: Literal["forward", "reverse"] = "forward"
    soft_labels: bool = False
    attention_weight: NonNegative = 1.0
    soft_label_weight: NonNegative = 1.0
    hard_label_weight: NonNegative = 1.0

    @property
    def hidden_states(self) -> bool:
        return False

    @property
    def distils(self) -> bool:
        return self.attention != "none" or self.soft_labels

    @model_validator(mode="after")
    def _something(self) -> PretrainObjective:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks: each may stand there once")
        if "cmc" not in self.tasks and not (self.distils or self.hard_label_weight):
            raise ValueError("nothing to learn: attention, soft_labels and hard_label_weight are all off")
        if self.soft_labels and self.tasks == ["cmc"]:
            raise ValueError("soft_labels are of mlm and itm: CMC has none (DiDE, section 3.3.1)")
        return self


Objective = Annotated[LabelsObjective | DideObjective | AdvlObjective | PretrainObjective | RetrievalObjective,
                      Field(discriminator="kind")]


class Cache(Section):
    """Teacher features on disk: build what is missing, require them, or run the teacher live. versions: beside rows of which
    versions of the libraries that compute them new rows may stand; the last part of a version never matters."""

    path: Place = "artifacts/cache"
    mode: Literal["auto", "require", "live"] = "auto"
    versions: Literal["same", "any"] = "same"
    words: Annotated[int, Field(ge=1, le=32)] = 2  # vectors kept a text: any objective.words up to this can be trained


class Recipe(Section):
    """A whole run: `name` is the folder under `runs/`, the file's stem by default."""

    name: str = ""
    description: str = ""
    data: Data
    image: Image = Image()
    text: Text = Text()
    regions: Regions | None = None
    student: Student
    teacher: Teacher | None = None
    teachers: Teachers = Teachers()
    objective: Objective = LabelsObjective(kind="labels")
    optim: Optim = Optim()
    adversarial: Adversarial | None = None
    train: Train
    cache: Cache = Cache()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.name and not is_folder_name(self.name):
            raise ValueError(f"name {self.name!r} is not the name of a folder: use letters, digits, '-', '_', '.'")
        own = self.student.visual == "end_to_end"
        if self.student.kind in OVER_REGIONS and self.regions is None and not own:
            raise ValueError(f"a {self.student.kind} student needs `regions`")
        if own and self.regions is not None:
            raise ValueError("a student with visual=end_to_end makes its own features: leave out `regions`")
        if self.image.augment != "none" and own != (self.image.augment == "flip"):
            raise ValueError(f"image.augment={self.image.augment} does not go with student.visual={self.student.visual}")
        if self.image.exif and (self.student.kind in OVER_REGIONS or self.student.kind == "text_encoder"):
            raise ValueError(f"image.exif turns pixels, which a {self.student.kind} student does not see by themselves")
        if self.train.batch.tokens is not None and self.student.kind not in OVER_REGIONS:
            raise ValueError(f"train.batch.tokens is for students over regions; this one is {self.student.kind}")
        if self.adversarial is not None and self.student.kind != "uniter":
            raise ValueError(f"`adversarial` is VILLA's, for a uniter student; this one is {self.student.kind}")
        self._canvases()
        if self.student.kind == "clip_dual":
            self._clip_dual()
        if self.student.kind in ("visualbert", "lxmert", "pixelbert") and self.objective.kind != "labels":
            raise ValueError(f"a {self.student.kind} student is a baseline: it is trained by objective {{kind: labels}}")
        if self.student.kind == "text_encoder" and (self.objective.kind != "pretrain" or "itm" in self.objective.tasks):
            raise ValueError("a text_encoder student sees no images: it is trained by objective {kind: pretrain, tasks: [mlm]}")
        if self.student.kind == "vision_encoder" and self.objective.kind != "labels":
            raise ValueError("a vision_encoder student reads no text: it is trained by objective {kind: labels}")
        if self.objective.kind == "pretrain":
            self._pretraining(self.objective)
        elif self.data.mix or self.data.weight != 1:
            raise ValueError("data.mix and data.weight are for objective `pretrain`")
        if self.objective.kind == "dide":
            self._fusion_teacher(self.objective)
        if self.objective.kind == "retrieval":
            self.objective.check_student(self.student.kind, has_teacher=self.teacher is not None)
        if self.objective.kind == "advl":
            self._unimodal_teachers(self.objective)
        check_together(self.optim, self.train)
        if self.student.keep_head and self.student.init is None:
            raise ValueError("student.keep_head needs student.init")
        return self

    def _pretraining(self, objective: PretrainObjective) -> None:
        kind = self.student.kind
        if kind not in (*DUAL_ENCODERS.values(), *DUAL_ENCODERS, "text_encoder"):
            names = ", ".join((*DUAL_ENCODERS.values(), *DUAL_ENCODERS))
            raise ValueError(f"objective `pretrain` is for a {names} or text_encoder student; this one is {kind}")
        if "cmc" in objective.tasks and kind not in DUAL_ENCODERS:
            raise ValueError(f"objective.tasks: cmc is for a {' or '.join(DUAL_ENCODERS)} student; this one is {kind}")
        if objective.distils and kind == "text_encoder":
            raise ValueError("a text_encoder student has no fusion teacher: set objective.attention=none, soft_labels=false")
        if objective.distils and self.teacher is None:
            raise ValueError("objective.attention and objective.soft_labels need a `teacher`")
        if objective.distils:
            self._same_family()

    def _same_family(self) -> None:
        """A student is shown what its teacher is shown."""
        kind, teacher = self.student.kind, self.teacher.kind
        if teacher == "meter" and getattr(self.objective, "attention", None) in ("uni", "whole"):
            raise ValueError(f"objective.attention={self.objective.attention} has no meaning for METER, whose streams meet in "
                             "cross-attention alone: set objective.attention=cross or none")
        if teacher not in (kind, DUAL_ENCODERS.get(kind)):
            raise ValueError(f"a {kind} student does not see what a {teacher} teacher sees: set teacher.kind="
                             f"{DUAL_ENCODERS.get(kind, kind)}")

    def _canvases(self) -> None:
        kind, clip = self.student.kind, self.student.clip
        own, pixels = kind == "clip_vil", kind == "pixelbert"
        if kind == "clip_dual":
            clip = clip.model_copy(update={"model": None, "weights": None})  # which it may have, see `_clip_dual`
        if not own and (clip != Clip() or (self.image.long_side != Image().long_side and not pixels)):
            raise ValueError(f"student.clip and image.long_side are for a clip_vil student; this one is {kind}")
        if not pixels and self.student.pixels != Pixels():
            raise ValueError(f"student.pixels is for a pixelbert student; this one is {kind}")
        if (own or pixels) and self.image.augment != "none":
            raise ValueError(f"a {kind} student sees images as they are: image.augment must be none")
        if pixels and self.image.size > self.image.long_side:
            raise ValueError(f"image.size {self.image.size} is longer than image.long_side {self.image.long_side}")
        if own and self.student.init is None and clip.model is None:
            raise ValueError("a clip_vil student from scratch needs student.clip.model")

    def _clip_dual(self) -> None:
        if self.objective.kind not in ("labels", "retrieval"):
            raise ValueError("a clip_dual student is a baseline: it is trained by objective {kind: labels}, or retrieval")
        if self.student.dropout:
            raise ValueError("CLIP has no dropout: a clip_dual student needs student.dropout=0.0")
        if self.student.init is not None and self.student.clip.model is not None:
            raise ValueError("student.init brings its own CLIP: leave out student.clip, or student.init")

    def _fusion_teacher(self, objective: DideObjective) -> None:
        fitting = dict.fromkeys((*DUAL_ENCODERS.values(), *DUAL_ENCODERS))
        if self.student.kind not in fitting:
            raise ValueError("objective `dide` needs a student that sees its teacher's patches: one of "
                             f"{', '.join(fitting)}, not {self.student.kind}")
        needs = objective.attention != "none" or objective.hidden_states or objective.soft_labels
        if needs and self.teacher is None:
            raise ValueError("objective `dide` needs a `teacher`")
        if needs:
            self._same_family()

    def _unimodal_teachers(self, objective: AdvlObjective) -> None:
        if objective.task is not None:
            self._fusion_teacher(objective.task)
        if objective.vision and self.teachers.vision is None:
            raise ValueError("objective.vision needs `teachers.vision`")
        if (objective.text or objective.words) and self.teachers.text is None:
            raise ValueError("objective.text and objective.words need `teachers.text`")
        if objective.words > self.cache.words and self.cache.mode != "live":
            raise ValueError(f"objective.words is {objective.words}, the cache keeps {self.cache.words}: set cache.words")
