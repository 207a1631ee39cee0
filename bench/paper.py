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

FEWER_MIXTURES = {"supermix": "supermix,pool=5000"}
"""How methods are spelled where a run should take a minute."""

OOD_SCORES = ("msp", "energy", "maxlogit", "odin", "knn")

LEADERBOARD = {
    "classification": ("classification:accuracy",),
    "corruption": (CIFAR100["corruption"],),
    "embedding": ("embedding", "embedding:alignment_raw", "embedding:uniformity_raw"),
    "ood": ("ood", *(f"ood:auroc_{name}" for name in ("lsun-crop", "isun", "tinyimagenet-crop"))),
}
"""Columns of tasks, where figures are published that are not of the main metrics."""

SMALL_FASTER_RCNN = "detector=faster-rcnn,size=128,rois=32"

WITH_HOLDOUT = {"temperature"}
"""Tasks that ask for training images that were held out, as the papers' recipes do not."""

R18 = "cifar100/preactresnet18"
TINY_CIFAR100 = "tinycifar100/preactresnet18-narrow"
TINY_R18 = "tinyimagenet/preactresnet18"
SMALL_IMAGES = ("cifar10/preactresnet18", "cifar10/wrn16-8", R18, "cifar100/wrn16-8", TINY_R18)
"""The columns of Tables 2 and 4."""

MULTIMIX = ("multimix", "densemultimix")
"""What the first paper proposes (arXiv 2311.05538)."""

TABLE2 = ("baseline", "manifold", "puzzlemix", "comixup", "alignmixup", "zetamixup", *MULTIMIX)
TABLE3 = (
    "baseline",
    "manifold",
    "manifold,at=pixels+block4+block8",
    "puzzlemix",
    "comixup",
    "transmix",
    "tokenmix",
    "alignmixup",
    *MULTIMIX,
    "densemultimix,at=block12",
)
TABLE5 = ("baseline", "mixup", "cutmix", "alignmixup", *MULTIMIX)
OOD = (
    "baseline",
    "mixup",
    "cutmix",
    "manifold",
    "augmix",
    "saliencymix",
    "stylemix",
    "alignmixup",
    "comixup",
    *MULTIMIX,
)
EMBEDDED = ("baseline", "alignmixup", *MULTIMIX)
INTRUDING = ("mixup", "manifold", "alignmixup", *MULTIMIX)
ATTENTION = (
    "densemultimix",
    "densemultimix,squash=softmax",
    "densemultimix,attention=cam",
    "densemultimix,attention=cam,squash=softmax",
    "densemultimix,attention=uniform",
)

KMIX = ("multiple", "multiple,base=manifold", "multiple,base=cutmix", "multiple,base=puzzlemix")
"""What the second paper proposes (arXiv 2406.01417)."""

BASES = (
    "baseline",
    *("mixup", "multiple"),
    *("manifold", "multiple,base=manifold"),
    *("cutmix", "multiple,base=cutmix"),
    *("puzzlemix", "multiple,base=puzzlemix"),
)
CHOICES = (
    *("cutmix", "cutmix,p=1"),
    *("manifold", "manifold,at=pixels+layer1+layer2+layer3"),
    *("alignmixup", "alignmixup,steps=400,tolerance=0"),
    *("puzzlemix", "puzzlemix,clean=1"),
    *("comixup", "comixup,masked=products"),
    *("saliencymix", "saliencymix,official=True"),
    *("multimix", "multimix,input_alpha=1", "multimix,alpha=1+1", "multimix,m=2"),
    *("densemultimix", "densemultimix,attention=cam", "densemultimix,attention=uniform"),
    *("densemultimix,detach=False", "densemultimix,reduction=global"),
)
"""Where papers are silent, or their code does otherwise: what we chose, and what else it could be."""

K = (
    *("mixup", "multiple,k=2", "multiple", "multiple,k=10"),
    *("puzzlemix", "multiple,base=puzzlemix,k=2", "multiple,base=puzzlemix"),
    "multiple,base=puzzlemix,k=10",
)


def panel(name: str, over: str, *variants: str) -> Table:
    """One of the first paper's Figure 4: both of its methods with each of ``variants``."""
    return Table(
        name=f"multimix-figure4{name}",
        caption=f"MultiMix (arXiv 2311.05538), Figure 4 ({name}): accuracy on CIFAR-100 by {over}.",
        settings=(R18,),
        methods=tuple(f"{method}{variant}" for method in MULTIMIX for variant in variants),
        columns=("classification:accuracy",),
    )


