"""Write the report of finished runs: `python -m dqc_lib.report my_study build/runs/qc-1a2b3c4d --pseudonymize`."""

import argparse
from collections.abc import Sequence

from dqc_lib.cohort import read_cohort
from dqc_lib.report.reading import open_study, read_arm
from dqc_lib.report.writing import write_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of finished runs; nothing is trained."""
    parser = argparse.ArgumentParser(prog="python -m dqc_lib.report", description=__doc__)
    parser.add_argument("cohort", help="BIDS folder, or CSV in the layout of the published scripts")
    parser.add_argument("run", help="folder of the run under quality control")
    parser.add_argument("--others", nargs="*", default=[], metavar="RUN", help="folders of runs to compare it with")
    parser.add_argument("--output", default="report.html")
    parser.add_argument("--by", nargs="*", default=["sex", "age_band"], metavar="COLUMN", help="subgroups")
    parser.add_argument("--title", default="Quality control report")
    parser.add_argument("--most-images", type=int, default=6, help="eliminated images shown, at most")
    parser.add_argument("--pseudonymize", action="store_true", help="number subjects, centers and scanners")
    parser.add_argument("--key", metavar="FILE", help="new file for which pseudonym stands for whom")
    parser.add_argument("--positive", default="PD", help="word for disease in a BIDS folder")
    parser.add_argument("--negative", default="HC", help="word for control in a BIDS folder")
    parser.add_argument("--image-root", help="folder of the images of a CSV")
    parser.add_argument("--sex-codes", nargs=2, metavar=("F", "M"), help="numbers for the sex in a CSV")
    parser.add_argument("--trusted-folders", nargs="*", default=[], metavar="FOLDER", help="where else images may lie")
    options = parser.parse_args(arguments)
    codes = dict(zip(options.sex_codes or (), "FM", strict=False))
    try:
        cohort = read_cohort(
            options.cohort,
            positive=options.positive,
            negative=options.negative,
            image_root=options.image_root,
            sex_codes=codes,
            trusted_folders=options.trusted_folders,
        )
        write_report(
            options.output,
            study=open_study(cohort, options.run),
            controlled=read_arm(options.run),
            others=[read_arm(folder) for folder in options.others],
            by=options.by,
            title=options.title,
            most_images=options.most_images,
            pseudonymize=options.pseudonymize,
            key_path=options.key,
        )
    except (ValueError, TypeError, KeyError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
