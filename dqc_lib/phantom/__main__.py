"""Write a phantom cohort from the command line: `python -m dqc_lib.phantom data_samples`."""

import argparse

from dqc_lib.phantom import Recipe, write_phantoms


def main() -> None:
    """Write a phantom cohort from the command line: `python -m dqc_lib.phantom data_samples`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--sites", default="sample", choices=("sample", "published"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args()
    write_phantoms(options.folder, sites=options.sites, recipe=Recipe(seed=options.seed))


if __name__ == "__main__":
    main()
