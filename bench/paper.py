"""The matrix: every table is declared here and nowhere else."""

from mixbench.bench.spec import names
from mixbench.bench.tables import Table

METHODS = tuple(sorted(names("mixbench.methods"), key=lambda name: (name != "baseline", name)))
TASKS = tuple(sorted(names("mixbench.tasks"), key=lambda name: (name != "classification", name)))

DIGITS = {
    "intrusion": "intrusion,batches=20",
    "ood": "ood,sets=photographs+uniform+gaussian",
    "variance": "variance,batches=25",
}
CIFAR100 = {"corruption": "corruption,source=published"}
"""What tasks look at, where it is not what they look at by default."""

WITH_HOLDOUT = {"temperature"}
"""Tasks that ask for training images that were held out, as the papers' recipes do not."""

TABLES = {
    table.name: table
    for table in (
        Table(
            name="quickstart",
            caption="All methods and all tasks on scikit-learn's digits.",
            settings=("digits/small",),
            methods=METHODS,
            columns=tuple(DIGITS.get(task, task) for task in TASKS),
        ),
        Table(
            name="quickstart-vit",
            caption="Methods for vision transformers, with a small one, on scikit-learn's digits.",
            settings=("digits/smallvit",),
            methods=("baseline", "mixup", "cutmix", "transmix", "tokenmix"),
            columns=("classification", "calibration"),
        ),
        Table(
            name="cifar100",
            caption="All methods and tasks on CIFAR-100, by the recipe of the papers' Table 2.",
            settings=("cifar100/preactresnet18",),
            methods=METHODS,
            columns=tuple(CIFAR100.get(t, t) for t in TASKS if t not in WITH_HOLDOUT),
            seeds=5,
        ),
    )
}
