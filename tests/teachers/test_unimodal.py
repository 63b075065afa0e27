"""Live teachers as the loop asks them: each image and each text of a batch is encoded once."""

from __future__ import annotations

import torch
from PIL import Image

from vldistill.data.batch import Batch, RecordSource, TextBatch
from vldistill.models.base.outputs import NOTHING
from vldistill.teachers.encoders import TextFeatures
from vldistill.teachers.unimodal import LiveFeatures, UnimodalTeachers
from vldistill.teachers.words import Relevance

ONE, TWO = (("a", "red", "dog"),), (("two", "boats"), ("cross", "it"))


class Text:
    """Gives each text the length of its words, and remembers what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, sentences):
        self.calls.append(list(sentences))
        lengths = [[float(len(word)) for part in sentence for word in part] for sentence in sentences]
        return TextFeatures(torch.tensor([[sum(own)] for own in lengths]), [torch.tensor(own)[:, None] for own in lengths])


class Vision(Text):
    def __call__(self, images):
        self.calls.append(len(images))
        return torch.tensor([[float(image.width)] for image in images])


class Pictures:
    def open(self, path):
        return Image.new("RGB", (len(path), 3))


def batch(*sources: RecordSource) -> Batch:
    ids = [str(row) for row in range(len(sources))]
    return Batch(ids, TextBatch(torch.zeros(len(ids), 2), torch.ones(len(ids), 2)), [], None, list(sources))


def test_each_image_and_text_of_a_batch_is_encoded_once():
    text, vision = Text(), Vision()
    teachers = UnimodalTeachers(LiveFeatures(vision, text, Relevance(None), Pictures()), True, True, 2)
    taught = teachers(
        batch(RecordSource(("a.jpg",), (ONE,)), RecordSource(("bcd.jpg",), (TWO,)), RecordSource(("a.jpg",), (ONE,))), NOTHING
    )
    assert text.calls == [[ONE, TWO]] and vision.calls == [2]
    assert taught.text.tolist() == [[7.0], [15.0], [7.0]] and taught.vision[0].tolist() == [[5.0], [7.0], [5.0]]
    own = [[float(len(word)) for part in sentence for word in part] for sentence in (ONE, TWO, ONE)]
    for row, lengths in enumerate(own):
        assert [lengths[place] for place in taught.word_index[row]] == taught.words[row, :, 0].tolist()
    # Other texts are read anew.
    teachers(batch(RecordSource(("a.jpg",), (TWO,))), NOTHING)
    assert text.calls == [[ONE, TWO], [TWO]]