def kmix(
    subject: str, caption: str, *settings: str, columns: tuple[str, ...], seeds: int = 3
) -> Table:
    """One of the second paper's, in which each base stands before its k interpolations."""
    return Table(
        name=f"kmix-{subject}",
        caption=f"Multiple interpolations (arXiv 2406.01417): {caption}",
        settings=settings,
        methods=BASES,
        columns=columns,
        seeds=seeds,
        ours=KMIX,
    )


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
            "core trains in about a minute. SuperMix makes 5,000 mixtures, where 500,000 is its default.",
            settings=(TINY_CIFAR100,),
            methods=tuple(FEWER_MIXTURES.get(name, name) for name in METHODS),
            columns=(
                "classification",
                "calibration",
                "robustness",
                "embedding",
                "ood,sets=photographs+uniform+gaussian",
            ),
        ),
        Table(
            name="cifar100-tiny-epochs",
            caption="Twenty classes of CIFAR-100, by how long networks are trained.",
            settings=(TINY_CIFAR100, f"{TINY_CIFAR100},epochs=200"),
            methods=("baseline", "mixup", *MULTIMIX),
            columns=("classification",),
        ),
        Table(
            name="cifar100-tiny-choices",
            caption="Twenty classes of CIFAR-100, by what was chosen where papers are silent, or their "
            "code does otherwise.",
            settings=(TINY_CIFAR100,),
            methods=CHOICES,
            columns=("classification", "calibration:ece"),
        ),
        Table(
            name="cifar100-tiny-questions",
            caption="Twenty classes of CIFAR-100, by what was chosen where papers don't say how they "
            "asked.",
            settings=(TINY_CIFAR100,),
            methods=("baseline", "mixup", "multimix"),
            columns=(
                *(f"robustness,attacks=pgd,steps={steps}" for steps in (1, 7, 10)),
                "robustness:pgd",
                "robustness,attacks=pgd,random_start=False",
                *(f"ood,sets=photographs,score={score}:auroc" for score in OOD_SCORES),
            ),
        ),
        Table(
            name="cifar100",
            caption="All methods and tasks on CIFAR-100, by the recipe of the papers' Table 2.",
            settings=(R18,),
            methods=METHODS,
            columns=tuple(CIFAR100.get(t, t) for t in TASKS if t not in WITH_HOLDOUT),
            seeds=5,
        ),
        Table(
            name="leaderboard",
            caption="The measured leaderboard: CIFAR-100 by a tenth of the epochs of the papers' Table 2.",
            settings=(f"{R18},epochs=200",),
            methods=(
                *("baseline", "mixup", "cutmix", "manifold", "zetamixup", "alignmixup"),
                *("puzzlemix", *MULTIMIX, "multiple"),
            ),
            columns=tuple(
                column
                for task in TASKS
                if task not in WITH_HOLDOUT
                for column in LEADERBOARD.get(task, (task,))
            ),
        ),
        Table(
            name="multimix-table2",
            caption="MultiMix (arXiv 2311.05538), Table 2: accuracy on small images.",
            settings=SMALL_IMAGES,
            methods=TABLE2,
            columns=("classification:accuracy",),
            seeds=5,
            ours=MULTIMIX,
        ),
        Table(
            name="multimix-table3",
            caption="MultiMix (arXiv 2311.05538), Table 3: training speed and accuracy on ImageNet. "
            "In which blocks of a vision transformer manifold mixup mixes is ours, and that Dense "
            "MultiMix mixes its patches but not the class token, which classifies.",
            settings=("imagenet/resnet50", "imagenet/vit-small"),
            methods=TABLE3,
            columns=("cost:speed", "classification:accuracy"),
            seeds=1,
            ours=(*MULTIMIX, "densemultimix,at=block12"),
        ),
        Table(
            name="multimix-table4",
            caption="MultiMix (arXiv 2311.05538), Table 4: error under attack.",
            settings=SMALL_IMAGES,
            methods=TABLE2,
            columns=("robustness:fgsm", "robustness:pgd"),
            seeds=5,
            ours=MULTIMIX,
            without=((TINY_R18, "robustness:pgd"),),
            order="column",
        ),
        Table(
            name="multimix-table5",
            caption="MultiMix (arXiv 2311.05538), Table 5: transfer to VOC and COCO; `detection` has "
            "more columns of the same cells.",
            settings=("imagenet/resnet50",),
            methods=TABLE5,
            columns=(
                "detection:map11",
                "detection:speed",
                "detection,data=coco,detector=faster-rcnn:ap",
                "detection,data=coco,detector=faster-rcnn:speed",
            ),
            seeds=1,
            ours=MULTIMIX,
        ),
        Table(
            name="detection",
            caption="Transfer to VOC and COCO, by the usual schedules, as in the papers' Table 5.",
            settings=("imagenet/resnet50",),
            methods=TABLE5,
            columns=("detection", "detection,data=coco,detector=faster-rcnn"),
            seeds=1,
            ours=MULTIMIX,
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
        Table(
            name="multimix-ood",
            caption="MultiMix (arXiv 2311.05538), poster: out-of-distribution detection. It names "
            "neither the known classes nor the score; CIFAR-100 and the largest probability are ours.",
            settings=(R18,),
            methods=OOD,
            columns=("ood,sets=lsun-crop", "ood,sets=isun", "ood,sets=tinyimagenet-crop"),
            seeds=5,
            ours=MULTIMIX,
        ),
        Table(
            name="multimix-embedding",
            caption="MultiMix (arXiv 2311.05538), Section 4.4: alignment and uniformity on CIFAR-100. "
            "Some that it reports can't be of unit norm, so all are taken to be raw.",
            settings=(R18,),
            methods=EMBEDDED,
            columns=(
                "embedding:alignment",
                "embedding:uniformity",
                "embedding:alignment_raw",
                "embedding:uniformity_raw",
            ),
            seeds=5,
            ours=MULTIMIX,
        ),
        Table(
            name="multimix-intrusion",
            caption="MultiMix (arXiv 2311.05538), Section 4.5: intrusion distance on CIFAR-100. "
            "It does not say of which norm; what it reports is taken to be of unit norm.",
            settings=(R18,),
            methods=INTRUDING,
            columns=("intrusion:normalised", "intrusion:raw"),
            seeds=5,
            ours=MULTIMIX,
        ),
        Table(
            name="multimix-figure3",
            caption="MultiMix (arXiv 2311.05538), Figure 3: embeddings of ten classes of CIFAR-100, "
            "which the figure projection draws.",
            settings=(R18,),
            methods=EMBEDDED,
            columns=("embedding",),
            seeds=1,
        ),
        panel(
            "a",
            "the stage after which embeddings are mixed; the last one is the default",
            *(",at=layer1", ",at=layer2", ",at=layer3", ""),
        ),
        panel(
            "b",
            "mixtures per batch; the text names 1000, the default, and the others are ours",
            *(",n=10", ",n=100", "", ",n=10000"),
        ),
        panel(
            "c",
            "examples per mixture; the text names 2 and all, the default, and the others are ours",
            *(",m=2", ",m=8", ",m=32", ""),
        ),
        panel(
            "d",
            "a fixed Dirichlet parameter; the text names 1 and 0.5 to 2, the default, and the "
            "others are ours",
            *(",alpha=0.5+0.5", ",alpha=1+1", ",alpha=2+2", ""),
        ),
        Table(
            name="multimix-attention",
            caption="MultiMix (arXiv 2311.05538): accuracy of Dense MultiMix on CIFAR-100 by its "
            "attention.",
            settings=(R18,),
            methods=ATTENTION,
            columns=("classification:accuracy",),
        ),
        kmix(
            "cifar100",
            "error on CIFAR-100. Networks and recipe are those of MultiMix's Table 2; its own were "
            "not seen.",
            *(R18, "cifar100/wrn16-8"),
            columns=("classification",),
        ),
        kmix(
            "tinyimagenet",
            "error on Tiny-ImageNet, by PuzzleMix's recipe; its own was not seen.",
            "tinyimagenet/preactresnet18-stride2",
            columns=("classification",),
        ),
        kmix(
            "imagenet",
            "error on ImageNet, by CutMix's recipe; its own was not seen.",
            "imagenet/resnet50",
            columns=("classification",),
            seeds=1,
        ),
        kmix("calibration", "calibration on CIFAR-100.", R18, columns=("calibration",)),
        kmix(
            "corruption",
            "error on corrupted images of CIFAR-100.",
            R18,
            columns=("corruption,source=published",),
        ),
        Table(
            name="kmix-k",
            caption="Multiple interpolations (arXiv 2406.01417): error on CIFAR-100, and its price, "
            "by how many there are. Five is its choice, and the others are ours.",
            settings=(R18,),
            methods=K,
            columns=("classification", "cost:speed"),
        ),
        Table(
            name="kmix-variance",
            caption="Multiple interpolations (arXiv 2406.01417): variance of the gradient on "
            "CIFAR-100, by how many there are. Five is its choice, and the others are ours.",
            settings=(R18,),
            methods=K,
            columns=("variance:total", "variance:pair", "variance:interpolation"),
        ),
        kmix(
            "speech",
            "error on spoken commands.",
            "speechcommands/resnet18",
            columns=("classification",),
        ),
        kmix(
            "cub",
            "error on CUB-200-2011, from scratch, where the paper starts from ImageNet.",
            "cub/resnet50",
            columns=("classification",),
        ),
    )
}
