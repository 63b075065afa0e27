"""Sentences in many scripts with all that stands between words: prices, times, quotes, runs of marks and of spaces, accents in
one code point and in two, joiners, emoji."""

from __future__ import annotations

import unicodedata

import numpy as np

WORDS = {
    "latin": "a man isn't walking dogs café naïve résumé Ångström it's well-known 3rd MP3 O'Neil’s co\u00adoperate U.S. e.g. "
    "œuvre schÃ¶n R&amp;D &lt;b&gt; İstanbul",
    "vietnamese": "một người đàn ông đang đứng trước ngôi nhà màu đỏ",
    "cyrillic": "Мужчина читает книгу возле большого дома ёлка объём И́горь",
    "greek": "Ένας άντρας διαβάζει ΣΊΣΥΦΟΣ βιβλίο κοντά στο σπίτι",
    "arabic": "رجلٌ يقرأ كتابًا قرب البيت الكبيرِ مُحَمَّد",
    "persian": "می‌خواهم کتاب‌ها خانه‌ای نمی‌دانم پرنده",
    "hebrew": "אִישׁ קורא סֵפֶר ליד הבית הגדול",
    "devanagari": "क्या वर्ग लाल है कुत्ता दौड़ रहा क्षत्रिय स्त्री",
    "bengali": "একটি কুকুর দৌড়াচ্ছে বাড়ির সামনে",
    "tamil": "ஒரு நாய் ஓடுகிறது வீட்டின் முன்",
    "thai": "ผู้ชายกำลังอ่านหนังสือ ใกล้บ้าน สุนัขวิ่ง เป็นสีแดง",
    "chinese": "一个男人正在读书 两只狗 红色的圆圈 在房子前面",
    "japanese": "男性が本を読んでいます 犬が走っている パーティー が",
    "korean": "남자가 책을 읽고 있다 개가 달린다 빨간색",
    "emoji": "👩‍💻 ❤️ 1️⃣ 🇩🇪 👍🏽 ok 🐶🐶 ½ ² ﬁne ™",
}
BETWEEN = [" "] * 12 + [
    ", ",
    "; ",
    " - ",
    " — ",
    "... ",
    "  ",
    "\t",
    " \n",
    "/",
    " & ",
    " (",
    ") ",
    ' "',
    '" ',
    " “",
    "” ",
    "..",
    "\u00a0",
]
TOLD = [
    "3:45",
    "12:30",
    "$5.99",
    "€5",
    "5€",
    "£1,234.50",
    "100%",
    "#1",
    "@home",
    "2020-01-31",
    "a/b",
    "50°C",
    "x²",
    "C++",
    "'tis",
    "!!!",
]
ENDS = ["", ".", "?", "!", "...", " !!!", "?!", " ", '."', "。", "।", "؟"]


def sentences(each: int, seed: int = 0) -> list[str]:
    """`each` of every script, some of them decomposed, always alike."""
    rng = np.random.default_rng(seed)
    found = []
    for words in WORDS.values():
        known = [*words.split(" "), *TOLD]
        share = np.array([1.0] * (len(known) - len(TOLD)) + [0.3] * len(TOLD))
        for _ in range(each):
            chosen = rng.choice(len(known), size=rng.integers(1, 12), p=share / share.sum())
            gaps = rng.integers(len(BETWEEN), size=len(chosen))
            text = "".join(known[word] + BETWEEN[gap] for word, gap in zip(chosen, gaps, strict=True)).strip(" \t\n")
            text += ENDS[rng.integers(len(ENDS))]
            found.append(unicodedata.normalize("NFD", text) if rng.random() < 0.3 else text)
    return found
