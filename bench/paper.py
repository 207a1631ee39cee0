"""The matrix: every table is declared here and nowhere else."""

from mixbench.bench.spec import names
from mixbench.bench.tables import Table

METHODS = tuple(sorted(names("mixbench.methods"), key=lambda name: (name != "baseline", name)))
TASKS = tuple(sorted(names("mixbench.tasks"), key=lambda name: (name != "classification", name)))

TABLES = {
    table.name: table
    for table in (
        Table(
            name="quickstart",
            caption="All methods and all tasks on scikit-learn's digits.",
            settings=("digits/small",),
            methods=METHODS,
            columns=TASKS,
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
            caption="All methods and all tasks on CIFAR-100, by the recipe of the papers' Table 2.",
            settings=("cifar100/preactresnet18",),
            methods=METHODS,
            columns=TASKS,
            seeds=5,
        ),
    )
}
