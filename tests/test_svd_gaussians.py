"""The paper's two-dimensional demonstration: four Gaussians, a small MLP with BatchNorm."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from bandstop.edit.accuracy import forget_and_retain, logits
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import fold
from bandstop.edit.images import DataSplits, ImageSet, Preprocess
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import PAPER
from bandstop.edit.unlearn import unlearn

CENTRES = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
SPAN = 8.0  # the plane from -4 to 4 is stored as pictures of 1x2 pixels
NAMES = ("south west", "north west", "south east", "north east")


def points(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat(count)
    plane = CENTRES[labels] + 0.5 * torch.randn(len(labels), 2, generator=generator)
    pixels = ((plane / SPAN + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    return ImageSet(pixels[:, None, None, :], torch.arange(len(labels)), labels)


def network(images: ImageSet) -> Classifier:
    """Train the MLP 2-5-5-5-5-4 of the paper on `images`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in (2, 5, 5, 5):
            layers += [nn.Linear(inputs, 5), nn.BatchNorm1d(5), nn.ReLU()]
        mlp = nn.Sequential(*layers, nn.Linear(5, 4))
    prep = Preprocess((1, 2), 1, (0.5,), (1 / SPAN,))
    model = Classifier(mlp, Arch("test:mlp"), prep, NAMES)
    model.train()
    optimizer = torch.optim.Adam(model.network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        for image, label in images.batches(200, generator):
            loss = nn.functional.cross_entropy(model(image), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def measured(model: Classifier, test: ImageSet) -> tuple[float, float]:
    answers: Tensor = logits(model, test, batch=10_000).argmax(1)
    return forget_and_retain(answers, test.labels, [0])


def test_one_gaussian_is_forgotten_and_the_others_stay_near_a_retrained_network() -> None:
    train, validate, test = points(2500, 1), points(500, 2), points(2500, 3)
    data = DataSplits(train, validate, test, NAMES, Preprocess((1, 2), 1, (0.5,), (1 / SPAN,)))
    base = network(train)
    assert measured(base, test)[0] >= 0.9
    alphas = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
    setting = replace(PAPER, alpha_r=alphas, alpha_f=alphas, retain_images=3000)
    folded, edit = unlearn(base, setting, ForgetRequest((0,)), data)
    folded.network.load_state_dict(fold(folded.network.state_dict(), edit))
    forget, retain = measured(folded, test)
    _, retrained = measured(network(train.without_classes([0])), test)
    assert forget <= 0.05
    assert retain >= retrained - 0.05
