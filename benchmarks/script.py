"""All that the notebook does on MNIST, as one script: train, test, draw, save.

python benchmarks/script.py FOLDER
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from side import notebook


def grid(pictures, titles, columns, path):
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns, 1.3 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, title in zip(axes.flat, pictures, titles, strict=False):
        ax.imshow(picture, cmap="gray")
        ax.set_title(title, fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def main():
    folder = Path(sys.argv[1])
    model, test, found = notebook("mnist", 5, 0)
    some = [test[number] for number in range(20)]
    images = torch.stack([image for image, _ in some])
    grid([image[0] for image, _ in some], [str(label) for _, label in some], 5, folder / "data.png")
    first, second = model.layer1[0].weight.detach(), model.layer2[0].weight.detach()
    grid(list(first[:, 0]), [""] * 16, 8, folder / "layer1.png")
    grid(list(second[:, 0]), [""] * 32, 8, folder / "layer2.png")
    with torch.no_grad():
        guesses = model(images).argmax(1).tolist()
    grid([image[0] for image, _ in some], [f"is {k}, said {g}" for (_, k), g in
         zip(some, guesses, strict=True)], 5, folder / "predictions.png")  # fmt: skip
    torch.save(model.state_dict(), folder / "cnn_trained.ckpt")
    print(f"test accuracy {found['accuracy']:.2%}")


if __name__ == "__main__":
    main()
