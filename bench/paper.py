"""The matrix: every table is declared here and nowhere else."""

from mixbench.bench.spec import names
from mixbench.bench.tables import Table

APART = {"detection"}
"""Tasks with tables of their own, as they are asked of other networks than the rest."""

METHODS = tuple(sorted(names("mixbench.methods"), key=lambda name: (name != "baseline", name)))
TASKS = tuple(
    sorted({*names("mixbench.tasks")} - APART, key=lambda name: (name != "classification", name))
)

DIGITS = {
    "intrusion": "intrusion,batches=20",
    "ood": "ood,sets=photographs+uniform+gaussian",
    "variance": "variance,batches=25",
}
CIFAR100 = {"corruption": "corruption,source=published"}
"""What tasks look at, where it is not what they look at by default."""

TABLE5 = ("baseline", "mixup", "cutmix", "alignmixup", "multimix", "densemultimix")
"""The methods whose transfer to detection the paper reports."""

SMALL_FASTER_RCNN = "detector=faster-rcnn,size=128,rois=32"

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
            name="quickstart-eps",
            caption="Error under PGD by the attacker's radius, on scikit-learn's digits.",
            settings=("digits/small",),
            methods=(
                "baseline",
                "mixup",
                "cutmix",
                "manifold",
                "alignmixup",
                "puzzlemix",
                "multimix",
            ),
            columns=tuple(f"robustness,attacks=pgd,eps={eps}" for eps in (0.01, 0.02, 0.04, 0.08)),
        ),
        Table(
            name="quickstart-n",
            caption="MultiMix by how many mixtures it draws, on scikit-learn's digits.",
            settings=("digits/small",),
            methods=(
                "baseline",
                *(
                    f"{m}{n}"
                    for m in ("multimix", "densemultimix")
                    for n in (",n=10", ",n=100", "")
                ),
            ),
            columns=("classification", "calibration"),
        ),
        Table(
            name="cifar100-tiny",
            caption="Twenty classes of CIFAR-100 with 100 training images each, and a network that one "
            "core trains in about a minute.",
            settings=("tinycifar100/preactresnet18-narrow",),
            methods=METHODS,
            columns=(
                "classification",
                "calibration",
                "robustness",
                "embedding",
                "ood,sets=photographs+uniform+gaussian",
                "cost",
            ),
        ),
        Table(
            name="cifar100",
            caption="All methods and tasks on CIFAR-100, by the recipe of the papers' Table 2.",
            settings=("cifar100/preactresnet18",),
            methods=METHODS,
            columns=tuple(CIFAR100.get(t, t) for t in TASKS if t not in WITH_HOLDOUT),
            seeds=5,
        ),
        Table(
            name="detection",
            caption="Transfer to VOC and COCO, by the usual schedules, as in the papers' Table 5.",
            settings=("imagenet/resnet50",),
            methods=TABLE5,
            columns=("detection", "detection,data=coco,detector=faster-rcnn"),
            seeds=1,
        ),
        Table(
            name="detection-demo",
            caption="Transfer of a small network to drawn shapes, by short schedules.",
            settings=("shapes/resnet18",),
            methods=("baseline", "mixup"),
            columns=(
                "classification",
                "detection,data=shapes-voc,iterations=300,batch=8,lr=0.002",
                f"detection,data=shapes-coco,{SMALL_FASTER_RCNN},iterations=200,batch=4,lr=0.005",
            ),
            seeds=1,
        ),
    )
}
