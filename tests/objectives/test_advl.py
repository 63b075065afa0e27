"""ADVL's losses against values worked out by hand, and their composition: one weight a record, maps on the student's side."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vldistill.data.batch import Batch, RecordSource, TextBatch
from vldistill.models.base.outputs import Output, PairStates, TeacherOutput
from vldistill.objectives.advl import FADED, Advl, Distances, Pathway, Scalars, confidence, distillation_weight, make_map
from vldistill.objectives.base import HardLabels
from vldistill.objectives.contrastive import itm_info_nce, mismatched
from vldistill.objectives.feature import masked_mean, unit_l1, word_features
from vldistill.objectives.matching import AdvlMatching

# --- the parts, by hand ---------------------------------------------------------------------------------------------------


def test_unit_l1_by_hand():
    student, teacher = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert unit_l1(student, teacher).tolist() == pytest.approx([0.4 + 0.8, 0.0])
    assert unit_l1(10 * student, teacher / 7).tolist() == pytest.approx([1.2, 0.0])  # only directions count


def test_unit_l1_of_a_zero_vector_is_finite_with_its_gradient():
    student = torch.zeros(1, 4, requires_grad=True)
    unit_l1(student, torch.ones(1, 4)).sum().backward()
    assert torch.isfinite(student.grad).all()


def test_masked_mean_leaves_out_padding():
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    assert masked_mean(states, torch.tensor([[True, True, False]])).tolist() == [[2.0, 3.0]]
    assert masked_mean(states, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0]]
    states[0, 2] = float("nan")  # whatever stands in a padded row
    assert masked_mean(states, torch.tensor([[True, True, False]])).tolist() == [[2.0, 3.0]]


def test_a_words_feature_is_the_mean_of_its_tokens():
    states = torch.tensor([[[9.0], [1.0], [3.0], [5.0], [9.0]]])
    words = torch.tensor([[-1, 0, 0, 2, -1]])
    features, valid = word_features(states, words, torch.tensor([[2, 0, 1, -1]]))
    assert features[0, :, 0].tolist() == [5.0, 2.0, 0.0, 0.0] and valid.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    "sure, reference, temperature, weight",
    [
        (0.5, 0.5, 1.0, 0.5),
        (0.25, 0.5, 1.0, 1 / (1 + math.exp(-1))),
        (1.0, 0.5, 1.0, 1 / (1 + math.exp(0.5))),
        (0.8, 0.2, 1.0, 1 / (1 + math.exp(0.375))),  # C_avg under the floor of 0.5
        (0.8, 0.8, 2.0, 0.25),
        (0.6, 0.9, 0.5, 2 / (1 + math.exp(-0.5))),
    ],
)
def test_the_weight_of_equation_2_by_hand(sure, reference, temperature, weight):
    given = distillation_weight(torch.tensor([sure]), torch.tensor(reference), torch.tensor(temperature))
    assert float(given) == pytest.approx(weight, rel=1e-6)
    assert float(distillation_weight(torch.tensor([sure]), reference, temperature)) == pytest.approx(weight, rel=1e-6)


def test_confidence_is_the_largest_probability_and_carries_no_gradient():
    logits = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0]], requires_grad=True)
    assert confidence(logits).tolist() == pytest.approx([0.75, 0.5]) and not confidence(logits).requires_grad


def test_info_nce_lies_between_its_bounds():
    assert float(itm_info_nce(torch.tensor([[1.0, 0.0, 0.0]]))) == pytest.approx(math.log(1 + 2 / math.e))
    assert float(itm_info_nce(torch.tensor([[0.0, 1.0, 1.0]]))) == pytest.approx(math.log(1 + 2 * math.e))
    assert float(itm_info_nce(torch.tensor([[0.3, 0.3, 0.3], [1.0, 0.0, 0.0]]))) == pytest.approx(
        (math.log(3) + math.log(1 + 2 / math.e)) / 2
    )


def test_a_mismatch_is_never_the_same_and_uniform_among_the_others():
    same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    counts = torch.zeros(4, 4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        rows = mismatched(same, generator)
        counts[torch.arange(4), rows] += 1
    assert (counts[same] == 0).all()
    assert torch.allclose(counts / 3000, (~same).float() / (~same).sum(1, keepdim=True), atol=0.04)
    assert mismatched(torch.ones(2, 2, dtype=torch.bool)).tolist() == [-1, -1]


# --- the learned scalars ----------------------------------------------------------------------------------------------------


def test_scalars_start_where_told_and_stay_positive():
    scalars = Scalars(temperature=1.0, vision=0.03, text=2.0)
    assert {n: round(float(v.detach()), 5) for n, v in scalars.values().items()} == {"T": 1.0, "E": 0.03, "F": 2.0}
    with torch.no_grad():
        scalars.raw -= 50
    assert all(float(value.detach()) > 0 for value in scalars.values().values())


def test_fixed_scalars_take_no_gradient_and_uncertainty_pulls_them_up():
    assert not Scalars(mode="fixed").raw.requires_grad
    assert Scalars(mode="learned").regulariser("EF", over_temperature=True) == {}
    assert Scalars(mode="uncertainty").regulariser("", over_temperature=True) == {}
    scalars = Scalars(vision=0.5, text=0.25, mode="uncertainty")
    term = scalars.regulariser("EF", over_temperature=False)["uncertainty"]
    assert float(term.detach()) == pytest.approx(-math.log(0.5) - math.log(0.25), rel=1e-6)
    term.backward()
    assert scalars.raw.grad[0] == 0 and (scalars.raw.grad[1:] < 0).all()  # descent raises E and F


@pytest.mark.parametrize("confident", [False, True])
def test_uncertainty_settles_where_weight_times_distance_is_one(confident):
    """The weight of a distance of 4 becomes 1/4, E itself or E / T; T does not run away."""
    scalars = Scalars(vision=1.0, mode="uncertainty")
    optimizer = torch.optim.Adam(scalars.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        values = scalars.values()
        weight = values["E"] / values["T"] if confident else values["E"]
        (4.0 * weight + scalars.regulariser("E", over_temperature=confident)["uncertainty"]).backward()
        optimizer.step()
    assert float(weight.detach()) == pytest.approx(0.25, abs=0.01)
    assert 0.5 < float(values["T"].detach()) < 3


def test_a_weight_that_has_faded_is_told_once_it_is_under_a_twentieth():
    scalars = Scalars(vision=1.0, text=1.0)

    def set_to(value: float) -> None:
        with torch.no_grad():
            scalars.raw[1] = math.log(math.expm1(value))

    set_to(FADED * 1.01)
    assert scalars.faded("EF") == []
    set_to(FADED * 0.99)
    assert [text.split()[0] for text in scalars.faded("EF")] == ["E/T"] and scalars.faded("F") == []


# --- composition ------------------------------------------------------------------------------------------------------------

D, T, V, CHOICES = 2, 3, 4, 2


def world(records: int, choices: int = 1, *, images: int = 1, seed: int = 0):
    """A student's output, its teachers' features and the batch, random but for the logits."""
    draw = torch.Generator().manual_seed(seed)
    rows = records * choices

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    views = [
        PairStates(
            torch.ones(rows, T).bool(),
            torch.ones(rows, V).bool(),
            torch.tensor([[False, True, True, True]] * rows),
            {},
            {1: (random(rows, T, D), random(rows, V, D)), 2: (random(rows, T, D), random(rows, V, D))},
        )
        for _ in range(images)
    ]
    text = TextBatch(torch.zeros(rows, T).long(), torch.ones(rows, T).bool(), torch.tensor([[-1, 0, 1]] * rows))
    sources = [
        RecordSource((f"{row}.jpg",) * images, tuple(((f"text {row} {choice}",),) for choice in range(choices)))
        for row in range(records)
    ]
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.5]])[:records] if choices == 1 else random(records, choices)
    batch = Batch([str(row) for row in range(records)], text, [], torch.arange(records) % 2, sources)
    vision = [random(records, D) for _ in range(images)]
    return (
        Output(logits, views),
        TeacherOutput(vision, random(rows, D), torch.tensor([[1, -1]] * rows), random(rows, 2, D)),
        batch,
    )


def advl(*, layer: int = 1, confident: bool = True, names=("vision", "text", "words"), **scalars) -> Advl:
    paths = {name: Pathway(layer, D) if name in names else None for name in ("vision", "text", "words")}
    return Advl(HardLabels("label"), Distances(width=D, map="identity", **paths), Scalars(**scalars), confident=confident)


def test_the_loss_is_equation_5_with_the_weight_applied_once():
    output, taught, batch = world(3)
    objective = advl(temperature=0.7, vision=0.3, text=0.2)
    objective.after_validation({"confidence_when_right": 0.8})
    terms = objective(output, taught, batch)
    text, image = output.views[0].hidden[1]
    own = {"vision": image[:, 1:].mean(1), "text": text[:, 0], "words": text[:, 2]}  # word 1 is token 2
    other = {"vision": taught.vision[0], "text": taught.text, "words": taught.words[:, 0]}
    sure = output.logits.softmax(-1).amax(-1)
    weight = torch.sigmoid(0.8 / sure - 1) / 0.7
    for name, factor in (("vision", 0.3), ("text", 0.2), ("words", 0.2)):
        ones = [v / v.norm(dim=-1, keepdim=True) for v in (own[name], other[name])]
        expected = (weight * factor * (ones[0] - ones[1]).abs().sum(-1)).mean()
        assert float(terms[name].detach()) == pytest.approx(float(expected), rel=1e-5)
    assert set(terms) == {"task", "vision", "text", "words"}
    assert float(terms["task"]) == pytest.approx(float(torch.nn.functional.cross_entropy(output.logits, batch.target)), rel=1e-6)
    assert float(objective.logs["w"]) == pytest.approx(float(weight.mean()), rel=1e-5)
    assert {"C", "C_avg", "T", "E", "F", "distance/vision", "distance/text", "distance/words"} <= set(objective.logs)


def test_a_word_that_the_teacher_has_no_feature_of_is_not_compared():
    """The second word of the first record was cut off by the teacher: its loss is that of the other word alone."""
    output, taught, batch = world(2)
    index = torch.tensor([[0, 1]] * 2)
    both = replace(taught, word_index=index)
    words = taught.words.clone()
    words[0, 1] = 0
    cut = replace(taught, word_index=index, words=words)
    objective = advl(names=("words",), confident=False, text=1.0)
    found = {name: objective.distances(output, one, batch)["words"] for name, one in (("both", both), ("cut", cut))}
    text = output.views[0].hidden[1][0]
    one = [v / v.norm() for v in (text[0, 1], taught.words[0, 0])]
    assert float(found["cut"][0].detach()) == pytest.approx(float((one[0] - one[1]).abs().sum()), rel=1e-5)
    assert float(found["cut"][1].detach()) == float(found["both"][1].detach())
    zero = replace(taught, word_index=index, words=torch.zeros_like(words))
    states = text.clone().requires_grad_()
    view = replace(output.views[0], hidden={1: (states, output.views[0].hidden[1][1])})
    none = objective.distances(replace(output, views=[view]), zero, batch)["words"]
    none.sum().backward()
    assert none.tolist() == [0.0, 0.0] and not states.grad.any()


def test_without_confidence_the_weight_is_one_and_switches_take_terms_away():
    output, taught, batch = world(2)
    for names in (("vision",), ("text",), ("vision", "text"), ("words",)):
        terms = advl(names=names, confident=False, vision=1.0, text=1.0)(output, taught, batch)
        assert set(terms) == {"task", *names}
        full = advl(confident=False, vision=1.0, text=1.0)(output, taught, batch)
        assert all(torch.equal(terms[name], full[name]) for name in names)


def test_choices_are_averaged_and_share_their_records_weight():
    output, taught, batch = world(2, CHOICES)
    assert batch.choices == CHOICES
    objective = advl(confident=False, vision=1.0, text=1.0)
    terms = objective(output, taught, batch)
    text, image = output.views[0].hidden[1]
    vision = unit_l1(image[:, 1:].mean(1), taught.vision[0].repeat_interleave(CHOICES, 0))
    assert float(terms["vision"]) == pytest.approx(float(vision.mean()), rel=1e-5)
    assert float(terms["text"]) == pytest.approx(float(unit_l1(text[:, 0], taught.text).mean()), rel=1e-5)


def test_two_images_sum_their_distances_and_share_one_text():
    output, taught, batch = world(2, images=2)
    objective = advl(confident=False, vision=1.0, text=1.0)
    terms = objective(output, taught, batch)
    pairs = zip(output.views, taught.vision, strict=True)
    each = [unit_l1(view.hidden[1][1][:, 1:].mean(1), other).mean() for view, other in pairs]
    assert float(terms["vision"]) == pytest.approx(float(each[0] + each[1]), rel=1e-5)
    assert float(terms["text"]) == pytest.approx(float(unit_l1(output.views[0].hidden[1][0][:, 0], taught.text).mean()), rel=1e-5)


def test_the_layer_is_the_students_own_choice():
    output, taught, batch = world(2)
    first, second = (advl(layer=layer)(output, taught, batch)["text"] for layer in (1, 2))
    assert float(first) != float(second) and advl(layer=2).student_capture.hidden == (2,)


def test_the_maps_lead_from_the_student_and_teachers_take_no_gradient():
    with pytest.raises(ValueError, match="equal widths"):
        make_map("identity", 4, 6)
    assert make_map("learned", 4, 6).weight.shape == (6, 4)
    output, taught, batch = world(2)
    objective = Advl(
        HardLabels("label"),
        Distances(width=D, map="learned", vision=Pathway(1, D), text=Pathway(1, D), words=None),
        Scalars(),
        confident=True,
    )
    states = output.views[0].hidden[1]
    for value in (*states, taught.vision[0], taught.text):
        value.requires_grad_()
    torch.stack(list(objective(output, taught, batch).values())).sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in states)
    assert all(parameter.grad is not None for parameter in objective.parameters())
    # The teacher's features are only compared with; nothing of a frozen network hangs on them, so whoever makes them detaches.


def test_only_the_temperature_is_reached_through_the_weight():
    output, taught, batch = world(3)
    logits = output.logits.clone().requires_grad_()
    objective = advl(vision=0.3, text=0.2)
    terms = objective(Output(logits, output.views), taught, batch)
    (terms["vision"] + terms["text"] + terms["words"]).backward()
    assert logits.grad is None and (objective.scalars.raw.grad != 0).all()


def test_half_precision_features_give_a_finite_loss_in_full():
    output, taught, batch = world(2)
    half = TeacherOutput([v.half() for v in taught.vision], taught.text.half(), taught.word_index, taught.words.half())
    terms = advl()(output, half, batch)
    exact = advl()(output, taught, batch)
    for name, value in terms.items():
        assert value.dtype == torch.float32 and float(value) == pytest.approx(float(exact[name]), abs=2e-3)


# --- step 1 -----------------------------------------------------------------------------------------------------------------


def arranged_world(records: int = 4):
    output, taught, batch = world(records)
    images = [torch.arange(records).float()]

    class Rows:
        """Stands for an image batch: remembers which rows were asked for."""

        def __init__(self, values):
            self.values = values

        def __getitem__(self, rows):
            return Rows(self.values[rows])

    batch = Batch(
        batch.ids,
        TextBatch(torch.arange(records)[:, None].repeat(1, T), batch.text.mask, batch.text.words),
        [Rows(images[0])],
        None,
        batch.sources,
    )
    return output, taught, batch


def test_each_pair_stands_beside_another_text_and_another_image():
    _, _, batch = arranged_world()
    objective = AdvlMatching(advl(), width=D, depth=2)
    torch.manual_seed(3)
    arranged = objective.prepare_batch(batch)
    texts, images = arranged.text.ids[:, 0].view(3, 4), arranged.images[0].values.view(3, 4).long()
    own = torch.arange(4)
    assert torch.equal(texts[0], own) and torch.equal(images[0], own)  # the pairs themselves
    assert torch.equal(images[1], own) and (texts[1] != own).all()
    assert torch.equal(texts[2], own) and (images[2] != own).all()
    for row, source in enumerate(arranged.sources):
        assert source.images == (f"{int(images.flatten()[row])}.jpg",)
        assert source.sentences == (((f"text {int(texts.flatten()[row])} 0",),),)


def test_pairs_without_a_true_mismatch_are_left_out_of_the_loss():
    _, _, batch = arranged_world()
    same = [
        RecordSource(("a.jpg",), ((("one",),),)),
        RecordSource(("a.jpg",), ((("two",),),)),
        RecordSource(("a.jpg",), ((("three",),),)),
        RecordSource(("b.jpg",), ((("four",),),)),
    ]
    objective = AdvlMatching(advl(), width=D, depth=2)
    arranged = objective.prepare_batch(Batch(batch.ids, batch.text, batch.images, None, same))
    assert arranged.text.ids[4:8, 0].tolist()[:3] == [3, 3, 3]  # the only text of another image
    lonely = [RecordSource(("a.jpg",), ((("one",),),))] * 4
    arranged = objective.prepare_batch(Batch(batch.ids, batch.text, batch.images, None, lonely))
    output = world(3)[0]
    triple = Output(
        torch.zeros(12, 2),
        [
            PairStates(
                *(part.repeat(4, 1) for part in (v.text_mask, v.image_mask, v.visual)),
                {},
                {n: (a.repeat(4, 1, 1), b.repeat(4, 1, 1)) for n, (a, b) in v.hidden.items()},
            )
            for v in output.views
        ],
    )
    scores, valid = objective.ranked(triple, arranged)
    assert scores.shape == (4, 3) and not valid.any()
    terms = objective(triple, world(4)[1], arranged)
    assert float(terms["itm"]) == 0.0


@pytest.mark.parametrize("score, temperature", [("probability", 1.0), ("logit", 0.5)])
def test_step_1_ranks_the_pair_and_distils_it_alone(score, temperature):
    output, taught, batch = arranged_world()
    objective = AdvlMatching(advl(temperature=1.0, vision=0.3, text=0.2), width=D, depth=2, score=score, temperature=temperature)
    arranged = objective.prepare_batch(batch)
    view = output.views[0]
    draw = torch.Generator().manual_seed(9)
    hidden = {
        layer: tuple(torch.cat([part, torch.randn(8, *part.shape[1:], generator=draw)]) for part in states)
        for layer, states in view.hidden.items()
    }
    whole = PairStates(*(part[:1].repeat(12, 1) for part in (view.text_mask, view.image_mask, view.visual)), {}, hidden)
    terms = objective(Output(torch.zeros(12, 2), [whole]), taught, arranged)
    text, image = hidden[2]
    joint = torch.cat([image[:, 1:].mean(1), text[:, 0]], -1)
    logits = objective.head.layers(joint)[:, 0].view(3, 4).T
    scores = (logits.sigmoid() if score == "probability" else logits) / temperature
    assert float(terms["itm"]) == pytest.approx(float(-scores.log_softmax(-1)[:, 0].mean()), rel=1e-5)
    sure = scores.softmax(-1).amax(-1)
    weight = torch.sigmoid(0.5 / sure - 1)
    expected = weight * 0.2 * unit_l1(hidden[1][0][:4, 0], taught.text)
    assert float(terms["text"]) == pytest.approx(float(expected.mean()), rel=1e-5)
    objective.after_validation({"confidence_when_right": 0.9})
    assert float(objective.reference) == pytest.approx(0.9) and float(objective.advl.reference) == 0.5  # a scale of its own
