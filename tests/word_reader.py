"""A tiny model whose tokenizer reads words, and stimulus files for it."""

from conftest import build
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPEECH = "the cat saw the dog and the dog saw a cat or a dog"
VOCABULARY = ["<s>", "</s>", "<mask>", *dict.fromkeys(SPEECH.split())]
COMMIT = "0123456789" * 4


def words_model(folder, *, mask=True):
    """A tiny model with a context of 64 whose tokenizer reads words, between <s> and </s>."""
    build(folder, "llama", vocab_size=len(VOCABULARY))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, "<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    named = {"bos_token": "<s>", "eos_token": "</s>"} | ({"mask_token": "<mask>"} if mask else {})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return folder


def save(folder, text, name="mine"):
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    return file
